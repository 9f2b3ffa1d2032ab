"""Locks as UML takes them.

UML holds a POSIX write lock on every file it writes and a read lock on every backing file, over the whole file, while
the disk is open in the guest (os_lock_file in the kernel's arch/um/os-Linux/file.c). The locks here are of the *open
file description* kind: they exclude POSIX locks and each other in the same way, die with the last descriptor, and are
not lost, as POSIX locks are, when some other part of this process opens and closes the same file.

The price is that the kernel does not tell who holds one; `holder` then searches /proc for the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.errors import BusyError, UmldiskError, from_os_error
from umldisk.system.process_status import age_seconds, status_of
from umldisk.system.processes import command_line

_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a conflicting lock; `pid` is None when it is not visible from here, `umid` when it is no guest."""

    pid: int | None
    exclusive: bool
    umid: str | None = None


def try_lock(fd: int, *, exclusive: bool) -> bool:
    """Lock the whole open file, or return False when somebody else has a lock in the way; never waits."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def lock(fd: int, path: str, *, exclusive: bool) -> None:
    """Lock the whole open file until `fd` is closed.

    A shared lock needs a descriptor open for reading, an exclusive one for writing. Raises BusyError naming the
    process that is in the way.
    """
    try:
        if try_lock(fd, exclusive=exclusive):
            return
    except OSError as error:
        raise from_os_error(error, "lock", path) from error
    raise _in_use(path, holder(fd, exclusive=exclusive))


def hold_unwritable(fd: int, path: str) -> None:
    """Lock a file that is open for reading alone, once nobody else has any lock on it.

    The lock is a shared one, because the kernel gives no other on such a descriptor. It keeps writers away; a guest
    that takes the file as its backing file later is not kept away, but calling this again finds it. Raises BusyError.
    """
    lock(fd, path, exclusive=False)
    try:
        other = holder(fd, exclusive=True)
    except OSError as error:
        raise from_os_error(error, "lock", path) from error
    if other is not None:
        raise _in_use(path, other)


def _in_use(path: str, other: Holder | None) -> BusyError:
    return BusyError(
        "the disk is in use",
        where=path,
        pid=other.pid if other else None,
        umid=other.umid if other else None,
        hint="stop the guest or wait for the other process, then run the command again",
    )


def holder(fd: int, *, exclusive: bool = True) -> Holder | None:
    """Return who stands in the way of such a lock on the open file, or None when nobody does."""
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    found, _whence, _start, _length, pid = _FLOCK.unpack(answer)
    if found == fcntl.F_UNLCK:
        return None
    owner = pid if pid > 0 else _search_owner(fd)
    return Holder(owner, found == fcntl.F_WRLCK, umid_of(owner) if owner else None)


def _search_owner(fd: int) -> int | None:
    """Find the process whose descriptor carries a lock on the file behind `fd`."""
    status = os.fstat(fd)
    for pid, descriptor in _descriptors_of_others():
        with contextlib.suppress(OSError):
            seen = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if (seen.st_dev, seen.st_ino) == (status.st_dev, status.st_ino) and _carries_lock(pid, descriptor):
                return pid
    return None


def _descriptors_of_others() -> Iterator[tuple[int, str]]:
    ourselves = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != ourselves:
            with contextlib.suppress(OSError):
                yield from ((int(name), descriptor) for descriptor in os.listdir(f"/proc/{name}/fd"))


def _carries_lock(pid: int, descriptor: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as info:
        return any(line.startswith("lock:") for line in info)


def umid_of(pid: int) -> str | None:
    """Return the name of the UML guest that process `pid` is, or None when it is none or cannot be told.

    A guest started without `umid=` chose a random one; its directory under ~/.uml holds the process id. A guest that
    was killed leaves such a directory behind, and its id becomes another's: a file that is older than the process does
    not speak of it.
    """
    words = command_line(pid)
    given = [word[5:] for word in words if word.startswith("umid=")]
    if given:
        return given[-1]
    directories = [word[8:] for word in words if word.startswith("uml_dir=")]
    return _umid_in(directories[-1] if directories else os.path.expanduser("~/.uml"), pid)


def _umid_in(uml_dir: str, pid: int) -> str | None:
    with contextlib.suppress(OSError, UmldiskError), os.scandir(uml_dir) as entries:
        for entry in entries:
            with contextlib.suppress(OSError, ValueError), open(f"{entry.path}/pid", encoding="ascii") as file:
                if int(file.read()) == pid and not _is_older(file.fileno(), pid):
                    return entry.name
    return None


def _is_older(fd: int, pid: int) -> bool:
    """Whether a file was last written before the process started, by clocks that differ by a second at most."""
    status = status_of(pid)
    return status is None or time.time() - os.fstat(fd).st_mtime > age_seconds(status.start_ticks) + 1
