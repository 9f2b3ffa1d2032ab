"""`umldisk reset`: root and home as they were built, tmp and swap new."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import GUEST, lock_wait_option
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, human_bytes
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from umldisk.ops.restoring.reporting import RestoreReport

_HELP = """Discard what GUEST changed on its drives: root and home as built, tmp and swap new.

By default these are all drives with a COW file but var, which checkpoints are for, and tmp and swap.
Naming a DRIVE resets that one, var included. The old files are moved to the site's evidence/, or
with --now removed. Everything new is made and checked first; a failure leaves the guest as it was,
and a reset that was cut off is finished by the same command.

\b
Examples:
  umldisk reset --dry-run blackdance
  umldisk reset blackdance
  umldisk reset --now blackdance tmp swap

\b
Exit codes:
   0  done
   2  there is no such drive, or the arguments make no sense
  65  a base was changed, or umldisk.toml is wrong
  66  there is no such guest, or one of its disks or its manifest is missing
  73  the evidence or the disks cannot be made
  74  reading or writing failed
  75  the guest runs, or another umldisk uses its disks or the store
  76  the recorded history is broken
"""


@click.command(help=_HELP)
@GUEST
@click.argument("drives", metavar="[DRIVE]...", nargs=-1)
@click.option("--now", is_flag=True, help="Remove the old files instead of keeping them as evidence.")
@click.option("--quick", is_flag=True, help="Look at size and mtime of the bases alone instead of reading all of them.")
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def reset(
    context: click.Context,
    /,
    guest: str,
    drives: tuple[str, ...],
    *,
    now: bool,
    quick: bool,
    lock_wait_seconds: float,
    dry_run: bool,
    presenter: Presenter,
) -> None:
    """Parse, reset, present."""
    from umldisk.ops.restoring.holding import RestoreOptions
    from umldisk.ops.running.reset import reset_guest

    options = RestoreOptions(dry_run=dry_run, lock_wait_seconds=lock_wait_seconds, glance=quick)
    site = current_site(context)
    report = reset_guest(site, guest, drives, now=now, options=options, progress=presenter.progress)
    presenter.show(report, _lines)


def _lines(report: RestoreReport) -> Iterator[str]:
    verb = "would be reset" if report.dry_run else "reset"
    yield f"{report.guest}: {verb}{' (an interrupted reset is finished)' if report.resumed else ''}"
    yield from (f"  {step}" for step in report.steps)
    if report.removed:
        lost_bytes = sum(file.changed_bytes for file in report.removed)
        yield f"{human_bytes(lost_bytes)} of changes {'would be' if report.dry_run else 'are'} lost"
        yield from (f"  {file.name}: {human_bytes(file.changed_bytes)}" for file in report.removed)
    if report.kept and not report.dry_run:
        yield f"the old files are evidence, in {report.evidence}"
        yield from (f"  {file.sha256}  {file.name}" for file in report.kept)
        yield f"  {report.sums_sha256}  SHA256SUMS"
