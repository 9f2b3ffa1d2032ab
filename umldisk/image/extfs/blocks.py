"""Which blocks a file has, by either of the two maps that ext knows.

    pointers   12 blocks, then a block of pointers, one of those, one of those (ext2, ext3); 0 is a hole
    extents    a tree of at most five levels; its leaves are (first block, length, where) (ext4)

Both give runs: first block of the file, first block on the disk, length, ascending. What the file's size does not
reach is left out, and so are extents that were never written: both read as zeros. Invariant, and what keeps a damaged
map from leading in circles: runs ascend without overlap, a node is one level below its parent, and data and nodes
together are no more than the file system has blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from umldisk.image.extfs import layout
from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inode import ExtInode

_DIRECT = 12
_POINTER_BYTES = 4


class Run(NamedTuple):
    """`length` blocks from block `start` of a file on, which stand on the disk from block `place` on."""

    start: int
    place: int
    length: int


def runs(disk: Disk, inode: ExtInode) -> Iterator[Run]:
    """Yield the runs of a file or directory whose contents are in blocks.

    Raises DataError for a map that is damaged.
    """
    end = -(-inode.size_bytes // disk.geometry.block_bytes)
    if inode.has(layout.FLAG_EXTENTS):
        found = _Extents(disk, inode).node(inode.block_area, None, 0)
    else:
        found = _merged(_Pointers(disk, inode, end).blocks())
    for run in found:
        if run.start >= end:
            return
        yield Run(run.start, run.place, min(run.length, end - run.start))


class _Budget:
    """Counts the blocks of one file, which cannot be more than there are."""

    def __init__(self, disk: Disk, inode: ExtInode) -> None:
        self.disk = disk
        self.number = inode.number
        self._left = disk.geometry.blocks

    def take(self, place: int, count: int) -> None:
        """Count blocks of the file's, data or map."""
        self.disk.require_blocks(place, count, self.number)
        self._left -= count
        if self._left < 0:
            found = "the same ones again"
            raise self.disk.damaged("a file has more blocks than there are", self.number, found=found)

    def node(self, place: int) -> bytes:
        """Read a block of the map."""
        self.take(place, 1)
        return self.disk.block(place, self.number)


class _Extents:
    """A walk over one tree of extents."""

    def __init__(self, disk: Disk, inode: ExtInode) -> None:
        self._budget = _Budget(disk, inode)
        self._disk = disk
        self._inode = inode
        self._reached = 0

    def node(self, raw: bytes, depth: int | None, start: int) -> Iterator[Run]:
        """Yield the runs below a node; `depth` is what its parent says, None for the root."""
        entries, depth = self._header(raw, depth)
        size = layout.EXTENT_HEADER.size
        part = raw[size : size + entries * layout.EXTENT.size]
        if depth == 0:
            yield from self._leaf(part)
            return
        for first, low, high, _unused in layout.EXTENT_INDEX.iter_unpack(part):
            if first < max(start, self._reached):
                raise self._damaged("the extents of a file do not ascend", f"{self._reached} or more", first)
            yield from self.node(self._budget.node(high << 32 | low), depth - 1, first)

    def _header(self, raw: bytes, expected_depth: int | None) -> tuple[int, int]:
        magic, entries, _room, depth, _generation = layout.EXTENT_HEADER.unpack_from(raw)
        if magic != layout.EXTENT_MAGIC:
            raise self._damaged("bad magic of an extent tree", hex(layout.EXTENT_MAGIC), hex(magic))
        if depth > layout.EXTENT_MAX_DEPTH or expected_depth not in (None, depth):
            expected = f"at most {layout.EXTENT_MAX_DEPTH}" if expected_depth is None else expected_depth
            raise self._damaged("bad depth of an extent tree", expected, depth)
        most = (len(raw) - layout.EXTENT_HEADER.size) // layout.EXTENT.size
        least = 1 if depth else 0
        if not least <= entries <= most:
            raise self._damaged("bad number of extents", f"{least} to {most}", entries)
        return entries, depth

    def _leaf(self, part: bytes) -> Iterator[Run]:
        for first, length, high, low in layout.EXTENT.iter_unpack(part):
            written = length <= layout.EXTENT_LONGEST
            blocks = length if written else length - layout.EXTENT_LONGEST
            if first < self._reached or blocks == 0:
                raise self._damaged("the extents of a file do not ascend", f"{self._reached} or more", first)
            self._reached = first + blocks
            place = high << 32 | low
            self._budget.take(place, blocks)
            if written:
                yield Run(first, place, blocks)

    def _damaged(self, what: str, expected: object, found: object) -> Exception:
        return self._disk.damaged(what, self._inode.number, expected=expected, found=found)


class _Pointers:
    """A walk over the pointers of one file, up to block `end` of it."""

    def __init__(self, disk: Disk, inode: ExtInode, end: int) -> None:
        self._budget = _Budget(disk, inode)
        self._area = inode.block_area
        self._end = end
        self._per_block = disk.geometry.block_bytes // _POINTER_BYTES
        self._format = struct.Struct(f"<{self._per_block}I")

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield block of the file and block on the disk, ascending."""
        pointers = struct.unpack("<15I", self._area)
        for number, place in enumerate(pointers[:_DIRECT]):
            if place and number < self._end:
                self._budget.take(place, 1)
                yield number, place
        start = _DIRECT
        for level, place in enumerate(pointers[_DIRECT:], start=1):
            if place:
                yield from self._below(place, level, start)
            start += self._per_block**level

    def _below(self, place: int, level: int, start: int) -> Iterator[tuple[int, int]]:
        """Yield what a block of pointers `level` steps above the data leads to."""
        if start >= self._end:
            return
        step = self._per_block ** (level - 1)
        raw = self._budget.node(place)
        for index, pointer in enumerate(self._format.unpack(raw)):
            number = start + index * step
            if number >= self._end:
                return
            if pointer and level > 1:
                yield from self._below(pointer, level - 1, number)
            elif pointer:
                self._budget.take(pointer, 1)
                yield number, pointer


def _merged(blocks: Iterator[tuple[int, int]]) -> Iterator[Run]:
    """Join blocks that follow each other in the file and on the disk."""
    start = place = length = 0
    for number, found in blocks:
        if length and number == start + length and found == place + length:
            length += 1
            continue
        if length:
            yield Run(start, place, length)
        start, place, length = number, found, 1
    if length:
        yield Run(start, place, length)
