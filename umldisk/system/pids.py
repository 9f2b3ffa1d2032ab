"""Processes that we did not start, or not in this run: known for sure, signalled for sure, waited for.

A process id is given to somebody else once its process is gone. What stays unique is the id together with the time at
which the process started, in the kernel's ticks since the boot, and the boot. A signal goes through a pidfd that is
opened first and compared afterwards, so that it reaches that process or nobody (pidfd_open(2)).

A session holds its leader's id as long as one process of it lives; that id is not given away meanwhile. The reverse
does not hold: when the leader and all its session are gone, the id may come back, and a daemon that forks away and ends
leaves a session without a leader of just that number. So a session whose leader is gone proves nothing by itself; its
members are believed when they hold open a file that only that session was given.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from umldisk.errors import from_os_error
from umldisk.system.process_status import ProcessStatus, status_of, visible_pids

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@cache
def boot_id() -> str:
    """Return what is different after every boot of this machine."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, told from all others that had or will have its number; `start_ticks` since the boot `boot`."""

    pid: int
    start_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the process that has the number now, or None when there is none, or one that only waits to be reaped.

        The number of one that just ended may come back as another's any time, so take it from a process that is yours.
        """
        status = status_of(pid)
        return None if status is None else _living(pid, status)

    def is_alive(self) -> bool:
        """Whether the process still runs; one that only waits to be reaped does not."""
        return self.boot == boot_id() and ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Send a signal, and say whether the process was still there to get it.

        Raises StorageError when we may not.
        """
        fd = self._open()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise from_os_error(error, f"send {number.name}", f"PID {self.pid}") from error
        finally:
            os.close(fd)
        return True

    def wait(self, timeout_seconds: float) -> bool:
        """Wait until the process is gone; False when it is still there in the end. Signals to us are noticed."""
        from umldisk.system.process import NOTICE_SECONDS

        fd = self._open()
        if fd is None:
            return True
        deadline = time.monotonic() + timeout_seconds
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            while True:
                left_seconds = deadline - time.monotonic()
                if poll.poll(max(0.0, min(left_seconds, NOTICE_SECONDS)) * 1000):
                    return True
                if left_seconds <= NOTICE_SECONDS:
                    return False
        finally:
            os.close(fd)

    def _open(self) -> int | None:
        """Return a pidfd of just this process, or None when it is gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            raise from_os_error(error, "look at", f"PID {self.pid}") from error
        if self.is_alive():  # looked at after the descriptor was there: the number cannot have changed hands since
            return fd
        os.close(fd)
        return None


def session_members(leader: ProcessId, *, holding: str | None = None) -> list[ProcessId]:
    """Return the living processes of the session that `leader` leads or led.

    When the leader is gone, and not even waits to be reaped, these are only processes that have the file `holding`
    open, none without it: the session may be another one of the same number.
    """
    status = status_of(leader.pid)
    if leader.boot != boot_id() or (status is not None and status.start_ticks != leader.start_ticks):
        return []  # another process has the number, so no member of that session lives
    found = [
        process for process, its in _processes() if its.session == leader.pid and its.start_ticks >= leader.start_ticks
    ]
    if status is not None and (again := status_of(leader.pid)) is not None and again.start_ticks == status.start_ticks:
        return found  # the leader was there all the time, so that its number was nobody else's
    return [process for process in found if holding is not None and _holds(process, holding)]


def children(parent: ProcessId) -> list[ProcessId]:
    """Return the living processes whose parent is `parent`; none when that is gone."""
    found = [process for process, status in _processes() if status.parent == parent.pid]
    return found if parent.is_alive() else []


def end_all(processes: Iterable[ProcessId], number: signal.Signals, *, timeout_seconds: float) -> bool:
    """Send a signal to all, wait, and say whether all are gone. Raises StorageError when we may not send it."""
    told = list(processes)
    for process in told:
        process.send(number)
    deadline = time.monotonic() + timeout_seconds
    left = [process for process in told if not process.wait(deadline - time.monotonic())]
    return not left


def _processes() -> Iterator[tuple[ProcessId, ProcessStatus]]:
    """Yield all living processes that we can see, with what was read of them in the same moment."""
    for pid in visible_pids():
        status = status_of(pid)
        process = None if status is None else _living(pid, status)
        if status is not None and process is not None:
            yield process, status


def _living(pid: int, status: ProcessStatus) -> ProcessId | None:
    return None if status.is_over else ProcessId(pid, status.start_ticks, boot_id())


def _holds(process: ProcessId, path: str) -> bool:
    """Whether the process has the file at `path` open."""
    try:
        wanted = os.stat(path)
        names = os.listdir(f"/proc/{process.pid}/fd")
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{process.pid}/fd/{name}"), wanted):
                return process.is_alive()  # looked at last: what was seen was its own
    return False
