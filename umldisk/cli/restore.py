"""`umldisk restore`: a guest after it was broken into."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import GUEST, lock_wait_option
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, human_bytes
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.ops.restoring.planning import Wish
    from umldisk.ops.restoring.reporting import RestoredDrive, RestoreReport

_HELP = """Bring GUEST back: /var from CHECKPOINT, root and home as they were built, tmp and swap new.

CHECKPOINT is a number, latest (the default), or a time: the newest good one at or before it. What
the guest had is moved to the site's evidence/ and never removed. Everything new is made and checked
first; a failure leaves the guest as it was, and a restore that was cut off is finished by the same
command.

\b
Examples:
  umldisk restore --dry-run blackdance
  umldisk restore blackdance
  umldisk restore blackdance 12
  umldisk restore --at '2026-11-20 03:15' --drive var blackdance

\b
Exit codes:
   0  done
   2  there is no such drive, or the arguments make no sense
  65  a base was changed, or what is stored is damaged; umldisk.toml is wrong
  66  there is no such guest or checkpoint
  73  the evidence or the disks cannot be made
  74  reading or writing failed
  75  the guest runs, or another umldisk uses its disks or the store
  76  the recorded history is broken
"""


@click.command(help=_HELP)
@GUEST
@click.argument("name", metavar="[CHECKPOINT]", required=False)
@click.option("--at", metavar="TIME", help="The newest good checkpoints at or before this time.")
@click.option("--drive", "drives", metavar="DRIVE", multiple=True, help="Only this drive; may be given several times.")
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def restore(
    context: click.Context,
    /,
    guest: str,
    name: str | None,
    at: str | None,
    drives: tuple[str, ...],
    *,
    lock_wait_seconds: float,
    dry_run: bool,
    presenter: Presenter,
) -> None:
    """Parse, restore, present."""
    from umldisk.ops.restoring.holding import RestoreOptions
    from umldisk.ops.restoring.restore import restore_guest

    wish, options = _wish(name, at, drives), RestoreOptions(dry_run=dry_run, lock_wait_seconds=lock_wait_seconds)
    report = restore_guest(current_site(context), guest, wish, options=options, progress=presenter.progress)
    presenter.show(report, _lines)


def _wish(name: str | None, at: str | None, drives: tuple[str, ...]) -> Wish:
    from umldisk.ops.checkpoints.naming import LATEST, parse_name, parse_time
    from umldisk.ops.restoring.planning import Wish

    if name is not None and at is not None:
        raise UsageError("--at chooses a checkpoint; it does not go with one that is named", found=name)
    chosen = parse_name(name or LATEST)
    return Wish(chosen.number, chosen.at if at is None else parse_time(at), drives)


def _lines(report: RestoreReport) -> Iterator[str]:
    verb = "would be restored" if report.dry_run else "restored"
    yield f"{report.guest}: {verb}{' (an interrupted restore is finished)' if report.resumed else ''}"
    yield from (f"  {step}" for step in report.steps)
    if report.dry_run:
        return
    yield from (line for drive in report.drives for line in _made_lines(drive))
    if report.kept:
        yield f"the old files are evidence, in {report.evidence}"
        yield from (f"  {file.sha256}  {file.name}" for file in report.kept)
        yield f"  {report.sums_sha256}  SHA256SUMS"
        yield "what differs in them from what came back:"
        yield f"  umldisk changes {shlex.quote(report.evidence)}"
    yield "start it with:"
    yield f"  umldisk start {report.guest}"


def _made_lines(drive: RestoredDrive) -> Iterator[str]:
    if drive.digest:
        yield f"  {drive.name}: digest {drive.digest}"
    if drive.assembled:
        parts = drive.assembled
        yield (
            f"  {drive.name}: {human_bytes(parts.fetched_bytes)} from the store, "
            f"{human_bytes(parts.reused_bytes)} from the disk that was there"
        )
