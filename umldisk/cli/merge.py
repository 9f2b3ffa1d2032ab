"""`umldisk merge`: what the guest sees, as an image; a new one, the backing file itself, or a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, TypedDict, Unpack

import click

from umldisk.cli.options import FILE, Writing, access_options, force_option, report_options, writing_options
from umldisk.cli.output import Presenter, counted, human_bytes
from umldisk.cli.streams import binary_stdout
from umldisk.errors import DataError, UsageError

if TYPE_CHECKING:
    from umldisk.cow.file import Access
    from umldisk.cow.inplace import InPlaceReport, SiblingPolicy
    from umldisk.cow.merging import MergeReport
    from umldisk.cow.plan import Totals

STDOUT = "-"

_HELP = """Merge COW with its backing file into the image NEW.

NEW gets what the guest sees, byte for byte, and the mode and owner of the backing file. It appears
when it is complete. With - as NEW the image goes to stdout.

With --destructive the changes go into the backing file in place, and there is no NEW. An interrupted
merge is finished by the same command. COW stays usable; it is emptied with --reset.

\b
Examples:
  umldisk merge root_cow new_root_fs
  umldisk merge -d --reset root_cow
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  options that exclude each other
  65  COW is damaged or does not fit its backing file, or others stand on that file
  66  COW or its backing file is missing or is no disk image
  73  NEW exists or cannot be made
  74  reading or writing failed; the same command finishes an interrupted merge
  75  a guest or another umldisk uses one of the files
"""


class _Flags(TypedDict):
    """The options that are one kind of merge's own, or mean something else in each."""

    verify: bool
    sparse: bool
    force: bool
    reset: bool
    keep_siblings: bool
    orphan_siblings: bool


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@click.argument("new", type=FILE, required=False)
@click.option("-d", "--destructive", is_flag=True, help="Merge into the backing file, in place.")
@click.option("--reset", is_flag=True, help="With -d: leave COW empty, on the merged backing file, ready to boot.")
@click.option("--keep-siblings", is_flag=True, help="With -d: save what other COW files on the backing file show.")
@click.option("--orphan-siblings", is_flag=True, help="With -d: give up other COW files on the backing file.")
@click.option("--verify", is_flag=True, help="Read the result again and compare.")
@click.option("--sparse/--no-sparse", default=True, help="Make holes of zeros (the default), or allocate everything.")
@access_options
@force_option
@writing_options
@report_options
def merge(
    cow: str,
    new: str | None,
    *,
    destructive: bool,
    access: Access,
    writing: Writing,
    presenter: Presenter,
    **flags: Unpack[_Flags],
) -> None:
    """Decide which of the three merges is meant."""
    job = _Job(cow, access, writing, presenter, flags)
    if destructive:
        _refuse_for_destructive(new, flags)
        job.into_backing()
        return
    output = _require_new(new, flags)
    if output == STDOUT and not writing.dry_run:
        job.to_stdout()
    else:
        job.into_image(output)


def _refuse_for_destructive(new: str | None, flags: _Flags) -> None:
    if new is not None:
        raise UsageError("--destructive takes no NEW: the changes go into the backing file", found=new)
    if flags["keep_siblings"] and flags["orphan_siblings"]:
        raise UsageError("--keep-siblings and --orphan-siblings exclude each other")
    if flags["force"]:
        raise UsageError("--force replaces NEW, which --destructive does not have")


def _require_new(new: str | None, flags: _Flags) -> str:
    if new is None:
        raise UsageError("missing argument 'NEW'", hint="name the image to write, or merge in place with --destructive")
    own = {
        "--reset": flags["reset"],
        "--keep-siblings": flags["keep_siblings"],
        "--orphan-siblings": flags["orphan_siblings"],
    }
    for option, given in own.items():
        if given:
            raise UsageError(f"{option} goes with --destructive only")
    if new == STDOUT and flags["verify"]:
        raise UsageError("--verify cannot read back what went to stdout")
    return new


