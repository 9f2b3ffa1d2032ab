"""The pool: where the contents of a base wait, each file once, until they are moved into place.

A base may be a stream that passes once and is larger than memory. So contents are written down as they come, under
running numbers, in a directory beside the disks to be. On the way their SHA-256 is taken, and pages of zeros are left
out: mke2fs makes holes of them anyway, and counting what is left tells whether the drive is large enough.

Numbers, not names: nothing that a base says about paths reaches the builder's file system through the pool. Putting a
file in place is a rename, so that it has one name: mke2fs looks through a list for each file with several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from umldisk.build.tree import Contents, Entry, FileType, HardLink
from umldisk.errors import DataError, from_os_error
from umldisk.system import sparse, transfer
from umldisk.system.digest import contents_sha256


@dataclass(frozen=True, slots=True)
class Stored:
    """Contents in a pool; `pages` of 4096 bytes hold something, `sha256` is of the whole file."""

    path: str
    size_bytes: int
    pages: int
    sha256: bytes

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield what is not a hole, while the file is still in the pool."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in sparse.data_extents(fd, 0, self.size_bytes):
                for place in range(start, end, transfer.CHUNK_BYTES):
                    yield place, os.pread(fd, min(transfer.CHUNK_BYTES, end - place), place)
        finally:
            os.close(fd)


class Pool:
    """A directory of contents; `place` moves them out, and removing the directory removes the rest.

    It takes at most `most_bytes`, holes and zeros not counted: what is more could be on no drive, and a small archive
    can hold very much.
    """

    def __init__(self, directory: str, *, most_bytes: int | None = None) -> None:
        self._directory = directory
        self._count = 0
        self._counter = _PageCounter(most_bytes)
        try:
            os.mkdir(directory)
            os.chmod(directory, 0o700)
        except OSError as error:
            raise from_os_error(error, "create a scratch directory", directory) from error

    def take(
        self, entries: Iterator[Entry | HardLink], *, when_read: Callable[[int], object] = lambda _bytes: None
    ) -> Iterator[Entry | HardLink]:
        """Yield `entries` with the contents of every file stored; tell `when_read` how much, holes included."""
        for entry in entries:
            if isinstance(entry, Entry) and entry.inode.type is FileType.FILE:
                yield Entry(entry.path, replace(entry.inode, contents=self.store(entry.inode.contents, when_read)))
            else:
                yield entry

    def store(self, contents: Contents, when_read: Callable[[int], object] = lambda _bytes: None) -> Stored:
        """Write `contents` down, holes and pages of zeros as holes.

        Raises StorageError when there is no room, DataError when that is more than the pool takes.
        """
        path = os.path.join(self._directory, str(self._count))
        self._count += 1
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(fd, 0o600)
                pages, digest = _write(fd, contents, self._counter, when_read)
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os_error(error, "write scratch files", path) from error
        return Stored(path, contents.size_bytes, pages, digest)

    @staticmethod
    def place(stored: Stored, name: bytes, *, dir_fd: int, again: bool) -> None:
        """Make `stored` the file `name` below the directory `dir_fd`; `again` keeps it for one more place."""
        if again:
            os.link(stored.path, name, dst_dir_fd=dir_fd)
        else:
            os.rename(stored.path, name, dst_dir_fd=dir_fd)


def _write(fd: int, contents: Contents, counter: _PageCounter, when_read: Callable[[int], object]) -> tuple[int, bytes]:
    """Write to an empty file; return how many pages hold something, and the digest of all."""
    before, end = counter.begin(), 0

    def written() -> Iterator[tuple[int, bytes]]:
        nonlocal end
        for offset, data in contents.pieces():
            for start, stop in transfer.nonzero_spans(data, len(data)):
                end = offset + stop
                transfer.write_all(fd, offset + start, memoryview(data)[start:stop])
                counter.count(offset + start, end)
            yield offset, data

    digest = contents_sha256(written(), contents.size_bytes, when_hashed=when_read)
    if end < contents.size_bytes:  # to the same length, too, ext4 would truncate with a transaction
        os.ftruncate(fd, contents.size_bytes)
    return counter.pages - before, digest


class _PageCounter:
    """Counts the pages that ascending stretches of one file after the other touch, each page once."""

    def __init__(self, most_bytes: int | None) -> None:
        self.pages = 0
        self._most_bytes = most_bytes
        self._end = 0

    def begin(self) -> int:
        """Begin the next file; return how many pages all files before it have."""
        self._end = 0
        return self.pages

    def count(self, start: int, stop: int) -> None:
        first = max(start // transfer.PAGE_BYTES, self._end)
        self._end = max(-(-stop // transfer.PAGE_BYTES), self._end)
        self.pages += max(self._end - first, 0)
        if self._most_bytes is not None and self.pages * transfer.PAGE_BYTES > self._most_bytes:
            raise DataError(
                "the base holds more than all drives together",
                expected=f"at most {self._most_bytes >> 20} MiB",
                hint="give a drive another size in umldisk.toml",
            )
