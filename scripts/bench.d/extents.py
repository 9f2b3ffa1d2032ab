"""Files as extents: copied, warmed and compared without touching holes, and what a file system keeps for them.

Written without umldisk's own modules, so that a fault there cannot hide itself here.
"""

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Range = tuple[int, int]

CHUNK_BYTES = 1 << 20

_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_FLAG_SYNC = 1
_FIEMAP_EXTENT_LAST = 0x1
_FIEMAP_EXTENT_SHARED = 0x2000
_FIEMAP = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQQQIIII")
_EXTENTS_AT_ONCE = 512


class Allocation(NamedTuple):
    """What a file system holds for a stretch of a file, in bytes."""

    allocated_bytes: int
    shared_bytes: int


def data_ranges(fd: int, start: int, end: int) -> Iterator[Range]:
    """Yield the stretches between `start` and `end` that hold data, in order; what is left out is zeros."""
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        if start < stop:
            yield start, stop
        start = stop


def warm(path: Path) -> None:
    """Read all data of a file, so that it lies in the page cache."""
    buffer = bytearray(CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        for start, end in data_ranges(file.fileno(), 0, path.stat().st_size):
            for offset in range(start, end, CHUNK_BYTES):
                os.preadv(file.fileno(), [memoryview(buffer)[: end - offset]], offset)


def duplicate(source: Path, target: Path) -> None:
    """Copy a file with its holes and its times; the data is shared where the file system can."""
    size_bytes = source.stat().st_size
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        new.truncate(size_bytes)
        for start, end in data_ranges(old.fileno(), 0, size_bytes):
            done = start
            while done < end:
                done += os.copy_file_range(old.fileno(), new.fileno(), end - done, done, done)
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def first_difference(one: Path, other: Path) -> str | None:
    """Say where two files differ first, or return None; stretches that are holes in both are not read."""
    sizes = one.stat().st_size, other.stat().st_size
    if sizes[0] != sizes[1]:
        return f"sizes {sizes[0]} and {sizes[1]}"
    with one.open("rb", buffering=0) as a, other.open("rb", buffering=0) as b:
        for first, second in ((a, b), (b, a)):
            for start, end in data_ranges(first.fileno(), 0, sizes[0]):
                for offset in range(start, end, CHUNK_BYTES):
                    length = min(CHUNK_BYTES, end - offset)
                    if os.pread(first.fileno(), length, offset) != os.pread(second.fileno(), length, offset):
                        return f"contents from byte {offset} on"
    return None


def allocation(path: Path, start: int = 0, end: int | None = None) -> Allocation:
    """Return what is allocated, and shared with other files, between `start` and `end` (FIEMAP, after a sync).

    Raises OSError where the file system cannot tell (tmpfs).
    """
    stop = path.stat().st_size if end is None else end
    allocated = shared = 0
    with path.open("rb", buffering=0) as file:
        for low, high, flags in _mapped(file.fileno(), start, stop):
            length = min(high, stop) - max(low, start)
            allocated += length
            shared += length if flags & _FIEMAP_EXTENT_SHARED else 0
    return Allocation(allocated, shared)


def _mapped(fd: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    buffer = ctypes.create_string_buffer(_FIEMAP.size + _EXTENTS_AT_ONCE * _FIEMAP_EXTENT.size)
    while start < end:
        _FIEMAP.pack_into(buffer, 0, start, end - start, _FIEMAP_FLAG_SYNC, 0, _EXTENTS_AT_ONCE, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        found = _FIEMAP.unpack_from(buffer)[3]
        if not found:
            return
        for number in range(found):
            place = _FIEMAP.size + number * _FIEMAP_EXTENT.size
            logical, _physical, length, _, _, flags, _, _, _ = _FIEMAP_EXTENT.unpack_from(buffer, place)
            yield logical, logical + length, flags
            start = logical + length
            if flags & _FIEMAP_EXTENT_LAST:
                return
