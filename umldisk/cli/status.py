"""`umldisk status`: how the guests are, and for monitoring whether the nightly job does its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import age
from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE

if TYPE_CHECKING:
    from umldisk.cow.findings import Finding
    from umldisk.ops.running.status import GuestStatus, SiteStatus
    from umldisk.ops.running.status_disks import DiskStatus, LastCheckpoint
    from umldisk.ops.watching import StatusReport

_HELP = """Show how all guests are, one a line, or all about GUEST, its disks and what is wrong with them.

Memory is what the guest has in use, and what it was given; changed is what the COW files hold,
allocated what all files of the guest take on the host; checkpoint is how old the newest good one is.
Nothing is changed, and a running guest is not held up.

With --plugin or --max-age the answer is that of a monitoring plugin: one line, with performance data
after the bar, whether the newest good checkpoint of GUEST, or of every guest that has any, is recent.
Older than --max-age is a warning; older than twice that, or none at all, is critical.

\b
Examples:
  umldisk status blackdance
  umldisk status --max-age 26h blackdance
"""

_EPILOG = """\b
Exit codes:
   0  no finding is an error; OK
   1  at least one finding is an error; WARNING
   2  an argument makes no sense; CRITICAL
  65  umldisk.toml is wrong; of a plugin also: the catalog is damaged
  66  there is no such guest; of a plugin: there is a store but no catalog: umldisk checkpoint rebuild
  74  reading failed
  75  another process keeps the catalog
"""

_DEFAULT_MAX_AGE = "26h"
_COLUMNS = ("guest", "state", "pid", "umid", "uptime", "memory", "changed", "allocated", "checkpoint", "findings")
_DISK_COLUMNS = ("drive", "file", "size", "changed", "allocated", "backing file", "locked by", "checkpoint")


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("guest", metavar="[GUEST]", required=False)
@click.option("--plugin", is_flag=True, help="Answer as a monitoring plugin; so do the next two.")
@click.option("--max-age", metavar="AGE", help="A number with s, m, h or d; 26h when only --plugin is given.")
@click.option("--drive", "drives", metavar="DRIVE", multiple=True, help="A drive; by default var. May be given again.")
@report_options
@click.pass_context
def status(
    context: click.Context,
    /,
    guest: str | None,
    plugin: bool,
    max_age: str | None,
    drives: tuple[str, ...],
    *,
    presenter: Presenter,
) -> None:
    """Look, or judge; present."""
    if plugin or max_age is not None or drives:
        context.exit(_judge(context, guest, _DEFAULT_MAX_AGE if max_age is None else max_age, drives, presenter))
    from umldisk.ops.running.status import site_status

    report = site_status(current_site(context), guest)
    presenter.show(report, _lines_of_one if guest is not None else _lines_of_all)
    if not report.ok:
        context.exit(FINDINGS_EXIT_CODE)


# -- a monitoring plugin ----------------------------------------------------------------------------------------------


def _judge(
    context: click.Context, guest: str | None, max_age: str, drives: tuple[str, ...], presenter: Presenter
) -> int:
    from umldisk.ops.nightly import parse_age
    from umldisk.ops.watching import judge_checkpoints

    report = judge_checkpoints(current_site(context), guest, drives=drives, max_age=parse_age(max_age))
    presenter.show(report, _plugin_lines)
    return report.status


def _plugin_lines(report: StatusReport) -> Iterator[str]:
    yield report.line


# -- tables -----------------------------------------------------------------------------------------------------------


def _lines_of_all(report: SiteStatus) -> Iterator[str]:
    yield from _guest_table(report.guests)
    yield from _finding_lines(report.findings)


def _lines_of_one(report: SiteStatus) -> Iterator[str]:
    yield from _guest_table(report.guests)
    for guest in report.guests:
        yield ""
        yield f"in {guest.directory}:"
        yield from table(
            [_DISK_COLUMNS, *(_disk_row(disk, guest.directory) for disk in guest.disks)], right=(2, 3, 4, 7)
        )
        yield from _finding_lines([*guest.findings, *report.findings])


def _guest_table(guests: Iterable[GuestStatus]) -> list[str]:
    rows = [_guest_row(guest) for guest in guests]
    return table([_COLUMNS, *rows], right=(2, 4, 6, 7, 8)) if rows else ["no guests"]


def _guest_row(guest: GuestStatus) -> tuple[str, ...]:
    return (
        guest.guest,
        _state(guest),
        "-" if guest.pid is None else str(guest.pid),
        guest.umid or "-",
        "-" if guest.uptime_seconds is None else age(guest.uptime_seconds),
        _memory(guest),
        human_bytes(guest.changed_bytes),
        human_bytes(guest.allocated_bytes),
        _checkpoint(guest.checkpoint),
        _counts(guest.findings),
    )


def _state(guest: GuestStatus) -> str:
    if guest.state.value != "ended" or guest.exit_status is None:
        return guest.state.value
    if guest.exit_status >= 0:
        return f"ended with status {guest.exit_status}"
    try:
        return f"ended by {signal.Signals(-guest.exit_status).name}"
    except ValueError:
        return f"ended by signal {-guest.exit_status}"


def _memory(guest: GuestStatus) -> str:
    sizes = (guest.resident_bytes, guest.memory_bytes)
    return " of ".join("?" if size is None else human_bytes(size) for size in sizes) if any(sizes) else "-"


def _checkpoint(last: LastCheckpoint | None) -> str:
    return "none" if last is None else age(last.age_seconds)


def _counts(findings: Iterable[Finding]) -> str:
    found = [finding.severity.value for finding in findings]
    return ", ".join(counted(found.count(kind), kind) for kind in dict.fromkeys(found)) or "none"


def _disk_row(disk: DiskStatus, directory: str) -> tuple[str, ...]:
    holder = disk.locked_by
    file = disk.path.removeprefix(os.path.join(directory, ""))
    return (
        disk.drive + (" (thrown away)" if disk.thrown_away else ""),
        file if disk.exists else f"{file} (not there)",
        _size(disk.size_bytes),
        _size(disk.changed_bytes),
        _size(disk.allocated_bytes),
        disk.backing_state.value if disk.backing_state else "-",
        "-" if holder is None else "somebody" if holder.pid is None else f"PID {holder.pid}",
        _checkpoint(disk.checkpoint),
    )


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else human_bytes(size_bytes)


def _finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    for finding in findings:
        where = "" if finding.where is None else f" ({finding.where})"
        yield f"{finding.severity.value}: {finding.code}: {finding.message}{where}"
        if finding.hint:
            yield f"  hint: {finding.hint}"
