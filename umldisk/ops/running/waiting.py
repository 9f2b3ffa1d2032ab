"""Waiting for a guest, and what there is to say of it then."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.guest.console_log import last_lines
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import RunState, end_of, read_state
from umldisk.guest.waiting import Goal, RunWatch, Waited, await_goal

_ASK_SECONDS = 1.0
_SUPERVISOR_SECONDS = 120.0
_CONSOLE_LINES = 5


@dataclass(frozen=True, slots=True)
class WaitReport:
    """What a waiting came to.

    `status` is the exit status of a kernel that has ended, or minus the signal that killed it, None when nobody saw
    it. `console` holds the last lines of a guest that ended before the goal.
    """

    guest: str
    goal: Goal
    outcome: Waited
    seconds: float
    status: int | None = None
    console: tuple[str, ...] = ()


def _asking(state: RunState) -> Callable[[str], str]:
    return mconsole_of(state, timeout_seconds=_ASK_SECONDS).send


def wait_for_guest(
    site: Site,
    name: str,
    goal: Goal = Goal.READY,
    *,
    timeout_seconds: float | None = None,
    ask: Callable[[RunState], Callable[[str], str]] = _asking,
) -> WaitReport:
    """Wait until the guest called `name` has reached `goal`, or has ended; for its end, which may be long ago, too.

    Raises UsageError for an impossible name, NoInputError when the guest does not run, DataError and StorageError when
    what is known of its run cannot be read or its marker is not looked for any more.
    """
    began = time.monotonic()
    run_directory = site.run_directory(name)
    state = read_state(run_directory)
    if state is None or (goal is not Goal.EXIT and not state.is_alive()):
        raise NoInputError("the guest is not running", where=name, hint=f"start it: umldisk start {name}")
    outcome = await_goal(goal, RunWatch(run_directory, state, ask(state)), timeout_seconds=timeout_seconds)
    is_over = outcome is Waited.ENDED or (outcome is Waited.REACHED and goal is Goal.EXIT)
    return WaitReport(
        name,
        goal,
        outcome,
        time.monotonic() - began,
        status=_final_status(run_directory, state) if is_over else None,
        console=tuple(last_lines(run_directory, most=_CONSOLE_LINES)) if outcome is Waited.ENDED else (),
    )


def _final_status(run_directory: str, state: RunState) -> int | None:
    """Return how the run ended, once the supervisor has written it down; its last act, so that the disks are free."""
    state.supervisor.wait(_SUPERVISOR_SECONDS)
    end = end_of(run_directory, state)
    return end.status if end is not None else None
