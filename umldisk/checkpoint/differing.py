"""Where two recorded disks differ: first from the indexes alone, then, if asked, by the sectors of what differs.

    left     | a1 | b2 | c3 |  d4  |      left     | a1 | -- zeros --- | d4 |
    right    | a1 | xx | c3 | e5|f6|      right    | a1 |  zeros | g7  | d4 |
                    ^^        ^^^^^                               ^^^
The walk goes over both tables at once. At a place where a chunk begins in both it skips what is the same in both, by
comparing the tables' bytes in blocks that double, so that two nights of a large disk cost what changed between them.
From the first chunk that is not the same it goes on chunk by chunk until both have one that ends at the same byte.

Chunks cut at different places, as casync cuts by contents, have different names for the same bytes. So an index alone
can say more than differs in truth, never less; zeros under different cuts are known to be the same. Reading settles it
and reads nothing but what the walk found. What one disk has beyond the end of the other differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from umldisk.checkpoint import layout
from umldisk.checkpoint.assemble import in_parallel
from umldisk.checkpoint.chunks import read_chunk
from umldisk.checkpoint.index import CHUNK_BYTES, Chunk, Index
from umldisk.checkpoint.store import Store
from umldisk.cow.bitmap import Run
from umldisk.progress import SILENT, Progress

SECTOR_BYTES = 512
_ITEM_BYTES = layout.ITEM.size
_BLOCK_ITEMS = 4096
_WORKERS = 8


def differing(left: Index, right: Index) -> Iterator[Run]:
    """Yield the runs of sectors that may differ, in order, as far apart as they can be told from the indexes alone.

    A last sector that is cut off by a disk's end counts as one.
    """
    return _joined(_sectors(start, end) for start, end in _byte_ranges(left, right))


def narrowed(
    store: Store, left: Index, right: Index, *, right_store: Store | None = None, progress: Progress = SILENT
) -> Iterator[Run]:
    """Yield the runs of sectors that do differ; reads only chunks that `differing` cannot tell to be the same.

    `right_store` is for a right disk from another store. Raises DataError when a chunk is missing or damaged,
    StorageError when the store fails.
    """
    common_bytes = min(left.size_bytes, right.size_bytes)
    told_apart = _byte_ranges(left, right)
    ranges = list(_joined_ranges((start, end) for start, end in told_apart if end <= common_bytes))
    with progress.task("compare", sum(end - start for start, end in ranges)) as task:

        def compared() -> Iterator[Run]:
            ours = _contents(store, left, ranges)
            theirs = _contents(right_store or store, right, ranges)
            for start, one, other in _paired(ours, theirs):
                yield from _differing_sectors(start, one, other)
                task.add(len(one))
            yield _sectors(common_bytes, max(left.size_bytes, right.size_bytes))

        yield from _joined(compared())


def fresh_names(before: Index | None, index: Index) -> Iterator[bytes]:
    """Yield every name of `index` that `before` has not at the same place, some perhaps more than once."""
    for stretch in _unequal(before or Index(b""), index):
        table = index.table[stretch.right * _ITEM_BYTES : stretch.right_end * _ITEM_BYTES]
        yield from (name for _end, name in layout.ITEM.iter_unpack(table))


# -- from the indexes -------------------------------------------------------------------------------------------------


class _Stretch(NamedTuple):
    """Chunks of both tables, by number, that begin and end at the same bytes and are not the same."""

    left: int
    left_end: int
    right: int
    right_end: int


def _unequal(left: Index, right: Index) -> Iterator[_Stretch]:
    """Yield the shortest stretches that are not the same in both tables; the last may end with the longer disk."""
    one = other = 0
    while True:
        same = _same_items(left.table, one, right.table, other)
        one, other = one + same, other + same
        if one == len(left) or other == len(right):
            break
        stretch = _until_both_end(left, one, right, other)
        yield stretch
        one, other = stretch.left_end, stretch.right_end
    if one < len(left) or other < len(right):
        yield _Stretch(one, len(left), other, len(right))


def _same_items(left: bytes, one: int, right: bytes, other: int) -> int:
    """Return how many items are the same from item `one` of the left table and `other` of the right one on."""
    most = min(len(left) // _ITEM_BYTES - one, len(right) // _ITEM_BYTES - other)
    same, step = 0, 1
    while step and same < most:
        start, again, length = (one + same) * _ITEM_BYTES, (other + same) * _ITEM_BYTES, step * _ITEM_BYTES
        if same + step <= most and left[start : start + length] == right[again : again + length]:
            same, step = same + step, min(2 * step, _BLOCK_ITEMS)
        elif step == 1:
            break
        else:
            step //= 2
    return same


def _until_both_end(left: Index, one: int, right: Index, other: int) -> _Stretch:
    """Return the stretch that begins with these two chunks; without a common end it takes all that is left."""
    left_end, right_end = one + 1, other + 1
    ours, theirs = left.chunk(one).end, right.chunk(other).end
    while ours != theirs:
        if ours < theirs:
            if left_end == len(left):
                return _Stretch(one, len(left), other, len(right))
            ours, left_end = left.chunk(left_end).end, left_end + 1
        else:
            if right_end == len(right):
                return _Stretch(one, len(left), other, len(right))
            theirs, right_end = right.chunk(right_end).end, right_end + 1
    return _Stretch(one, left_end, other, right_end)


def _byte_ranges(left: Index, right: Index) -> Iterator[tuple[int, int]]:
    for stretch in _unequal(left, right):
        one, other = stretch.left, stretch.right
        while one < stretch.left_end and other < stretch.right_end:
            ours, theirs = left.chunk(one), right.chunk(other)
            end = min(ours.end, theirs.end)
            if not (_is_known_null(left, ours) and _is_known_null(right, theirs)):
                yield max(ours.start, theirs.start), end
            one, other = one + (ours.end == end), other + (theirs.end == end)
    if left.size_bytes != right.size_bytes:
        yield min(left.size_bytes, right.size_bytes), max(left.size_bytes, right.size_bytes)


def _is_known_null(index: Index, chunk: Chunk) -> bool:
    """Whether a chunk is zeros; only lengths are asked for that zeros have, so that few names have to be computed."""
    length = chunk.end - chunk.start
    is_likely = length % CHUNK_BYTES == 0 or length == index.chunk_size_max or chunk.end == index.size_bytes
    return is_likely and chunk.is_null


def _sectors(start: int, end: int) -> Run:
    first = start // SECTOR_BYTES
    return Run(first, -(-end // SECTOR_BYTES) - first if end > start else 0)


def _joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Yield ascending runs with those that touch or overlap made one, and without empty ones."""
    start = end = 0
    for run in runs:
        if not run.sectors:
            continue
        if run.start > end or start == end:
            if start < end:
                yield Run(start, end - start)
            start = run.start
        end = max(end, run.end)
    if start < end:
        yield Run(start, end - start)


