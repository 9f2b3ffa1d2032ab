"""`umldisk stop`: guests to their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, counted, note
from umldisk.cli.sites import current_site
from umldisk.errors import UmldiskError

if TYPE_CHECKING:
    from umldisk.guest.ladder import Rung, Tried
    from umldisk.ops.running.stopping import StopReport

_HELP = """End each GUEST, as gently as it lets us, and leave its disks synced and unlocked.

\b
Four ways are tried, each for so long:
  cad   60 s  ctrl-alt-del: the guest shuts down; its file systems are clean
  halt  10 s  everything is written out, then the kernel halts
  term   5 s  SIGTERM for the kernel's main process
  kill  10 s  SIGKILL for all of its processes, as a power cut
A guest that was frozen goes on for it. Where the mconsole does not answer, only signals are left. A
guest that does not run is no failure; what a killed one left behind is put in order.

\b
Examples:
  umldisk stop blackdance
  umldisk stop --timeout cad=300 blackdance mirage
  umldisk stop --from kill blackdance

\b
Exit codes:
   0  no GUEST runs any more
   2  the arguments make no sense
  65  what is known of the guest's run cannot be read, or umldisk.toml is wrong
  66  there is no such guest
  74  a process may not be signalled, or a disk not be synced
  75  the guest does not end, is being started, or somebody else holds its disks
"""

_RUNGS = ("cad", "halt", "term", "kill")
_MOST_SECONDS = 86400 * 366


def _timeouts(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    return tuple(_timeout(value, context, parameter) for value in values)


def _timeout(text: str, context: click.Context, parameter: click.Parameter) -> tuple[str, float]:
    """Read RUNG=SECONDS."""
    rung, _, number = text.partition("=")
    try:
        seconds = float(number)
    except ValueError:
        seconds = -1.0
    if rung not in _RUNGS or not 0 <= seconds <= _MOST_SECONDS:
        wanted = f"one of {', '.join(_RUNGS)} with its seconds, such as cad=120"
        raise click.BadParameter(f"{text!r} is not {wanted}", context, parameter)
    return rung, seconds


@dataclass(frozen=True, slots=True)
class _Reports:
    guests: tuple[StopReport, ...]


@click.command(help=_HELP)
@click.argument("guests", metavar="GUEST...", nargs=-1, required=True)
@click.option("--from", "first", type=click.Choice(_RUNGS), default="cad", show_default=True, help="Begin with this.")
@click.option(
    "--timeout",
    "timeouts",
    callback=_timeouts,
    metavar="RUNG=SECONDS",
    multiple=True,
    help="How long to wait after cad, halt, term or kill; may be given for each.",
)
@dry_run_option
@report_options
@click.pass_context
def stop(
    context: click.Context,
    /,
    guests: tuple[str, ...],
    first: str,
    timeouts: tuple[tuple[str, float], ...],
    *,
    dry_run: bool,
    presenter: Presenter,
) -> None:
    """Stop one after the other, present, fail as the first that failed."""
    from umldisk.guest.ladder import Ladder, Rung
    from umldisk.ops.running.stopping import stop_guest

    ladder = Ladder.of(first=Rung(first), timeouts_seconds={Rung(rung): seconds for rung, seconds in timeouts})
    site = current_site(context)
    reports: list[StopReport] = []
    failures: list[UmldiskError] = []
    for guest in dict.fromkeys(guests):
        try:
            reports.append(stop_guest(site, guest, ladder, dry_run=dry_run))
        except UmldiskError as error:
            failures.append(error)
    presenter.show(_Reports(tuple(reports)), _lines)
    for other in failures[1:]:
        note(f"error: {other.line()}")
    if failures:
        raise failures[0]


def _lines(reports: _Reports) -> Iterator[str]:
    for report in reports.guests:
        yield from _guest_lines(report)


def _guest_lines(report: StopReport) -> Iterator[str]:
    if report.ladder is not None:
        ways = ", ".join(f"{step.rung.value} ({step.timeout_seconds:g} s)" for step in report.ladder.steps)
        yield f"{report.guest}: would be stopped (PID {report.pid}): {ways}"
        return
    if report.needed is None:
        yield f"{report.guest}: is not running"
    else:
        yield f"{report.guest}: stopped by {_ways()[report.needed]} in {report.seconds:.1f} s{_status(report.status)}"
        yield from (f"  {_tried_line(tried)}" for tried in report.tried[:-1])
    if report.killed:
        yield f"  {counted(report.killed, 'process')} had outlived the kernel and had to be killed"
    yield from (f"  removed {path}" for path in report.removed)
    if report.needed is not None:
        yield from (f"  {line}" for line in _clean_lines(report))


def _ways() -> dict[Rung, str]:
    from umldisk.guest.ladder import Rung

    return {Rung.CAD: "ctrl-alt-del", Rung.HALT: "halt", Rung.TERM: "SIGTERM", Rung.KILL: "SIGKILL"}


def _status(status: int | None) -> str:
    if status is None:
        return ""
    return f", exit status {status}" if status >= 0 else f", ended by signal {-status}"


def _tried_line(tried: Tried) -> str:
    if tried.reason is not None:
        return f"{tried.rung.value}: skipped: {tried.reason}"
    return f"{tried.rung.value}: no effect in {tried.seconds:.1f} s"


def _clean_lines(report: StopReport) -> Iterator[str]:
    unclean = [disk.drive for disk in report.disks if disk.clean is False]
    if unclean:
        yield f"not left clean, to be checked or replayed by the next start: {', '.join(unclean)}"
    elif report.clean:
        yield "its file systems are clean"
