"""`umldisk checkpoint export`: a checkpoint as a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import CHECKPOINT, GUEST, drive_option
from umldisk.cli.options import FILE, dry_run_option, force_option, report_options
from umldisk.cli.output import Presenter, counted, human_bytes
from umldisk.cli.sites import current_site
from umldisk.cli.streams import binary_stdout
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.ops.checkpoints.exporting import ExportOptions, ExportReport

STDOUT = "-"

_HELP = """Write CHECKPOINT of GUEST to the file OUT, as an image of the disk.

OUT is sparse, is checked chunk by chunk, and appears when it is complete. With - as OUT the image
goes to stdout. With --cow, OUT is the smallest COW file that shows the checkpoint over BACKING.

\b
Examples:
  umldisk checkpoint export blackdance 12 var_fs.12
  umldisk checkpoint export --cow guests/blackdance/var_fs blackdance latest var_cow.latest

\b
Exit codes:
   0  done
   2  an argument makes no sense
  65  what is stored is damaged, BACKING has another size, or umldisk.toml is wrong
  66  there is no such checkpoint, it was reclaimed, or BACKING is missing
  73  OUT exists or cannot be made
  74  reading or writing failed
  75  a guest or another umldisk uses BACKING or OUT
"""


@click.command(help=_HELP)
@GUEST
@CHECKPOINT
@click.argument("out", metavar="OUT", type=FILE)
@click.option("--cow", "cow_over", type=FILE, metavar="BACKING", help="Write a COW file over this backing file.")
@drive_option
@force_option
@dry_run_option
@report_options
@click.pass_context
def export(
    context: click.Context, /, guest: str, name: str, out: str, *, drive: str | None, presenter: Presenter, **flags: Any
) -> None:
    """Write to a file or to stdout, present."""
    from umldisk.ops.checkpoints.exporting import export_named

    site, progress = current_site(context), presenter.progress
    if out == STDOUT:
        _refuse_for_stdout(**flags)
        with binary_stdout(hint="redirect stdout, or name a file as OUT") as stream:
            report = export_named(site, guest, name, stream, drive=drive, progress=progress)
        if presenter.as_json:
            presenter.show(report, _lines, stream=sys.stderr)
        return
    report = export_named(site, guest, name, out, drive=drive, options=_options(**flags), progress=progress)
    presenter.show(report, _lines)


def _options(*, cow_over: str | None, force: bool, dry_run: bool) -> ExportOptions:
    from umldisk.ops.checkpoints.exporting import ExportOptions

    return ExportOptions(cow_over=cow_over, replace=force, dry_run=dry_run)


def _refuse_for_stdout(*, cow_over: str | None, dry_run: bool, force: bool) -> None:
    given = {"--cow": cow_over is not None, "--dry-run": dry_run, "--force": force}
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(f"{option} needs a file as OUT", found=STDOUT)


def _lines(report: ExportReport) -> Iterator[str]:
    kind = "a disk" if report.cow is None else "a COW file for a disk"
    verb = "would be " if report.dry_run else ""
    size = human_bytes(report.size_bytes)
    yield f"{report.output}: {verb}{kind} of {size}, {report.guest} {report.drive} as of checkpoint {report.number}"
    if report.cow is not None:
        changed = f"{human_bytes(report.cow.changed_bytes)} changed, in {counted(report.cow.runs, 'run')}"
        yield f"  over {report.cow.base}: {changed}"
