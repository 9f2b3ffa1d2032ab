"""What /proc/PID/stat says of a process at one moment.

    1234 (name, which may hold anything) S 1 1234 1234 ...

A process is over when all its threads are. One whose first thread has ended while others run looks like one that waits
to be reaped, but for the number of its threads (fs/proc/array.c, do_task_stat).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.errors import from_os_error

_STATE, _PARENT, _SESSION, _FLAGS, _THREADS, _START = 0, 1, 3, 6, 17, 19
"""Fields counted from the one behind the name (proc_pid_stat(5))."""
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD in the kernel's include/linux/sched.h."""
_INVISIBLE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What the files of a process that is gone, or is none of our business (mount option hidepid), are answered with."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process at one moment: `state` is the kernel's letter, `start_ticks` when it began since the boot."""

    state: str
    parent: int
    session: int
    threads: int
    start_ticks: int
    is_kernel_thread: bool

    @classmethod
    def parse(cls, text: str) -> ProcessStatus:
        """Read the line; the name in it ends with the last parenthesis."""
        fields = text.rpartition(")")[2].split()
        return cls(
            state=fields[_STATE],
            parent=int(fields[_PARENT]),
            session=int(fields[_SESSION]),
            threads=int(fields[_THREADS]),
            start_ticks=int(fields[_START]),
            is_kernel_thread=bool(int(fields[_FLAGS]) & _KERNEL_THREAD),
        )

    @property
    def is_over(self) -> bool:
        """Whether it only waits to be reaped, or not even that."""
        return self.state == "X" or (self.state == "Z" and self.threads <= 1)


def status_of(pid: int) -> ProcessStatus | None:
    """Return what there is to say of a process, None when it is gone or hidden from us.

    Raises StorageError when it cannot be looked at, for want of descriptors, say: that must not count as gone.
    """
    path = f"/proc/{pid}/stat"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return ProcessStatus.parse(file.read())
    except _INVISIBLE:
        return None
    except OSError as error:
        raise from_os_error(error, "read", path) from error


def visible_pids() -> Iterator[int]:
    """Yield the ids of the processes that can be seen from here."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def age_seconds(start_ticks: int) -> float:
    """Return how long a process runs that started so many ticks after the boot, by the clock that no one sets."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK"))
