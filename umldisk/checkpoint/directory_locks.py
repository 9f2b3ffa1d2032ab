"""Who may use a store on a directory, told by locks that the kernel drops when their process ends.

    locks/store         shared by all who add, exclusive for the one who reclaims
    locks/guest-NAME    exclusive for whoever adds to that guest

They are locks on open files (see `umldisk.system.locks`) and lie in the store itself, so that every site and every
container that reaches the directory meets the same ones. The files stay: removing one would let two processes lock two
files of one name. On a network file system they reach as far as its own locks do.

A writer takes both or gives both back before it waits, so that nobody waits while holding what another waits for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from umldisk.checkpoint.directory_place import Place
from umldisk.errors import BusyError
from umldisk.system import locks
from umldisk.system.swapping import explained

_DIRECTORY = "locks"
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock to take: the name of its file, and what to say of whoever has it."""

    name: str
    exclusive: bool
    complaint: str


def for_writing(guest: str) -> tuple[Lock, Lock]:
    """Return the locks of whoever adds to a guest."""
    return (
        Lock("store", False, "the store's chunks are being reclaimed"),
        Lock(f"guest-{guest}", True, f"the history of {guest} is being written"),
    )


COLLECTING = (Lock("store", True, "the store is being written"),)
"""The lock of whoever reclaims."""


@contextlib.contextmanager
def held(place: Place, wanted: Sequence[Lock], *, wait_seconds: float) -> Iterator[None]:
    """Hold all of these locks.

    Raises BusyError naming the process that has one of them, when it still has it after `wait_seconds`.
    """
    deadline = time.monotonic() + wait_seconds
    place.make_directory(place.path(_DIRECTORY))
    while True:
        with contextlib.ExitStack() as taken:
            busy = _take(place, wanted, taken)
            if busy is None:
                yield
                return
        if time.monotonic() >= deadline:
            raise busy
        time.sleep(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _take(place: Place, wanted: Sequence[Lock], taken: contextlib.ExitStack) -> BusyError | None:
    """Take the locks one after the other; return the complaint about the first that cannot be had."""
    for lock in wanted:
        path = os.path.join(place.path(_DIRECTORY), lock.name)
        with explained("lock", path):
            fd = _open(place, path)
            taken.callback(os.close, fd)
            if not locks.try_lock(fd, exclusive=lock.exclusive):
                return _busy(lock, fd, path)
    return None


def _open(place: Place, path: str) -> int:
    with contextlib.suppress(FileExistsError):
        return place.create_file(path)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _busy(lock: Lock, fd: int, path: str) -> BusyError:
    other = locks.holder(fd, exclusive=lock.exclusive)
    return BusyError(
        lock.complaint,
        where=path,
        pid=other.pid if other else None,
        hint="wait for the other process, or say how long to wait for it with --lock-wait",
    )
