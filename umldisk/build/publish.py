"""Putting a whole set of disks in place, or none of it.

    GUEST/.building/   the set in the making: never looked at, cleared by the next build
    GUEST/.verifying/  a second set that is only made to be compared, cleared likewise
    GUEST/.ready/      the set, whole, checked, synced, of the right owner; the former set is leaving
    GUEST/.retiring/   the former set
    GUEST/.complete/   the same set; the former one has left, this one is moving in
    GUEST/replaced-N/  what was worth keeping of a former set

Many renames are not one, but renaming .building to .ready is: before it nothing has happened, after it the set *is*
the guest's. Which of .ready and .complete is there says whether a disk in GUEST is an old or a new one, whatever the
layouts of both sets. So a move that was cut off anywhere is taken up by the next build (`finish`) and ends the same.
Root's disk leaves first and comes last: in between no guest can start from a mixed set.

What happens to old disks: `former` tells. COW files are never deleted, nor the bases they stand on. They move together,
their times untouched, to the next free replaced-N with their manifest, where `umldisk merge -b replaced-1/root_fs
replaced-1/root_cow NEW` still gives what the guest last saw.

While root builds in somebody's directory it is root's, with the sticky bit: its user can make a COW file in it, as a
guest that starts must, but cannot move aside what root is working in. `claimed` gives it to the user at the end. After
a kill the disks can still be used, and the next build gives the directory back.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.build import former
from umldisk.build.manifest import FILE_NAME as MANIFEST
from umldisk.build.ownership import Ownership
from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError, StorageError, from_os_error
from umldisk.system import locks
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.swapping import Directory, Standing, make_directories, open_directory

BUILDING = ".building"
VERIFYING = ".verifying"
_READY = ".ready"
_COMPLETE = ".complete"
_RETIRING = ".retiring"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Held:
    """The locked disks of a guest."""

    disks: tuple[DiskFile, ...]

    def check(self) -> None:
        """Raise BusyError when a guest has started on a disk that could only be locked against writers."""
        for disk in self.disks:
            _hold(disk)


@contextlib.contextmanager
def claimed(guest: Guest, ownership: Ownership) -> Iterator[None]:
    """Make the guest's directory if need be and hold it against every other build; as root, also against its user.

    Raises BusyError when another build has it, CannotCreateError when it cannot be made.
    """
    make_directories(guest.directory, parents_at_least=ownership.parents_mode)
    with open_directory(guest.directory) as directory:
        before = directory.standing
        guarded = _guarded(before, ownership)
        settled = {_guarded(ownership.closed_directory, ownership): ownership.closed_directory} | {guarded: before}
        try:
            if guarded != before:
                directory.give(guarded)
            with _locked(directory):
                if _is_left_over(before):
                    settled[before] = ownership.directory
                settled[_guarded(ownership.directory, ownership)] = ownership.directory
                yield
        finally:
            end = directory.standing
            if settled.get(end, end) != end:
                directory.give(settled[end])


def _is_left_over(standing: Standing) -> bool:
    """Whether a killed build of root left its directory so."""
    return os.geteuid() == 0 == standing.uid and bool(standing.mode & stat.S_ISVTX)


def _guarded(standing: Standing, ownership: Ownership) -> Standing:
    """Return how a directory stands while root works in it; what is root's or not to be given away stays as it is."""
    if os.geteuid() != 0 or not standing.uid:
        return standing
    users = 0o070 if ownership.group_is_private and standing.gid == ownership.directory.gid else 0
    return Standing(standing.mode & 0o777 | stat.S_ISVTX | users, 0, standing.gid)


@contextlib.contextmanager
def _locked(directory: Directory) -> Iterator[None]:
    """Hold a lock file that is our own, so that nobody else can put another in its place."""
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_lock(directory))
        if lock.status.st_uid != os.geteuid():
            directory.remove(_LOCK)
            stack.enter_context(_lock(directory))
        yield


