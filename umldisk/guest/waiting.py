"""Waiting for something to come of a guest: that it is ready, that its mconsole answers, that it ends.

The end is waited for on a pidfd, with no delay; in the pauses between, the ready marker or the mconsole is looked at.
Whatever is waited for, the guest's end ends the waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from umldisk.errors import StorageError, UmldiskError
from umldisk.guest.state import RunState, ready_at

_GLANCE_SECONDS = 0.1
_LONG_SECONDS = 3600.0


class Goal(Enum):
    """What is waited for. READY is the marker on the console, or for guests that write none the mconsole."""

    READY = "ready"
    MCONSOLE = "mconsole"
    EXIT = "exit"


class Waited(Enum):
    """How a waiting ended; ENDED: the guest did before what was waited for was there."""

    REACHED = "reached"
    TIMED_OUT = "timed out"
    ENDED = "ended"


class Watch(Protocol):
    """What waiting sees of a guest, and of the time."""

    def reached(self, goal: Goal) -> bool:
        """Whether READY or MCONSOLE is there."""

    def ended(self, timeout_seconds: float) -> bool:
        """Wait for the guest's end; False when it still runs."""

    def now_seconds(self) -> float:
        """Return a clock's time."""


def await_goal(goal: Goal, watch: Watch, *, timeout_seconds: float | None = None) -> Waited:
    """Wait until `goal` is reached, the guest has ended, or the time is over (None: never)."""
    deadline = None if timeout_seconds is None else watch.now_seconds() + timeout_seconds
    pause_seconds = _LONG_SECONDS if goal is Goal.EXIT else _GLANCE_SECONDS
    while True:
        if goal is not Goal.EXIT and watch.reached(goal):
            return Waited.REACHED
        left_seconds = pause_seconds if deadline is None else deadline - watch.now_seconds()
        if watch.ended(max(0.0, min(left_seconds, pause_seconds))):
            return _after_the_end(goal, watch)
        if deadline is not None and watch.now_seconds() >= deadline:
            return Waited.TIMED_OUT


def _after_the_end(goal: Goal, watch: Watch) -> Waited:
    """A guest may have been ready and have ended since the last glance."""
    if goal is Goal.EXIT or (goal is Goal.READY and watch.reached(goal)):
        return Waited.REACHED
    return Waited.ENDED


class RunWatch:
    """The watch on one run of a guest."""

    def __init__(self, run_directory: str, state: RunState, ask: Callable[[str], str]) -> None:
        self._run_directory = run_directory
        self._state = state
        self._ask = ask

    def reached(self, goal: Goal) -> bool:
        """Whether the marker was seen, or the mconsole answers.

        Raises StorageError when nobody looks for the marker any more, DataError when it cannot be told.
        """
        if goal is Goal.READY and self._state.waits_for == "marker":
            return self._is_marked()
        try:
            self._ask("version")
        except UmldiskError:
            return False
        return True

    def _is_marked(self) -> bool:
        is_watched = self._state.supervisor.is_alive()
        if ready_at(self._run_directory, self._state) is not None:
            return True
        if not is_watched and self._state.is_alive():
            raise StorageError(
                "the process that reads the guest's console is gone, so that its marker is not seen",
                where=self._state.guest,
                hint="wait with --for mconsole, or stop the guest and start it again",
            )
        return False

    def ended(self, timeout_seconds: float) -> bool:
        """Wait for the guest's end; False when it still runs."""
        return self._state.kernel.wait(timeout_seconds)

    def now_seconds(self) -> float:
        """Return the time of a clock that nobody sets."""
        return time.monotonic()
