"""The directory of a guest's runs: made ready for the next one, held by whoever starts it.

    claim       make it, lock it: of two starts at once one goes on
    prepare     an empty directory for UML's sockets, the four FIFOs, no word of an earlier run

UML binds its mconsole socket at UML_DIR/UMID/mconsole, and a client the one for the answers in UML_DIR, which in a jail
must have the same path inside and outside. Such a path has at most 107 bytes (unix(7)). Where the run directory's is
longer, a directory of a short name takes its place: below /run for root, below /tmp for others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import time
from dataclasses import dataclass

from umldisk.errors import BusyError, CannotCreateError, from_os_error
from umldisk.guest.state import EXIT, LOCK, READY, STATE, read_state
from umldisk.system import locks
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.pids import ProcessId
from umldisk.system.staging import remove
from umldisk.system.swapping import Standing, explained, make_directories, open_directory

CONSOLE_IN, CONSOLE_OUT, AGENT_IN, AGENT_OUT = "console.in", "console.out", "agent.in", "agent.out"
FIFOS = (CONSOLE_IN, CONSOLE_OUT, AGENT_IN, AGENT_OUT)
_SOCKETS = "uml"
_MOST_SOCKET_PATH_BYTES = 107
_LONGEST_REPLY_NAME_BYTES = 40
_PASSED = 0o711
_KILL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The lock on a run directory; the lock lives as long as any process has the file open."""

    path: str
    lock: DiskFile

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.close()

    def end_others(self) -> None:
        """Kill all other processes that this claim was handed on to, so that nobody has it but us.

        Raises BusyError when one does not end, StorageError when we may not end it.
        """
        deadline = time.monotonic() + _KILL_SECONDS
        while (other := self._other()) is not None:
            other.send(signal.SIGKILL)
            if not other.wait(deadline - time.monotonic()):
                raise BusyError("a process does not end", where=os.path.basename(self.path), pid=other.pid)

    def _other(self) -> ProcessId | None:
        """Return another process that has the lock; one that only has the file open is none."""
        with open_disk(self.lock.path) as file:
            while (seen := locks.holder(file.fd)) is not None and seen.pid is not None:
                other = ProcessId.of(seen.pid)
                if other is not None and locks.holder(file.fd) == seen:
                    return other  # looked at last: the number was its own when it had the lock
        return None


def claim(run_directory: str) -> Claim:
    """Make the run directory if need be and lock it.

    Raises BusyError while the guest runs or somebody starts it, CannotCreateError when it cannot be made.
    """
    make_directories(run_directory, parents_at_least=_PASSED if os.geteuid() == 0 else 0o700)
    path = os.path.join(run_directory, LOCK)
    with explained("open", path):
        os.chmod(run_directory, _PASSED)
        lock = DiskFile(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with contextlib.ExitStack() as unless_claimed:
        unless_claimed.enter_context(lock)
        with explained("lock", path):
            is_claimed = locks.try_lock(lock.fd, exclusive=True)
            other = None if is_claimed else locks.holder(lock.fd)
        if is_claimed:
            unless_claimed.pop_all()
            return Claim(run_directory, lock)
    raise _claimed_already(run_directory, other)


def _claimed_already(run_directory: str, other: locks.Holder | None) -> BusyError:
    state = read_state(run_directory)
    alive = state if state is not None and state.is_alive() else None
    pid = alive.kernel.pid if alive else other.pid if other else None
    waiting = f"wait for that; if nobody starts or stops it any more, end what is left: kill -9 {pid}" if pid else None
    return BusyError(
        "the guest runs already" if alive else "the guest is being started or stopped",
        where=os.path.basename(run_directory),
        pid=pid,
        umid=alive.umid if alive else None,
        hint="umldisk stop ends it" if alive else waiting,
    )


def socket_directory(run_directory: str, umid: str, *, uid: int) -> str:
    """Return the directory for UML's sockets, uml/ unless a socket's path would be too long there."""
    near = os.path.join(run_directory, _SOCKETS)
    if len(os.fsencode(near)) + _rest_bytes(umid) <= _MOST_SOCKET_PATH_BYTES:
        return near
    above = "/run/umldisk" if os.geteuid() == 0 else f"/tmp/umldisk-{uid}"
    return os.path.join(above, hashlib.sha256(os.fsencode(os.path.realpath(run_directory))).hexdigest()[:16])


def _rest_bytes(umid: str) -> int:
    return max(len(f"/{umid}/mconsole"), _LONGEST_REPLY_NAME_BYTES)


def prepare(run_directory: str, sockets: str, *, uid: int, gid: int) -> None:
    """Make everything ready for a start, the run directory being claimed; the sockets' directory is for `uid` alone.

    Raises CannotCreateError and StorageError.
    """
    for name in (STATE, READY, EXIT):
        remove(os.path.join(run_directory, name), sync=False)
    for name in FIFOS:
        _make_fifo(os.path.join(run_directory, name))
    _make_socket_directory(sockets, uid=uid, gid=gid)


def clear_sockets(sockets: str) -> None:
    """Remove the directory of the sockets with what a guest left there, which its user may have put anything into."""
    above, name = os.path.split(sockets)
    if os.path.isdir(above):
        with open_directory(above) as directory:
            directory.clear(name)


def _make_fifo(path: str) -> None:
    remove(path, sync=False)
    try:
        os.mkfifo(path, 0o600)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=path) from error


def _make_socket_directory(sockets: str, *, uid: int, gid: int) -> None:
    above = os.path.dirname(sockets)
    make_directories(above, parents_at_least=0o711)
    _require_ours(above)
    if os.geteuid() == 0:
        with explained("change", above):
            os.chmod(above, _PASSED)
    clear_sockets(sockets)
    with open_directory(above) as directory, directory.make(os.path.basename(sockets)) as made:
        made.give(Standing(0o700, uid, gid) if os.geteuid() == 0 else Standing(0o700))


def _require_ours(path: str) -> None:
    """Refuse a directory that somebody else made below /tmp or /run to have ours in it."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise from_os_error(error, "look at", path) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CannotCreateError("a directory that is not ours alone", where=path, hint="remove it, or move it away")