def _lock(directory: Directory) -> DiskFile:
    lock = _open_lock(directory)
    if locks.try_lock(lock.fd, exclusive=True):
        return lock
    with lock:
        other = locks.holder(lock.fd)
    raise BusyError("the guest is being built", where=directory.path, pid=other.pid if other else None)


def _open_lock(directory: Directory) -> DiskFile:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            fd = os.open(_LOCK, flags, 0o600, dir_fd=directory.fd)
        except PermissionError:  # somebody else's, who built here before
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_LOCK, dir_fd=directory.fd)
            fd = os.open(_LOCK, flags, 0o600, dir_fd=directory.fd)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=directory.path) from error
    return DiskFile(directory.inside(_LOCK), fd)


@contextlib.contextmanager
def held(guest: Guest) -> Iterator[Held]:
    """Hold the disks and COW files that exist, or raise BusyError when a guest does.

    A disk that we may not write is held against writers alone; `Held.check` finds who came since.
    """
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(_open_to_hold(path)) for path in existing_files(guest) if _is_openable(path)]
        for disk in disks:
            _hold(disk)
        yield Held(tuple(disks))


def _is_openable(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:  # a symlink to nothing
        return False
    except OSError as error:
        raise from_os_error(error, "look at", path) from error
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _open_to_hold(path: str) -> DiskFile:
    return open_disk(path, writable=os.access(path, os.W_OK, effective_ids=True))


def _hold(disk: DiskFile) -> None:
    if fcntl.fcntl(disk.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        locks.hold_unwritable(disk.fd, disk.path)
    else:
        locks.lock(disk.fd, disk.path, exclusive=True)


def require_place(guest: Guest) -> None:
    """Raise CannotCreateError when the guest's directory could not be made, or, if it is there, not be written."""
    place = guest.directory
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    with open_directory(place):
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
            raise CannotCreateError("the directory cannot be written", where=place)


def existing_files(guest: Guest) -> list[str]:
    """Return the paths of all disks and COW files in the guest's directory, of this layout or a former one.

    Raises CannotCreateError when something else is in the directory's place.
    """
    if not os.path.lexists(guest.directory):
        return []
    with open_directory(guest.directory) as directory:
        return [directory.inside(name) for name in directory.names() if former.is_disk(name)]


def is_unfinished(guest: Guest) -> bool:
    """Whether a whole set waits to be put in place."""
    if not os.path.isdir(guest.directory):
        return False
    with open_directory(guest.directory) as directory:
        return directory.has_directory(_READY) or directory.has_directory(_COMPLETE)


def begin(guest: Guest) -> str:
    """Clear what an interrupted build left and return a fresh directory to build in, for us alone."""
    return _fresh(guest, BUILDING)


def begin_second(guest: Guest) -> str:
    """Return another fresh directory, for a set that is only to be compared; `abandon` removes it."""
    return _fresh(guest, VERIFYING)


def _fresh(guest: Guest, name: str) -> str:
    with open_directory(guest.directory) as directory:
        planted = {stage for stage in (_READY, _COMPLETE, _RETIRING) if not directory.has_directory(stage)}
        for scratch in {name, VERIFYING} | planted:
            directory.clear(scratch)
        with directory.make(name) as made:
            return made.path


def abandon(guest: Guest) -> None:
    """Remove what `begin` and `begin_second` made, as far as that goes; the next build removes the rest."""
    with contextlib.suppress(CannotCreateError), open_directory(guest.directory) as directory:
        for scratch in (BUILDING, VERIFYING):
            with contextlib.suppress(StorageError):
                directory.clear(scratch)


def publish(guest: Guest, ownership: Ownership, *, holding: Held | None = None) -> str | None:
    """Make the set in the building directory the guest's; it must be complete, checked and synced.

    Its files, which are the disks and the manifest, get their owners and modes first. Anything else in that directory
    is removed. `holding` is asked once more whether a guest has started. Returns the directory to which COW
    files and what belongs to them were moved, or None when there were none.
    """
    with open_directory(guest.directory) as directory:
        with directory.open(BUILDING) as building:
            _dress(guest, ownership, building)
            building.sync()
        if holding is not None:
            holding.check()
        directory.move(BUILDING, directory, _READY)
        directory.sync()
    return finish(guest, ownership)


def _dress(guest: Guest, ownership: Ownership, building: Directory) -> None:
    standings = {drive.file_name: ownership.of_disk(drive) for drive in guest.drives}
    if building.mode_of(MANIFEST) is not None:
        standings[MANIFEST] = ownership.manifest
    for name in set(building.names()) - standings.keys():
        building.clear(name)
    for name, standing in standings.items():
        building.dress(name, standing)


def finish(guest: Guest, ownership: Ownership) -> str | None:
    """Put a whole set in place, from wherever a move before came to; returns what `publish` does."""
    with open_directory(guest.directory) as directory:
        if directory.has_directory(_READY):
            _move_former_out(guest, directory)
            directory.move(_READY, directory, _COMPLETE)
            directory.sync()
        with directory.open(_COMPLETE) as complete:
            _move_in(guest, complete, directory)
        retired = _settle_former(guest, directory, ownership.closed_directory)
        if ownership.directory.uid is not None:
            is_private = directory.make_new_files_private()
            standing = ownership.directory if is_private else ownership.closed_directory
            directory.give(_guarded(standing, ownership))  # `claimed` gives it to the user in the end
        directory.clear(_COMPLETE)
        directory.sync()
    return retired


def _move_former_out(guest: Guest, directory: Directory) -> None:
    """Move every part of the former set to the retiring directory; the new one is still as a whole elsewhere."""
    names = [name for name in directory.names() if former.is_part(name)]
    if not names:
        return
    retiring = directory.open(_RETIRING) if directory.has_directory(_RETIRING) else directory.make(_RETIRING)
    with retiring:
        for name in sorted(names, key=lambda name: name != _root_file(guest)):
            directory.move(name, retiring)
        retiring.sync()
    directory.sync()


def _move_in(guest: Guest, complete: Directory, directory: Directory) -> None:
    names = [name for name in complete.names() if former.is_part(name)]
    for name in sorted(names, key=lambda name: name == _root_file(guest)):
        complete.move(name, directory)
    directory.sync()


def _root_file(guest: Guest) -> str | None:
    return next((drive.file_name for drive in guest.drives if drive.mount_point == "/"), None)


def _settle_former(guest: Guest, directory: Directory, standing: Standing) -> str | None:
    """Remove what nobody needs of the former set, and give the rest its lasting place, the first free replaced-N."""
    if not directory.has_directory(_RETIRING):
        return None
    with directory.open(_RETIRING) as retiring:
        _drop_replaceable(guest, retiring)
        if not retiring.names():
            directory.clear(_RETIRING)
            return None
        retiring.sync()
        retiring.give(standing)
    names = (f"replaced-{number}" for number in itertools.count(1))
    lasting = next(name for name in names if directory.mode_of(name) is None)
    directory.move(_RETIRING, directory, lasting)
    return directory.inside(lasting)


def _drop_replaceable(guest: Guest, retiring: Directory) -> None:
    known = former.from_layout(guest.drives) | former.from_manifest(_read_head(retiring, MANIFEST))
    present = [name for name in retiring.names() if not retiring.has_directory(name)]
    for name in former.replaceable(present, known):
        retiring.remove(name)


def _read_head(directory: Directory, name: str) -> bytes:
    """Read the first part of a small file that may be anything or missing."""
    if not stat.S_ISREG(directory.mode_of(name) or 0):
        return b""
    with open_disk(directory.inside(name)) as file:
        return file.read_at(0, former.DRIVES_WITHIN_BYTES)