@dataclass(frozen=True, slots=True)
class _Job:
    """One merge that was asked for; its methods are the three ways to do it."""

    cow: str
    access: Access
    writing: Writing
    presenter: Presenter
    flags: _Flags

    def into_backing(self) -> None:
        from umldisk.cow.inplace import InPlaceOptions, merge_into_backing

        options = InPlaceOptions(
            reset=self.flags["reset"],
            sparse=self.flags["sparse"],
            sync=self.writing.sync,
            verify=self.flags["verify"],
            dry_run=self.writing.dry_run,
            siblings=_policy(self.flags),
        )
        report = merge_into_backing(self.cow, access=self.access, options=options, progress=self.presenter.progress)
        self.presenter.show(report, _in_place_lines)

    def into_image(self, new: str) -> None:
        from umldisk.cow.merging import MergeOptions
        from umldisk.cow.merging import merge as merge_into_image

        options = MergeOptions(
            replace=self.flags["force"],
            sparse=self.flags["sparse"],
            sync=self.writing.sync,
            verify=self.flags["verify"],
            dry_run=self.writing.dry_run,
        )
        report = merge_into_image(self.cow, new, access=self.access, options=options, progress=self.presenter.progress)
        self.presenter.show(report, _image_lines)

    def to_stdout(self) -> None:
        from umldisk.cow.merging import merge_to_stream

        with binary_stdout(hint="redirect stdout, or name a file as NEW") as stream:
            _refuse_inputs_as_stdout(self.cow, self.access, stream)
            report = merge_to_stream(self.cow, stream, access=self.access, progress=self.presenter.progress)
        if self.presenter.as_json:
            self.presenter.show(report, _image_lines, stream=sys.stderr)


def _policy(flags: _Flags) -> SiblingPolicy:
    from umldisk.cow.inplace import SiblingPolicy

    if flags["keep_siblings"]:
        return SiblingPolicy.KEEP
    return SiblingPolicy.ORPHAN if flags["orphan_siblings"] else SiblingPolicy.REFUSE


def _refuse_inputs_as_stdout(cow: str, access: Access, stream: BinaryIO) -> None:
    """Refuse `merge COW - >>BACKING`, where the shell has opened an input as our stdout."""
    from umldisk.cow.file import CowFile
    from umldisk.cow.merging import stack_of
    from umldisk.system.files import identify

    output = identify(f"/proc/self/fd/{stream.fileno()}")
    with CowFile.open(cow, access=replace(access, lock=False)) as source:
        for layer in stack_of(source.layer):
            if layer.disk.identity == output:
                raise DataError("the output is one of the inputs", where="standard output", found=layer.disk.path)


def _image_lines(report: MergeReport) -> Iterator[str]:
    size = human_bytes(report.size_bytes)
    where = "stdout" if report.output == STDOUT else report.output
    if report.dry_run:
        yield f"{where}: would be a disk of {size} from {report.cow} over {report.backing}"
        yield f"  {_plan(report.totals, 'left as holes')}"
        return
    yield f"{where}: a disk of {size} from {report.cow} over {report.backing}"
    shared = f"shared with {report.backing}, " if report.shared else ""
    verified = ", verified" if report.verified else ""
    yield f"  {shared}{_plan(report.totals, 'left as holes')}{verified}"


def _in_place_lines(report: InPlaceReport) -> Iterator[str]:
    verb = "would get" if report.dry_run else "got"
    resumed = ", finishing an interrupted merge" if report.resumed else ""
    yield f"{report.backing}: {verb} the changes of {report.cow}{resumed}"
    verified = ", verified" if report.verified else ""
    yield f"  {_plan(report.totals, 'punched')}{verified}"
    for sibling in report.siblings:
        yield f"  {sibling}: {'would go' if report.dry_run else 'goes'} on seeing what it saw"
    if report.reset:
        yield f"  {report.cow}: {'would be' if report.dry_run else 'is'} empty, on the merged backing file"


def _plan(totals: Totals, zeros: str) -> str:
    shared = f", {human_bytes(totals.shared_bytes)} of the COW file shared" if totals.shared_bytes else ""
    copied = f"{human_bytes(totals.copied_bytes)} in {counted(totals.runs, 'run')} copied"
    return f"{copied}{shared}, {human_bytes(totals.punched_bytes)} {zeros}"
