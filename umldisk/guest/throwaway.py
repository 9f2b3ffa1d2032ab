"""COW files that are made before a start: empty ones that stay, and those that are thrown away after the run.

    root_cow missing        root_cow, empty, over root_fs
    root discarded          .root_cow.discard, a copy of root_cow, or empty over root_fs when there is no root_cow
    tmp discarded           .tmp_cow.discard, empty over tmp_fs

UML could make COW files itself, but not in a jail that shows it single files. Every file is made whole, with its owner
and mode, in a scratch directory that is ours alone, and takes its place by one rename: that replaces what lies there,
be it a symlink, and follows nothing. As root a COW file is only copied when the guest's user can have made it what it
is: a copy is that user's to read, so that it must not be one of a file that somebody merely gave this name.

A file that is thrown away is not synced: nobody needs it after a crash, and the next start replaces or removes it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from umldisk.config.guest import Guest
from umldisk.cow import journal as journals
from umldisk.cow.creating import new_cow, new_header, open_backing
from umldisk.cow.dialect import Dialect
from umldisk.errors import DataError
from umldisk.guest.state import RunDisk
from umldisk.image.drives import Drive
from umldisk.system import locks, sparse, transfer
from umldisk.system.files import DiskFile
from umldisk.system.staging import staged
from umldisk.system.swapping import Directory, Standing, explained

_SCRATCH = ".starting"


def throw_away_name(drive: Drive) -> str:
    """Return the name of the file in the guest's directory that takes the changes of a run which are not kept."""
    return f".{drive.name}_cow.discard"


def run_disk(guest: Guest, drive: Drive, *, thrown_away: bool = False) -> RunDisk:
    """Return the disk that a run of the guest gets; its paths are absolute, their directory without symlinks.

    UML compares them with the path in the COW file's header, which is of this kind.
    """
    directory = os.path.realpath(guest.directory)
    written = throw_away_name(drive) if thrown_away else drive.cow_name
    if written is None:
        return RunDisk(drive.name, drive.ubd, os.path.join(directory, drive.file_name), None)
    base = os.path.join(directory, drive.file_name)
    return RunDisk(drive.name, drive.ubd, os.path.join(directory, written), base, thrown_away)


@contextmanager
def scratch(directory: Directory) -> Iterator[Directory]:
    """Give a directory for us alone below the guest's, which goes away afterwards; one that was left is cleared."""
    directory.clear(_SCRATCH)
    with directory.make(_SCRATCH) as made:
        try:
            yield made
        finally:
            directory.clear(_SCRATCH)


def make_empty(guest: Guest, drive: Drive, directory: Directory, *, work: Directory, standing: Standing) -> RunDisk:
    """Put an empty COW file over the drive's base in place, durably; `work` is of `scratch`.

    Raises NoInputError without a base, DataError when it is unusable as one, BusyError when it is being written,
    StorageError when there is no room.
    """
    disk = run_disk(guest, drive)
    name = os.path.basename(disk.path)
    _make_empty(disk, work.inside(name), standing, sync=True)
    work.move(name, directory)
    directory.sync()
    return disk


def make_throw_away(
    guest: Guest, drive: Drive, directory: Directory, *, work: Directory, standing: Standing
) -> RunDisk:
    """Put a COW file in place that shows what the drive holds now and is to be removed after the run.

    `directory` is the guest's, `work` of `scratch`, `standing` what the guest's COW files have. Raises what
    `make_empty` raises, and DataError or BusyError when the drive's COW file cannot be copied.
    """
    disk = run_disk(guest, drive, thrown_away=True)
    name = os.path.basename(disk.path)
    if drive.cow_name and directory.mode_of(drive.cow_name) is not None:
        with _open_cow(directory, drive.cow_name, standing) as cow:
            _copy(cow, work.inside(name), standing)
    else:
        _make_empty(disk, work.inside(name), standing, sync=False)
    work.move(name, directory)
    return disk


def _make_empty(disk: RunDisk, path: str, standing: Standing, *, sync: bool) -> None:
    assert disk.backing is not None
    with open_backing(disk.backing, cow=disk.path) as base:
        header = new_header(Dialect.V3, base, where=disk.path)
        with new_cow(path, header, replace=False, sync=sync) as made, explained("change the owner or mode", disk.path):
            standing.give(made.fd)


@contextmanager
def _open_cow(directory: Directory, name: str, standing: Standing) -> Iterator[DiskFile]:
    """Open and read-lock a COW file that may be copied; as root never through a symlink."""
    path = directory.inside(name)
    as_root = os.geteuid() == 0
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if as_root and stat.S_ISLNK(directory.mode_of(name) or 0):
        raise DataError("the COW file is a symlink, which is not followed as root", where=path)
    with explained("open", path):
        cow = DiskFile(path, os.open(name, flags | (os.O_NOFOLLOW if as_root else 0), dir_fd=directory.fd))
    with cow:
        status = cow.status
        if not stat.S_ISREG(status.st_mode):
            raise DataError("the COW file is not a regular file", where=path)
        if as_root and status.st_uid != standing.uid and status.st_nlink != 1:
            raise DataError("the COW file is somebody else's, and has another name too", where=path)
        locks.lock(cow.fd, path, exclusive=False)
        journals.refuse_unfinished_merge(cow)
        yield cow


def _copy(cow: DiskFile, path: str, standing: Standing) -> None:
    """Copy all of it, sharing its blocks where the file system can, else without its holes."""
    with staged(path, sync=False) as copy, explained("copy", cow.path):
        if not transfer.reflink(cow.fd, copy.fd):
            size_bytes = cow.size_bytes
            os.ftruncate(copy.fd, size_bytes)
            for start, end in sparse.data_extents(cow.fd, 0, size_bytes):
                transfer.copy(cow.fd, start, copy.fd, start, end - start)
        standing.give(copy.fd)