# -- from the chunks --------------------------------------------------------------------------------------------------


class _Piece(NamedTuple):
    """A part of a disk, with the chunk that it lies in."""

    start: int
    end: int
    chunk: Chunk


def _contents(store: Store, index: Index, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, memoryview]]:
    """Yield the contents of `ranges` in order, piece by piece, reading a few chunks ahead."""

    def read(piece: _Piece) -> tuple[int, memoryview]:
        chunk = piece.chunk
        length = chunk.end - chunk.start
        data = bytes(length) if _is_known_null(index, chunk) else read_chunk(store, chunk.name, length)
        return piece.start, memoryview(data)[piece.start - chunk.start : piece.end - chunk.start]

    return in_parallel(read, _pieces(index, ranges), workers=_WORKERS)


def _pieces(index: Index, ranges: Iterable[tuple[int, int]]) -> Iterator[_Piece]:
    for start, end in ranges:
        for chunk in index.chunks(start, end):
            yield _Piece(max(start, chunk.start), min(end, chunk.end), chunk)


def _joined_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ascending ranges with those that touch made one, so that hardly a chunk is read twice."""
    low = high = 0
    for start, end in ranges:
        if start != high and low < high:
            yield low, high
        low, high = (low if start == high else start), end
    if low < high:
        yield low, high


def _paired(
    ours: Iterator[tuple[int, memoryview]], theirs: Iterator[tuple[int, memoryview]]
) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield what two streams over the same ranges have at the same places, whatever their pieces."""
    none = (0, memoryview(b""))
    start, one = next(ours, none)
    again, other = next(theirs, none)
    while one and other:
        length = min(len(one), len(other))
        yield start, one[:length], other[:length]
        start, one = (start + length, one[length:]) if len(one) > length else next(ours, none)
        again, other = (again + length, other[length:]) if len(other) > length else next(theirs, none)


def _differing_sectors(start: int, one: memoryview, other: memoryview) -> Iterator[Run]:
    """Yield the sectors that differ in a piece that begins at byte `start`, which may lie inside a sector."""
    if one == other:
        return
    ours, theirs = bytes(one), bytes(other)
    position = 0
    while position < len(ours):
        end = min(len(ours), position + SECTOR_BYTES - (start + position) % SECTOR_BYTES)
        if ours[position:end] != theirs[position:end]:
            yield Run((start + position) // SECTOR_BYTES, 1)
        position = end
