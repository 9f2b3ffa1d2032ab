"""Every path of a file system, and the number of the inode it leads to.

Only directories are read: an entry says whether it leads to one, except in file systems without the feature `filetype`,
where its inode has to be asked. A directory has one name, so that the inode numbers of those already seen tell a circle
(or a directory in two places) from a tree, and all of them together cannot have more blocks than the file system.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from umldisk.errors import DataError
from umldisk.image.extfs import layout
from umldisk.image.extfs.directory import names
from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inode import read_inode

LONGEST_PATH_BYTES = 4095
"""As in the kernel (PATH_MAX without its NUL). Longer paths exist only where they were made piece by piece."""


class Name(NamedTuple):
    """One path with its inode number; `is_directory` is what the directory that holds it says."""

    path: str
    number: int
    is_directory: bool


class _Walk:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._seen: set[int] = set()
        self._left_bytes = disk.geometry.size_bytes

    def names(self) -> Iterator[Name]:
        """Yield "/" and all below it."""
        yield Name("/", layout.ROOT_INODE, is_directory=True)
        pending = [self._directory("", layout.ROOT_INODE)]
        while pending:
            for name in pending[-1]:
                yield name
                if name.is_directory:
                    pending.append(self._directory(name.path, name.number))
                    break
            else:
                pending.pop()

    def _directory(self, path: str, number: int) -> Iterator[Name]:
        """Yield the names of one directory, sorted as bytes."""
        disk = self._disk
        if number in self._seen:
            raise disk.damaged("a directory is reached twice", number, found=path or "/")
        self._seen.add(number)
        inode = read_inode(disk, number)
        self._left_bytes -= inode.size_bytes
        if self._left_bytes < 0:
            raise disk.damaged("the directories are larger than the file system", number, found=path or "/")
        entries = names(disk, inode)
        prefix = path + "/"
        room = LONGEST_PATH_BYTES - len(prefix.encode("utf-8", "surrogateescape"))
        for name in sorted(entries):
            child, kind = entries[name]
            if child < disk.geometry.first_inode:
                raise disk.damaged("a name leads to a reserved inode", child, found=f"{prefix}{name!r}")
            if len(name) > room:
                raise DataError("a path is too long", where=disk.where or None, found=f"{prefix[:80]}...")
            is_directory = kind == layout.TYPE_DIRECTORY
            if kind == layout.TYPE_UNKNOWN:
                is_directory = read_inode(disk, child).is_directory
            yield Name(prefix + name.decode("utf-8", "surrogateescape"), child, is_directory)


def walk_names(disk: Disk) -> Iterator[Name]:
    """Yield "/" and every path below it, each directory before what it holds, sorted by name, hard links separately.

    Raises DataError for a damaged directory, for one that is reached twice, and for a path that no program could open.
    """
    yield from _Walk(disk).names()
