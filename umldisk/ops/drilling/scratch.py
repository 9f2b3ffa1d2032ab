"""Where a drill plays: a site of its own, with one guest, that goes away afterwards.

    SITE/drill/blackdance-x7f3k2ab/       by default; --scratch names another place than SITE/drill
        drill.lock                        locked as long as the drill lives; drill.kept when it shall stay
        guests/blackdance/                the disks of the drill; bases that stay are symlinks to the guest's own
        run/blackdance/                   the run of the drill's guest, with its own UML directory: a umid in use by the
                                          real guest does not collide
        making/, checks/                  what is made on the way

Whatever ends a drill, its guest is killed and the directory removed. When the drill itself was killed, the next one in
the same place does that: it finds a lock that nobody holds.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.config.guest import Guest, is_guest_name
from umldisk.config.site import Site
from umldisk.errors import BusyError, CannotCreateError, NoInputError, UmldiskError
from umldisk.guest.ladder import Ladder, Rung
from umldisk.ops.running.stopping import stop_guest
from umldisk.system import locks
from umldisk.system.deferring import interruptions_deferred
from umldisk.system.files import DiskFile
from umldisk.system.swapping import explained, make_directories, open_directory

PLACE = "drill"
GUESTS, MAKING, CHECKS = "guests", "making", "checks"
_LOCK, _NEW_LOCK, _KEPT = "drill.lock", "drill.new", "drill.kept"
_PASSED = 0o711
_END_SECONDS = 180.0
_GLANCE_SECONDS = 0.1
_ATTEMPTS = 10


@dataclass(frozen=True)
class ScratchSite(Site):
    """A site whose one guest is `drilled`, whatever umldisk.toml says."""

    drilled: Guest

    def guest(self, name: str) -> Guest:
        """Return the guest of the drill; raises NoInputError for any other."""
        if name != self.drilled.name:
            raise NoInputError("there is no such guest in a drill", where=name)
        return self.drilled


@contextlib.contextmanager
def scratch_directory(place: str, name: str, *, keep: bool) -> Iterator[str]:
    """Give a new directory below `place` for a drill of the guest called `name`, and clear up afterwards.

    The guest's user may pass through it. Raises CannotCreateError when it cannot be made.
    """
    if os.path.isdir(place):
        sweep(os.path.realpath(place))
    with contextlib.ExitStack() as stack:
        with interruptions_deferred():
            path = _make(place, name)
            lock = stack.enter_context(_locked(path))
            stack.callback(_finish, path, name, keep=keep)
        assert lock.fd >= 0
        yield path


def _make_place(place: str) -> str:
    """Make the directory of drills if need be, for the guests' users to pass through; return it without symlinks."""
    if not os.path.isdir(place):
        make_directories(place, parents_at_least=_PASSED if os.geteuid() == 0 else 0o700)
        if os.geteuid() == 0:
            with explained("change", place):
                os.chmod(place, _PASSED)
    return os.path.realpath(place)


def _make(place: str, name: str) -> str:
    for attempt in range(_ATTEMPTS):
        above = _make_place(place)
        try:
            path = tempfile.mkdtemp(prefix=f"{name}-", dir=above)
            if os.geteuid() == 0:
                os.chmod(path, _PASSED)
            break
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError)  # another drill was the last one there, and took it along
            if not is_gone or attempt == _ATTEMPTS - 1:
                raise CannotCreateError(f"cannot create: {error.strerror}", where=above) from error
    with open_directory(path) as directory:
        for inner in (GUESTS, MAKING, CHECKS):
            with directory.make(inner):
                pass
    if os.geteuid() == 0:
        with explained("change", path):
            os.chmod(os.path.join(path, GUESTS), _PASSED)
    return path


@contextlib.contextmanager
def _locked(path: str) -> Iterator[DiskFile]:
    """Hold the drill's lock; it gets its name when it is held, so that nobody finds it free."""
    new = os.path.join(path, _NEW_LOCK)
    with explained("lock", new):
        lock = DiskFile(new, os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        locks.try_lock(lock.fd, exclusive=True)
        os.rename(new, os.path.join(path, _LOCK))
    with lock:
        yield lock


def _finish(path: str, name: str, *, keep: bool) -> None:
    """End the guest, and remove the directory unless it is to be kept."""
    with interruptions_deferred():
        end_guest(Site(path), name)
        if keep:
            with explained("rename", path):
                os.rename(os.path.join(path, _LOCK), os.path.join(path, _KEPT))
        else:
            _remove(path)
            _forget_place(os.path.dirname(path))


def _remove(path: str) -> None:
    above, name = os.path.split(path)
    with open_directory(above) as directory:
        directory.clear(name)


def _forget_place(place: str) -> None:
    """Remove a site's own directory of drills when it is empty."""
    if os.path.basename(place) == PLACE:
        with contextlib.suppress(OSError):  # others are in there
            os.rmdir(place)


def end_guest(site: Site, name: str) -> None:
    """Kill the guest of a drill, also one that is only being started; raises BusyError when it does not end."""
    deadline = time.monotonic() + _END_SECONDS
    while os.path.isdir(site.run_directory(name)):
        try:
            stop_guest(site, name, Ladder.of(first=Rung.KILL))
        except NoInputError:
            return
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_GLANCE_SECONDS)
        else:
            return


def sweep(above: str) -> None:
    """Clear up after drills in this directory that were killed; what cannot be cleared up is left."""
    with open_directory(above) as directory:
        names = directory.names()
    for name in names:
        path = os.path.join(above, name)
        guest = name.rpartition("-")[0]
        if is_guest_name(guest) and _is_ours(path):
            with contextlib.suppress(UmldiskError), _abandoned(path) as is_abandoned:
                if is_abandoned:
                    end_guest(Site(path), guest)
                    _remove(path)


def _is_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


@contextlib.contextmanager
def _abandoned(path: str) -> Iterator[bool]:
    """Say whether a drill's lock is there and nobody held it; it is held by us meanwhile."""
    lock = os.path.join(path, _LOCK)
    try:
        file = DiskFile(lock, os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except OSError:
        yield False
        return
    with file:
        yield locks.try_lock(file.fd, exclusive=True)
