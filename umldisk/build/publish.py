"""Putting a whole set of disks in place, or none of it.

    GUEST/.building/   the set in the making: never looked at, cleared by the next build
    GUEST/.complete/   the set, whole, checked and synced, on its way out
    GUEST/.retiring/   what it replaces and nobody may lose
    GUEST/replaced-N/  the same, once the new set is in place

Five renames are not one, but renaming .building to .complete is: before it nothing has happened,
after it the set *is* the guest's and only has to be moved out. Moving is decided by what lies
where, so a move that was cut off anywhere is taken up by the next build (`finish`) and ends the
same. Root's disk moves last: until then no guest can start from a mixed set.

What happens to old disks: a COW file is the guest's own work and means something only over the very
base it was made on. So neither is ever deleted. Both move, as a pair with their times untouched, to
the next free replaced-N, where `umldisk merge -b replaced-1/root_fs replaced-1/root_cow NEW` still
gives what the guest last saw. A disk without a COW file beside it is replaced, which is what was
asked for with --force.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator

from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError, from_os_error
from umldisk.image.drives import Drive
from umldisk.system import locks
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.staging import sync_directory

BUILDING = ".building"
_COMPLETE = ".complete"
_RETIRING = ".retiring"
_LOCK = ".lock"


@contextlib.contextmanager
def claimed(guest: Guest) -> Iterator[None]:
    """Make the guest's directory if need be and hold it against every other build.

    Raises BusyError when another build has it, CannotCreateError when it cannot be made.
    """
    path = os.path.join(guest.directory, _LOCK)
    try:
        os.makedirs(guest.directory, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=guest.directory) from error
    with DiskFile(path, fd):
        if not locks.try_lock(fd, exclusive=True):
            other = locks.holder(fd)
            raise BusyError("the guest is being built", where=guest.directory, pid=other.pid if other else None)
        yield


@contextlib.contextmanager
def held(guest: Guest) -> Iterator[None]:
    """Hold the disks and COW files that exist, or raise BusyError when a guest does."""
    with contextlib.ExitStack() as stack:
        for path in existing_files(guest):
            disk = stack.enter_context(open_disk(path, writable=True))
            locks.lock(disk.fd, path, exclusive=True)
        yield


def existing_files(guest: Guest) -> list[str]:
    """Return the paths of the guest's disks and COW files that exist."""
    bases = [guest.base_path(drive) for drive in guest.drives]
    cows = [path for drive in guest.drives if (path := guest.cow_path(drive))]
    return [path for path in (*bases, *cows) if os.path.lexists(path)]


def is_unfinished(guest: Guest) -> bool:
    """Whether a whole set waits to be moved out."""
    return os.path.isdir(_inside(guest, _COMPLETE))


def begin(guest: Guest) -> str:
    """Clear what an interrupted build left and return a fresh directory to build in."""
    building = _inside(guest, BUILDING)
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(building)
        os.mkdir(building, 0o700)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=building) from error
    return building


def abandon(guest: Guest) -> None:
    """Remove what `begin` made."""
    shutil.rmtree(_inside(guest, BUILDING), ignore_errors=True)


def publish(guest: Guest) -> str | None:
    """Make the set in the building directory the guest's; it must be complete, checked and synced.

    Returns the directory to which old COW files and their bases were moved, or None when there were
    none.
    """
    try:
        sync_directory(_inside(guest, BUILDING))
        os.rename(_inside(guest, BUILDING), _inside(guest, _COMPLETE))
        sync_directory(guest.directory)
    except OSError as error:
        raise from_os_error(error, "publish the disks", guest.directory) from error
    return finish(guest)


def finish(guest: Guest) -> str | None:
    """Move the complete set out, from wherever a move before came to; returns what `publish` does."""
    try:
        for drive in sorted(guest.drives, key=lambda drive: drive.mount_point == "/"):
            _move_out(guest, drive)
        sync_directory(guest.directory)
        retired = _close_retiring(guest)
        os.rmdir(_inside(guest, _COMPLETE))
        sync_directory(guest.directory)
        return retired
    except OSError as error:
        raise from_os_error(error, "put the disks in place", guest.directory) from error


def _move_out(guest: Guest, drive: Drive) -> None:
    new = _inside(guest, _COMPLETE, drive.file_name)
    if not os.path.lexists(new):
        return
    if drive.cow_name:
        _retire(guest, drive.cow_name, drive.file_name)
    os.rename(new, guest.base_path(drive))


def _retire(guest: Guest, cow_name: str, base_name: str) -> None:
    """Set a COW file aside, and then the base it stands on."""
    if os.path.lexists(_inside(guest, cow_name)):
        with contextlib.suppress(FileExistsError):
            os.mkdir(_inside(guest, _RETIRING), 0o700)
        os.rename(_inside(guest, cow_name), _inside(guest, _RETIRING, cow_name))
    if os.path.lexists(_inside(guest, _RETIRING, cow_name)):
        with contextlib.suppress(FileNotFoundError):
            os.rename(_inside(guest, base_name), _inside(guest, _RETIRING, base_name))
        sync_directory(_inside(guest, _RETIRING))


def _close_retiring(guest: Guest) -> str | None:
    """Give the retired files their lasting place, the first free replaced-N, and return it."""
    if not os.path.isdir(_inside(guest, _RETIRING)):
        return None
    names = (_inside(guest, f"replaced-{number}") for number in itertools.count(1))
    retired = next(name for name in names if not os.path.lexists(name))
    os.rename(_inside(guest, _RETIRING), retired)
    return retired


def _inside(guest: Guest, *names: str) -> str:
    return os.path.join(guest.directory, *names)
