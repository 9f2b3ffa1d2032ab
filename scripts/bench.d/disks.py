"""The disks that are measured on: a backing file and a COW file over it, made from a few numbers.

Contents are pseudo-random and repeatable; no page of DATA is zero, no page of the COW file equals one of the backing
file. The COW file is written as the kernel writes it (version 3, alignment 4096): whole bitmap, data where it belongs,
holes everywhere else. Its path is relative, so that both files can be copied to another directory together.
"""

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from extents import CHUNK_BYTES, Range

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SECTOR_BYTES = 512
PAGE_BYTES = 4096
BASE, COW = "base", "cow"

_HEADER = struct.Struct(">IIIQIII4096s")
_MAGIC = 0x4F4F4F4D
_BITMAP_OFFSET = 8192
_MTIME_SECONDS = 1_600_000_000


class Contents(Enum):
    """What the guest put into the changed sectors."""

    DATA = "data"
    ZEROS = "zeros, written"
    HOLES = "zeros, discarded"


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk: where the backing file has data, and where the guest changed it; ranges in bytes, whole pages.

    `page_bits` is the bitmap's byte for each changed page: 0xff when the guest wrote all of its sectors.
    """

    size_bytes: int
    base_data: tuple[Range, ...]
    changed: tuple[Range, ...]
    page_bits: int = 0xFF
    contents: Contents = Contents.DATA

    @property
    def base_bytes(self) -> int:
        """Room that the backing file takes."""
        return _total(self.base_data)

    @property
    def cow_bytes(self) -> int:
        """Room that the COW file takes, a whole page of bitmap for each run counted in."""
        data = 0 if self.contents is Contents.HOLES else _total(self.changed)
        return data + min(len(self.changed) * PAGE_BYTES, self.size_bytes // PAGE_BYTES)


def _total(ranges: tuple[Range, ...]) -> int:
    return sum(end - start for start, end in ranges)


def blocks(seed: int, *, disk_bytes: int, block_bytes: int, count: int) -> tuple[Range, ...]:
    """Choose `count` blocks of the disk at random."""
    chosen = random.Random(seed).sample(range(disk_bytes // block_bytes), count)
    return tuple((number * block_bytes, (number + 1) * block_bytes) for number in sorted(chosen))


def uneven_runs(seed: int, *, disk_bytes: int, count: int, total_bytes: int) -> tuple[Range, ...]:
    """Choose `count` runs of one page and more, of very different lengths, that together have about `total_bytes`."""
    source = random.Random(seed)
    slot_pages = disk_bytes // count // PAGE_BYTES
    weights = [source.paretovariate(1.5) for _ in range(count)]
    runs = []
    for number, weight in enumerate(weights):
        pages = min(slot_pages - 1, max(1, round(total_bytes * weight / sum(weights) / PAGE_BYTES)))
        start = number * slot_pages + source.randrange(slot_pages - pages)
        runs.append((start * PAGE_BYTES, (start + pages) * PAGE_BYTES))
    return tuple(runs)


class Pattern(Protocol):
    """What a disk is filled with."""

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield the bytes from `start` up to `end` of the disk, in pieces with where each begins."""


class _Pattern:
    """Endless bytes without a zero page: one random block, begun at another place in every chunk of the disk."""

    def __init__(self, seed: int) -> None:
        self._bytes = memoryview(random.Random(seed).randbytes(2 * CHUNK_BYTES))

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        while start < end:
            number, within = divmod(start, CHUNK_BYTES)
            length = min(end - start, CHUNK_BYTES - within)
            first = number * 40_961 % CHUNK_BYTES + within
            yield start, self._bytes[first : first + length]
            start += length


def make(disk: Disk, directory: Path) -> None:
    """Write the files BASE and COW into `directory`."""
    base = directory / BASE
    with base.open("wb", buffering=0) as file:
        file.truncate(disk.size_bytes)
        write_ranges(file.fileno(), 0, disk.base_data, _Pattern(1))
    os.utime(base, (_MTIME_SECONDS, _MTIME_SECONDS))
    with (directory / COW).open("wb", buffering=0) as file:
        write_cow(file.fileno(), disk)


def write_ranges(fd: int, shift: int, ranges: tuple[Range, ...], pattern: Pattern) -> None:
    """Write ranges of a disk, each `shift` bytes further on in the file."""
    for start, end in ranges:
        for offset, piece in pattern.pieces(start, end):
            os.pwrite(fd, piece, shift + offset)


def write_cow(
    fd: int,
    disk: Disk,
    *,
    backing: str = BASE,
    mtime_seconds: int = _MTIME_SECONDS,
    pattern: Pattern | None = None,
) -> None:
    """Fill a new file with the COW file of `disk`, over the file called `backing` with that time of change."""
    bitmap_bytes = -(-disk.size_bytes // PAGE_BYTES)
    data_offset = -(-(_BITMAP_OFFSET + bitmap_bytes) // PAGE_BYTES) * PAGE_BYTES
    os.truncate(fd, data_offset + disk.size_bytes)
    name = backing.encode("ascii")
    header = _HEADER.pack(_MAGIC, 3, mtime_seconds, disk.size_bytes, SECTOR_BYTES, PAGE_BYTES, 0, name)
    os.pwrite(fd, header, 0)
    for start, end in disk.changed:
        pages = (end - start) // PAGE_BYTES
        os.pwrite(fd, bytes([disk.page_bits]) * pages, _BITMAP_OFFSET + start // PAGE_BYTES)
    if disk.page_bits != 0xFF:
        _write_some_sectors(fd, data_offset, disk)
    elif disk.contents is Contents.DATA:
        write_ranges(fd, data_offset, disk.changed, pattern or _Pattern(2))
    elif disk.contents is Contents.ZEROS:
        _write_zeros(fd, data_offset, disk)


def _write_some_sectors(fd: int, data_offset: int, disk: Disk) -> None:
    """Write pages of which only some sectors were changed; the others are zeros, as in a file with holes."""
    sectors = [number for number in range(PAGE_BYTES // SECTOR_BYTES) if disk.page_bits >> number & 1]
    for start, end in disk.changed:
        for offset, piece in _Pattern(2).pieces(start, end):
            chunk = bytearray(len(piece))
            for page in range(0, len(piece), PAGE_BYTES):
                for sector in sectors:
                    low = page + sector * SECTOR_BYTES
                    chunk[low : low + SECTOR_BYTES] = piece[low : low + SECTOR_BYTES]
            os.pwrite(fd, chunk, data_offset + offset)


def _write_zeros(fd: int, data_offset: int, disk: Disk) -> None:
    zeros = memoryview(bytes(CHUNK_BYTES))
    for start, end in disk.changed:
        for offset in range(start, end, CHUNK_BYTES):
            os.pwrite(fd, zeros[: end - offset], data_offset + offset)
