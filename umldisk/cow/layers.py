"""A disk as a stack of layers: COW files on top of each other, a raw image at the bottom.

    CowLayer   changed sectors are mine, everything else comes from below
    CowLayer   ...
    RawLayer   an ordinary image

A layer answers two questions. `segments(start, end)` says, in order and without gaps, where each stretch of the disk
comes from: ZERO (a hole), DATA (bytes of one layer's file, at a known offset), or MIXED (changed and unchanged
sectors so interleaved that they are better read than listed). `read_into(offset, view)` fills a buffer with what a
guest would see.

Invariants. A sector is changed if and only if its bit is set: holes only turn DATA into ZERO. The bitmap is read
through a window of bounded size, and its unallocated parts are skipped, so memory and time follow the changes and not
the disk. Nothing here writes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from umldisk.cow import bitmap
from umldisk.cow.bitmap import Run, Stretch
from umldisk.cow.geometry import SECTORS_PER_BYTE
from umldisk.cow.header import CowHeader
from umldisk.errors import DataError
from umldisk.system import sparse, transfer
from umldisk.system.files import DiskFile
from umldisk.system.transfer import CHUNK_BYTES, PAGE_BYTES

WINDOW_BYTES = 64 * 1024
"""How much of a bitmap is held at once: 256 MiB of disk with 512-byte sectors."""

_CACHED_PLACES = 4096
"""Lists of buffers that are kept for scattered reads, a few megabytes at most."""


Reader = Callable[[int, memoryview], None]
"""Fills a buffer with the disk's contents from a byte offset on; Layer.read_into is one."""


class Kind(Enum):
    """Where a segment's contents come from."""

    ZERO = "zero"
    DATA = "data"
    MIXED = "mixed"


class Segment(NamedTuple):
    """The bytes from `start` up to `end` of the disk, and the layer that decides about them."""

    start: int
    end: int
    kind: Kind
    layer: Layer

    @property
    def file_offset(self) -> int:
        """Where DATA lies in the layer's file."""
        return self.layer.data_offset + self.start


