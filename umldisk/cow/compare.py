"""Where two disks of one size differ, without reading what cannot.

    left    ──DATA──┬──────ZERO──────┬──DATA──
    right   ──DATA──┴─DATA─┬──ZERO───┴──DATA──
              read    read    skipped   the same bytes of the same file: skipped

The layers' segments say which stretches are holes on both sides, or come from one place of one
file (a COW file compared with its own backing file, mostly). The rest is read in chunks and
compared as memory; only a chunk that differs is looked at page by page, and a page sector by
sector where that grain is asked for. Memory is two chunks, whatever the disks' size.

Left out: asking the file system whether two files share extents. The answer differs between file
systems and is late for data not yet written out, and reading shared data is reading it once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from umldisk.cow.layers import Kind, Layer, Segment
from umldisk.cow.writing import ByteRange
from umldisk.errors import from_os_error
from umldisk.progress import SILENT, Task
from umldisk.system.transfer import CHUNK_BYTES, PAGE_BYTES


class Comparer:
    """Compares two disks in grains of a sector or a page (512 to 4096 bytes), counted from byte 0.

    `task` counts the bytes that are done with, compared or skipped.
    """

    def __init__(self, left: Layer, right: Layer, *, task: Task, grain_bytes: int = PAGE_BYTES) -> None:
        self._layers = (left, right)
        self._grain_bytes = grain_bytes
        self._task = task
        self._chunks = (bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES))

    def differing(self, start: int, end: int) -> Iterator[ByteRange]:
        """Yield the maximal ranges of differing grains between `start` and `end`, in order.

        `start` is a multiple of 4096; a grain that `end` cuts is as long as what there is of it.
        Raises StorageError when a file cannot be read.
        """
        return joined(self._ranges(start, end))

    def _ranges(self, start: int, end: int) -> Iterator[ByteRange]:
        left, right = (layer.segments(start, end) for layer in self._layers)
        for low, high, ours, theirs in _overlaps(left, right):
            if not _known_equal(ours, theirs):
                yield from self._compare(low, high)
            self._task.add(high - low)

    def _compare(self, start: int, end: int) -> Iterator[ByteRange]:
        for low in range(start, end, CHUNK_BYTES):
            high = min(low + CHUNK_BYTES, end)
            for layer, buffer in zip(self._layers, self._chunks, strict=True):
                with reading(layer.disk.path):
                    layer.read_into(low, memoryview(buffer)[: high - low])
            for first, last in self._refine(high - low):
                yield low + first, low + last

    def _refine(self, length: int) -> Iterator[ByteRange]:
        """Yield the differing grains in the first `length` bytes of the two chunks."""
        left, right = self._chunks
        # As whole bytearrays, because these are compared as memory and views of them byte by byte;
        # what an earlier chunk left behind `length` can only make the loop below look for nothing.
        if left == right:
            return
        for page in range(0, length, PAGE_BYTES):
            end = min(page + PAGE_BYTES, length)
            if left[page:end] == right[page:end]:
                continue
            for grain in range(page, end, self._grain_bytes):
                stop = min(grain + self._grain_bytes, end)
                if left[grain:stop] != right[grain:stop]:
                    yield grain, stop


def first_difference(left: Layer, right: Layer, start: int, end: int) -> int | None:
    """Return the first 512 bytes between `start` (a multiple of 4096) and `end` that differ."""
    comparer = Comparer(left, right, task=SILENT.task("compare"), grain_bytes=512)
    first = next(comparer.differing(start, end), None)
    return None if first is None else first[0]


def _overlaps(left: Iterator[Segment], right: Iterator[Segment]) -> Iterator[tuple[int, int, Segment, Segment]]:
    """Cut two rows of segments over the same bytes at each other's bounds."""
    ours, theirs = next(left, None), next(right, None)
    while ours is not None and theirs is not None:
        end = min(ours.end, theirs.end)
        yield max(ours.start, theirs.start), end, ours, theirs
        if ours.end == end:
            ours = next(left, None)
        if theirs.end == end:
            theirs = next(right, None)


def _known_equal(ours: Segment, theirs: Segment) -> bool:
    if ours.kind is not theirs.kind or ours.kind is Kind.MIXED:
        return False
    if ours.kind is Kind.ZERO:
        return True
    same_file = ours.layer.disk.identity == theirs.layer.disk.identity
    return same_file and ours.layer.data_offset == theirs.layer.data_offset


def joined(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Join ranges that touch; they come in order."""
    held: ByteRange | None = None
    for low, high in ranges:
        if held is not None and held[1] == low:
            held = held[0], high
            continue
        if held is not None:
            yield held
        held = low, high
    if held is not None:
        yield held


class Tally:
    """Counts ranges on their way from one generator to the next; `pages` are 4 KiB pages begun."""

    def __init__(self) -> None:
        self.ranges = 0
        self.bytes = 0
        self.pages = 0
        self._last_page = -1

    def count(self, ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
        """Pass the ranges on."""
        for start, end in ranges:
            first, last = start // PAGE_BYTES, (end - 1) // PAGE_BYTES
            self.ranges += 1
            self.bytes += end - start
            self.pages += last - max(first, self._last_page + 1) + 1
            self._last_page = last
            yield start, end

    def exhaust(self, ranges: Iterable[ByteRange]) -> None:
        """Count the ranges and do nothing with them: a dry run."""
        for _range in self.count(ranges):
            pass


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an operating system's error into StorageError about the file `path`."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, "read", path) from error
