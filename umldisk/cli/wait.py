"""`umldisk wait`: until a guest is ready, or at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import Seconds, report_options
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE, StorageError

if TYPE_CHECKING:
    from umldisk.ops.running.waiting import WaitReport

_HELP = """Wait until GUEST is ready, its mconsole answers, or it has ended.

Ready is a guest when it has written its marker on the console, as those do that `build` made; for
others it counts that the mconsole answers. Without --timeout the waiting ends with the guest.

\b
Examples:
  umldisk wait --timeout 60 blackdance
  umldisk wait --for exit blackdance

\b
Exit codes:
   0  what was waited for is there; for exit, whatever the guest's own exit status
   1  it was not in time
   2  the arguments make no sense
  65  what is known of the guest's run cannot be read
  66  the guest is not running, or there is none
  74  the guest ended first; its last words are in the hint
"""


@click.command(help=_HELP)
@click.argument("guest", metavar="GUEST")
@click.option(
    "--for",
    "goal_name",
    type=click.Choice(("ready", "mconsole", "exit")),
    default="ready",
    show_default=True,
    help="What is waited for.",
)
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(),
    metavar="SECONDS",
    help="Wait no longer than this; by default as long as it takes.",
)
@report_options
@click.pass_context
def wait(
    context: click.Context,
    /,
    guest: str,
    goal_name: str,
    timeout_seconds: float | None,
    *,
    presenter: Presenter,
) -> None:
    """Wait, present, exit as the outcome says."""
    from umldisk.guest.waiting import Goal, Waited
    from umldisk.ops.running.waiting import wait_for_guest

    report = wait_for_guest(current_site(context), guest, Goal(goal_name), timeout_seconds=timeout_seconds)
    presenter.show(report, _lines)
    if report.outcome is Waited.ENDED:
        raise StorageError(
            "the guest ended before " + ("it was ready" if report.goal is Goal.READY else "its mconsole answered"),
            where=guest,
            found=_status(report.status),
            hint=f"its console ended with: {' | '.join(report.console)}" if report.console else None,
        )
    if report.outcome is Waited.TIMED_OUT:
        context.exit(FINDINGS_EXIT_CODE)


def _lines(report: WaitReport) -> Iterator[str]:
    from umldisk.guest.waiting import Goal, Waited

    if report.outcome is Waited.TIMED_OUT:
        said = "still runs" if report.goal is Goal.EXIT else f"not yet there: {report.goal.value}"
        yield f"{report.guest}: {said}, after {report.seconds:.1f} s"
    elif report.outcome is Waited.REACHED and report.goal is Goal.EXIT:
        yield f"{report.guest}: has ended, {_status(report.status)}"
    elif report.outcome is Waited.REACHED:
        what = "is ready" if report.goal is Goal.READY else "the mconsole answers"
        yield f"{report.guest}: {what}, after {report.seconds:.1f} s"


def _status(status: int | None) -> str:
    if status is None:
        return "exit status unknown"
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
