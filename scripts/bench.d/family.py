"""The memory of a process with all that it started, looked at again and again while it runs.

Resident sets are added up, shared libraries in each of them: the sum is on the large side. A child that still has the
memory of its parent, between vfork and exec, is not counted beside it; it is known by the addresses of its stack and
its code, which every program gets anew.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PERIOD_SECONDS = 0.01
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Process(NamedTuple):
    pid: int
    parent: int
    resident_bytes: int
    memory: tuple[bytes, ...]


class Watch:
    """Whoever descends from a process; `peak_bytes` is the most they had together."""

    def __init__(self, ancestor: int) -> None:
        self.peak_bytes = 0
        self._ancestor = ancestor
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_PERIOD_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _resident_bytes(self._ancestor))


def _resident_bytes(ancestor: int) -> int:
    """Return what the descendants of `ancestor` have resident now."""
    children: dict[int, list[_Process]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    found: dict[tuple[bytes, ...], int] = {}
    ahead = [ancestor]
    while ahead:
        for process in children.get(ahead.pop(), ()):
            ahead.append(process.pid)
            found[process.memory] = max(found.get(process.memory, 0), process.resident_bytes)
    return sum(found.values())


def _processes() -> Iterator[_Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                yield _parse(int(entry.name), Path(entry.path, "stat").read_bytes())


def _parse(pid: int, stat: bytes) -> _Process:
    """Read proc_pid_stat(5); its second field, which may hold anything, ends with the last parenthesis."""
    fields = stat.rpartition(b") ")[2].split()
    addresses = (fields[23], fields[25], fields[45])  # startcode, startstack, arg_start
    return _Process(pid, int(fields[1]), int(fields[21]) * _PAGE_BYTES, addresses)
