"""`umldisk build`: a guest's disks from a base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.options import dry_run_option, force_option, report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from umldisk.config.site import Site
    from umldisk.ops.check_build import BuildCheck, CheckedDrive
    from umldisk.ops.provision import BuildOptions, BuildReport, BuiltDrive

_HELP = """Make the disks of GUEST: root, var, home, tmp and swap.

The disks are sparse files below the site's guests/GUEST, with a manifest of all that is on them.
umldisk.toml says what the guest is made of; without it the embedded base (busybox) is taken.
Neither root nor a mount is needed, and the same inputs give the same bytes. Printed last is the
command that boots the guest.

\b
A base is one of
  busybox                      the embedded one
  debian:SUITE, ubuntu:SUITE   bootstrapped with mmdebstrap, and kept in the site's cache/
  FILE                         a tar archive or an ext2/3/4 image, also compressed
  DIR                          a directory
  -                            a tar archive on standard input

\b
Examples:
  umldisk build blackdance
  umldisk build --base debian:bookworm mirage
  docker export web | umldisk build --base - trancefer
  umldisk build --check blackdance

With --force, existing disks are replaced once the new ones are complete. COW files hold a guest's
own work: they are kept, together with the disks they belong to, in guests/GUEST/replaced-N.

\b
Exit codes:
   0  done
   1  --check or --verify-reproducible found differences
   2  GUEST is no name for a guest, or the options contradict each other
  65  the base is damaged, cannot be kept as it is or does not fit; umldisk.toml is wrong
  66  the base or a program is missing
  73  the guest has disks already, or its directory cannot be made
  74  reading, writing or a program failed
  75  the guest runs, or is being built
"""

_EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"


@click.command(help=_HELP)
@click.argument("guest", metavar="GUEST")
@click.option("--base", metavar="BASE", help="Build from BASE instead of the one in umldisk.toml.")
@click.option("--refresh", is_flag=True, help="Bootstrap the distribution anew instead of taking it from the cache.")
@click.option("--verify-reproducible", "verify", is_flag=True, help="Build twice, and compare before publishing.")
@click.option("--create-user", is_flag=True, help="As root: make the user that the disks belong to, if it is missing.")
@click.option("--check", "check_only", is_flag=True, help="Build nothing; compare the disks with their manifest.")
@force_option
@dry_run_option
@report_options
@click.pass_context
def build(context: click.Context, /, guest: str, *, check_only: bool, presenter: Presenter, **options: Any) -> None:
    """Parse, build or check, present."""
    site = current_site(context)
    same = _check(site, guest, options, presenter) if check_only else _build(site, guest, options, presenter)
    if not same:
        context.exit(FINDINGS_EXIT_CODE)


def _build(site: Site, guest: str, options: dict[str, Any], presenter: Presenter) -> bool:
    from umldisk.ops.provision import build_guest

    report = build_guest(site, guest, _options(**options), progress=presenter.progress)
    presenter.show(report, _lines)
    return not report.differences


def _check(site: Site, guest: str, options: dict[str, Any], presenter: Presenter) -> bool:
    from umldisk.ops.check_build import check_build

    _refuse_with_check(options)
    checked = check_build(site, guest, progress=presenter.progress)
    presenter.show(checked, _check_lines)
    return checked.same


def _options(*, base: str | None, **flags: bool) -> BuildOptions:
    from umldisk.config.settings import is_named_base
    from umldisk.ops.provision import BuildOptions

    if base == "":
        raise UsageError("--base names nothing")
    place = base if base is None or is_named_base(base) else os.path.abspath(base)
    return BuildOptions(base=place, source_date_epoch=_source_date_epoch(), **flags)


def _source_date_epoch() -> int | None:
    text = os.environ.get(_EPOCH_VARIABLE, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 11:
        raise UsageError(f"{_EPOCH_VARIABLE} is no time", expected="seconds since 1970", found=text)
    return int(text)


def _refuse_with_check(options: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given:
        spelled = given[0].replace("--verify", "--verify-reproducible")
        raise UsageError(f"--check builds nothing and takes no {spelled}")


def _lines(report: BuildReport) -> Iterator[str]:
    if report.differences:
        yield f"{report.guest}: two builds of the same inputs differ; nothing was put in place"
        for difference in report.differences:
            yield f"  {difference.file} from byte {difference.offset} on"
        return
    verb = "would make " if report.dry_run else ""
    yield f"{report.guest}: {verb}{counted(len(report.drives), 'disk')} in {report.directory}"
    yield from table((_row(drive) for drive in report.drives), right=(4,))
    if report.differences is not None:
        yield "a second build gave the same bytes"
    if report.set_aside:
        yield f"the former COW files and their bases are in {report.set_aside}"
    yield from (f"note: {remark}" for remark in report.remarks)
    yield "start it with:"
    yield f"  umldisk start {report.guest}"


def _row(drive: BuiltDrive) -> tuple[str, ...]:
    name = os.path.basename(drive.path)
    used = "" if drive.allocated_bytes is None else f"{human_bytes(drive.allocated_bytes)} on disk"
    place = drive.mount_point or drive.name
    return ("", name, drive.device, place, human_bytes(drive.size_bytes), used)


def _check_lines(checked: BuildCheck) -> Iterator[str]:
    verdict = "as built" if checked.same else "not as built"
    yield f"{checked.guest}: the disks are {verdict}"
    yield from table(_checked_row(drive) for drive in checked.drives)
    for change in checked.changes:
        details = f" ({', '.join(change.fields)})" if change.fields else ""
        yield f"  {change.kind.value:8} {change.path}{details}"


def _checked_row(drive: CheckedDrive) -> tuple[str, ...]:
    return ("", drive.file, drive.state.value)