class Layer(ABC):
    """One level of the stack, over one open file. `data_offset` is where byte 0 of the disk lies in it."""

    def __init__(self, disk: DiskFile, *, size_bytes: int, data_offset: int) -> None:
        self.disk = disk
        self.size_bytes = size_bytes
        self.data_offset = data_offset
        self._data = sparse.DataMap(disk.fd)

    @abstractmethod
    def segments(self, start: int, end: int) -> Iterator[Segment]:
        """Yield where the bytes from `start` up to `end` come from, in order and without gaps."""

    @abstractmethod
    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the disk's contents from `offset`; the range must lie inside the disk."""

    def own_segments(self, start: int, end: int) -> Iterator[Segment]:
        """Yield what this layer's own file has there, as DATA and ZERO, cut at page boundaries of the disk.

        In versions 1 and 2 the data is not page-aligned in the file, so that a page of the disk may lie half in a hole.
        """
        position, shift = start, self.data_offset
        for low, high in self._data.extents(start + shift, end + shift):
            data_start = max(position, (low - shift) & -PAGE_BYTES)
            data_end = high - shift
            if data_end % PAGE_BYTES:
                data_end = min(-(-data_end // PAGE_BYTES) * PAGE_BYTES, end, self.disk.size_bytes - shift)
            if data_end <= data_start:
                continue
            if data_start > position:
                yield Segment(position, data_start, Kind.ZERO, self)
            yield Segment(data_start, data_end, Kind.DATA, self)
            position = data_end
        if position < end:
            yield Segment(position, end, Kind.ZERO, self)

    def read_own(self, offset: int, view: memoryview) -> None:
        """Fill `view` with this layer's own bytes, changed or not; zeros where the file ends early."""
        count = transfer.read_into(self.disk.fd, self.data_offset + offset, view)
        if count < len(view):
            view[count:] = bytes(len(view) - count)


class RawLayer(Layer):
    """An ordinary disk image."""

    def __init__(self, disk: DiskFile) -> None:
        super().__init__(disk, size_bytes=disk.size_bytes, data_offset=0)

    def segments(self, start: int, end: int) -> Iterator[Segment]:
        """Yield the image's data and holes."""
        return self.own_segments(start, end)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Read from the image."""
        self.read_own(offset, view)


class CowLayer(Layer):
    """A COW file over the layer `below`; None where the backing is not there and only the bitmap is of interest."""

    def __init__(self, disk: DiskFile, header: CowHeader, below: Layer | None) -> None:
        self.header = header
        self.geometry = header.geometry
        super().__init__(disk, size_bytes=header.size_bytes, data_offset=self.geometry.data_offset)
        self._below = below
        group_bytes = self.geometry.group_bytes
        self._block_bytes = max(1, CHUNK_BYTES // group_bytes) * group_bytes
        self._scratch = memoryview(bytearray(self._block_bytes))
        self._dump = memoryview(bytearray(group_bytes))
        self._cache: dict[int, list[memoryview]] = {}

    @property
    def below(self) -> Layer:
        """The layer that unchanged sectors come from."""
        if self._below is None:
            raise DataError("the backing file is not open", where=self.disk.path)
        return self._below

    # -- the bitmap ---------------------------------------------------------------------------------------------

    def windows(self, first: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield the allocated parts of the bitmap as (number of the first byte, bytes), bits past the disk cleared.

        `first` and `end` are byte numbers in the bitmap. What is not yielded is zero, also what is cut off.
        """
        geometry = self.geometry
        shift = geometry.bitmap_offset
        stop = geometry.bitmap_bytes if end is None else min(end, geometry.bitmap_bytes)
        for low, high in sparse.data_extents(self.disk.fd, first + shift, stop + shift):
            for position in range(low, high, WINDOW_BYTES):
                window = self.disk.read_at(position, min(WINDOW_BYTES, high - position))
                number = position - shift
                yield number, bitmap.mask_last(window, geometry.sectors - number * SECTORS_PER_BYTE)

    def runs(self, first_sector: int = 0) -> Iterator[Run]:
        """Yield the changed sectors as maximal runs in order, from `first_sector` (a multiple of 8) on."""
        held: Run | None = None
        for number, window in self.windows(first_sector // SECTORS_PER_BYTE):
            for run in bitmap.runs(window, number * SECTORS_PER_BYTE):
                if held is None:
                    held = run
                elif run.start == held.end:
                    held = Run(held.start, held.sectors + run.sectors)
                else:
                    yield held
                    held = run
        if held is not None:
            yield held

    def stretches(self, first: int = 0, end: int | None = None) -> Iterator[Stretch]:
        """Yield full and mixed groups as maximal stretches in order; `first` and `end` are group numbers.

        A last group that the disk's end cuts counts as full when all sectors that it has are changed.
        """
        held: Stretch | None = None
        for number, window in self.windows(first, end):
            for stretch in bitmap.stretches(self._with_whole_last_group(number, window), number):
                if held is not None and stretch.start == held.end and stretch.mixed == held.mixed:
                    held = Stretch(held.start, stretch.end, held.mixed)
                    continue
                if held is not None:
                    yield held
                held = stretch
        if held is not None:
            yield held

    def _with_whole_last_group(self, number: int, window: bytes) -> bytes:
        spare_sectors = self.geometry.sectors % SECTORS_PER_BYTE
        is_last = number + len(window) == -(-self.geometry.sectors // SECTORS_PER_BYTE)
        if spare_sectors and is_last and window[-1] == (1 << spare_sectors) - 1:
            return window[:-1] + b"\xff"
        return window

    def changed_sectors(self) -> int:
        """Return how many sectors are changed."""
        return sum(bitmap.count(window) for _number, window in self.windows())

    # -- the disk -----------------------------------------------------------------------------------------------

    def changed(self, start: int = 0, end: int | None = None, *, split_holes: bool = True) -> Iterator[Segment]:
        """Yield the segments that this layer itself decides about, in order; the gaps between come from below.

        Without `split_holes` DATA may hold holes, which saves asking for them where a reflink copies them as they are.
        """
        stop = min(self.size_bytes if end is None else end, self.geometry.mapped_bytes)
        group_bytes = self.geometry.group_bytes
        for stretch in self.stretches(start // group_bytes, -(-stop // group_bytes)):
            low, high = max(stretch.start * group_bytes, start), min(stretch.end * group_bytes, stop)
            if not stretch.mixed and split_holes:
                yield from self.own_segments(low, high)
            else:
                yield Segment(low, high, Kind.MIXED if stretch.mixed else Kind.DATA, self)

    def segments(self, start: int, end: int) -> Iterator[Segment]:
        """Yield where the bytes come from, through all layers."""
        position = start
        for segment in self.changed(start, end):
            if segment.start > position:
                yield from self.below.segments(position, segment.start)
            yield segment
            position = segment.end
        if position < end:
            yield from self.below.segments(position, end)

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with what a guest sees from `offset`."""
        for low, high in self._blocks(offset, offset + len(view)):
            part = view[low - offset : high - offset]
            window = self._window_over(low, high)
            if window.count(0xFF) == len(window):
                self.read_own(low, part)
                continue
            self.below.read_into(low, part)
            if any(window):
                self._overlay(low, part, window)

    def overlay_into(self, offset: int, view: memoryview) -> None:
        """Lay the changed sectors over `view`, which holds what is below."""
        for low, high in self._blocks(offset, offset + len(view)):
            window = self._window_over(low, high)
            if any(window):
                self._overlay(low, view[low - offset : high - offset], window)

    def _blocks(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut a range where blocks of the scratch buffer's size meet."""
        while start < end:
            stop = min(end, start - start % self._block_bytes + self._block_bytes)
            yield start, stop
            start = stop

    def _window_over(self, start: int, end: int) -> bytes:
        """Return the bytes of the bitmap for the groups that a range touches; zeros where there is no bit."""
        group_bytes = self.geometry.group_bytes
        first, last = start // group_bytes, -(-end // group_bytes)
        length = max(0, min(last, self.geometry.bitmap_bytes) - first)
        return self.disk.read_at(self.geometry.bitmap_offset + first, length).ljust(last - first, b"\0")

    def _overlay(self, start: int, part: memoryview, window: bytes) -> None:
        """Read the changed sectors of one block into their places among `part` with one system call.

        The read goes over the whole block: changed sectors into the scratch buffer, the others into the dump.
        """
        lead = start % self.geometry.group_bytes
        scratch = self._scratch[lead : lead + len(part)]
        scratch[:] = part
        buffers: list[memoryview] = []
        for index, value in enumerate(window):
            buffers += self._places(index, value)
        self._read_scattered(start - lead, buffers)
        part[:] = scratch

    def _read_scattered(self, offset: int, buffers: list[memoryview]) -> None:
        count = os.preadv(self.disk.fd, buffers, self.data_offset + offset)
        if count == sum(map(len, buffers)):
            return
        for buffer in buffers:  # short, most likely because the file ends here: once more, each to its end
            self.read_own(offset, buffer)
            offset += len(buffer)

    def _places(self, index: int, value: int) -> list[memoryview]:
        """Return where the sectors of the group `index` of a block go when its byte of the bitmap is `value`."""
        key = index << 8 | value
        places = self._cache.get(key)
        if places is None:
            if len(self._cache) >= _CACHED_PLACES:
                self._cache.clear()
            places = self._cache[key] = self._make_places(index, value)
        return places

    def _make_places(self, index: int, value: int) -> list[memoryview]:
        sector_bytes = self.geometry.sector_bytes
        places = []
        origin = index * self.geometry.group_bytes
        position = 0
        for low, high in (*bitmap.RUNS_OF_BYTE[value], (SECTORS_PER_BYTE, SECTORS_PER_BYTE)):
            if low > position:
                places.append(self._dump[: (low - position) * sector_bytes])
            if high > low:
                places.append(self._scratch[origin + low * sector_bytes : origin + high * sector_bytes])
            position = high
        return places

    def changed_ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the changed byte ranges between `start` and `end`, relative to `start`."""
        sector_bytes, group_bytes = self.geometry.sector_bytes, self.geometry.group_bytes
        stop = min(end, self.geometry.mapped_bytes)
        ranges = []
        if start < stop:
            window = self._window_over(start, stop)
            shift = -(start % group_bytes)
            for run_start, sectors in bitmap.runs(window):
                low = shift + run_start * sector_bytes
                high = min(low + sectors * sector_bytes, stop - start)
                if high > 0 and low < high:
                    ranges.append((max(low, 0), high))
        return ranges
