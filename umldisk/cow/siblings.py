"""Other COW files on the same backing file.

Nothing says which COW files a backing file has; only they know. So the two directories where they usually lie, the COW
file's own and the backing file's, are looked through: of each regular file the first few KiB. Elsewhere, and where we
may not read, there may be more. Whether two names mean one file is decided by device and inode number.

A header that can be read in several layouts counts when any of them names the backing file: who is about to change a
backing file wants to hear of one too many rather than of one too few.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.detect import candidate_dialects
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import backing_path_of
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal
from umldisk.errors import DataError, NoInputError
from umldisk.system import files
from umldisk.system.files import DiskFile, Identity


@dataclass(frozen=True, slots=True)
class Sibling:
    """A COW file beside another; `fits` when the backing file has the size and mtime that its header names."""

    path: str
    dialect: Dialect
    fits: bool


def find(cow_path: str | os.PathLike[str], backing: DiskFile) -> tuple[Sibling, ...]:
    """Return the other COW files on the open backing file, sorted by path, each file once.

    Files that may not be read or are no COW files are passed over in silence; nothing but regular files is opened.
    Raises StorageError when one fails to be read: it might be one that counts.
    """
    seen = {backing.identity}
    own = files.identify(cow_path)
    if own is not None:
        seen.add(own)
    found = []
    for path, identity in _regular_files(_directories(cow_path, backing)):
        if identity not in seen:
            seen.add(identity)
            sibling = _look_at(path, backing)
            if sibling is not None:
                found.append(sibling)
    return tuple(sorted(found, key=lambda sibling: sibling.path))


def _directories(cow_path: str | os.PathLike[str], backing: DiskFile) -> tuple[str, ...]:
    """The directories of both files, as they are named and as they really are (either may be a symlink)."""
    named = [os.fspath(cow_path), os.path.realpath(cow_path), backing.path, os.path.realpath(backing.path)]
    return tuple(dict.fromkeys(os.path.realpath(os.path.dirname(os.path.abspath(path))) for path in named))


def _regular_files(directories: tuple[str, ...]) -> Iterator[tuple[str, Identity]]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            path = os.path.join(directory, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, Identity.of(status)


def _look_at(path: str, backing: DiskFile) -> Sibling | None:
    try:
        with files.open_disk(path) as disk:
            readings = [header for header in _readings(disk) if _stands_on(disk, header, backing)]
    except (DataError, NoInputError):
        return None
    if not readings:
        return None
    of_size = [header for header in readings if header.size_bytes == backing.size_bytes]
    header = (of_size or readings)[0]
    fits = bool(of_size) and header.mtime == backing.mtime_seconds & 0xFFFFFFFF
    return Sibling(path, header.dialect, fits)


def _readings(disk: DiskFile) -> Iterator[CowHeader]:
    """Yield the header in every layout that it can be read in."""
    raw = disk.read_at(0, 8)
    if not headers.looks_like_cow(raw):
        return
    raw = _mended(disk, disk.read_at(0, headers.HEADER_READ_BYTES))
    for dialect in candidate_dialects(raw, where=disk.path):
        try:
            yield headers.parse(raw, dialect, where=disk.path)
        except DataError:
            continue


def _mended(disk: DiskFile, raw: bytes) -> bytes:
    """Take a header whose rewriting was interrupted from its journal, if that can be believed."""
    try:
        pending = journals.read(disk.path)
        return pending.mend(raw, where=disk.path) if isinstance(pending, HeaderJournal) else raw
    except DataError:
        return raw


def _stands_on(disk: DiskFile, header: CowHeader, backing: DiskFile) -> bool:
    return files.identify(backing_path_of(disk, header)) == backing.identity
