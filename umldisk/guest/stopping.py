"""The hands that end a real guest: its mconsole, signals for its processes, and a look at its disks.

Signals go to processes that are known for sure (`umldisk.system.pids`), never to a name. In a jail the process that we
know is the init of its process namespace: its children get SIGTERM, since the kernel of the host keeps signals from an
init that has no handler for them (pid_namespaces(7)), and its own SIGKILL takes all with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from umldisk.guest.aftermath import left_over
from umldisk.guest.state import RunState
from umldisk.system.pids import children

_QUIET_SECONDS, _MOST_SETTLING_SECONDS, _GLANCE_SECONDS = 0.5, 5.0, 0.05


class RunHands:
    """The hands for one run of a guest."""

    def __init__(self, run_directory: str, state: RunState, ask: Callable[[str], str]) -> None:
        self._run_directory = run_directory
        self._state = state
        self.ask = ask

    def settle(self) -> None:
        """Wait until no disk's file was changed for half a second, at most some seconds."""
        deadline = time.monotonic() + _MOST_SETTLING_SECONDS
        seen, since = _changes(self._state), time.monotonic()
        while time.monotonic() < min(deadline, since + _QUIET_SECONDS):
            if self._state.kernel.wait(_GLANCE_SECONDS):
                return
            if (now := _changes(self._state)) != seen:
                seen, since = now, time.monotonic()

    def terminate(self) -> bool:
        """Send SIGTERM to UML's main process, in a jail to all that its init started: guest code owns all of them."""
        kernel = self._state.kernel
        told = [process.send(signal.SIGTERM) for process in (children(kernel) if self._state.jailed else [kernel])]
        return any(told)

    def kill(self) -> None:
        """Send SIGKILL to the process whose end is the guest's, and outside a jail to all others."""
        self._state.kernel.send(signal.SIGKILL)
        if not self._state.jailed:
            for process in left_over(self._run_directory, self._state):
                process.send(signal.SIGKILL)

    def ended(self, timeout_seconds: float) -> bool:
        """Wait for the kernel's end; False when it is still there."""
        return self._state.kernel.wait(timeout_seconds)

    def now_seconds(self) -> float:
        """Return the time of a clock that nobody sets."""
        return time.monotonic()


def _changes(state: RunState) -> list[tuple[int, int]]:
    found = []
    for disk in state.disks:
        with contextlib.suppress(OSError):
            status = os.stat(disk.path)
            found.append((status.st_mtime_ns, status.st_blocks))
    return found
