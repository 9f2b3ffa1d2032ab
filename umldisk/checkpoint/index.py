"""An index: which chunks, in which order, are a disk.

    disk     |--- 64 KiB ---|--- 64 KiB ---| ... 1 MiB of zeros ... |--- 64 KiB ---| rest |
    index     (65536, 3fa1…)  (131072, 9c0e…)  (1179648, null 1 MiB)  ...

The format is casync's, so that `casync extract --store=chunks INDEX IMAGE` gives the disk without us. Chunks that we
cut lie at fixed places: where a sector lies decides which chunk it is in, so that a changed sector costs one chunk, and
the COW file's bitmap tells which. A whole region of 1 MiB, at a multiple of 1 MiB, that is all zeros is one chunk; with
less zeros than that every 64 KiB stand for themselves. So the index of a disk depends on the disk alone, not on the
history that led to it, and replacing chunks never moves others beyond their own region.

Indexes that casync itself made, with chunks cut by contents, are read as well. The table is kept as the bytes that it
has in the file: 40 a chunk, a few copies of memory even for large disks.
"""

from __future__ import annotations

import hashlib
import operator
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from umldisk.checkpoint import layout
from umldisk.errors import DataError

CHUNK_BYTES = 64 * 1024
REGION_BYTES = 1 << 20
_CHUNK_SIZE_LIMIT = 128 << 20
"""The largest chunk that casync itself takes (CA_CHUNK_SIZE_LIMIT_MAX)."""
_FEATURES = 0xB000000000000000
"""What casync writes for block devices: SHA-512/256, and two flags that mean nothing for a disk."""


class Chunk(NamedTuple):
    """A part of a disk from `start` to `end`, in bytes, with its name."""

    start: int
    end: int
    name: bytes

    @property
    def is_null(self) -> bool:
        """Whether it is all zeros."""
        return self.name == null_name(self.end - self.start)


def name_of(data: bytes | memoryview) -> bytes:
    """Return the name of a chunk: the SHA-512/256 of its contents."""
    return hashlib.new("sha512_256", data).digest()


@cache
def null_name(length: int) -> bytes:
    """Return the name of `length` zeros."""
    digest, zeros = hashlib.new("sha512_256"), bytes(min(length, 1 << 20))
    for done in range(0, length, len(zeros) or 1):
        digest.update(memoryview(zeros)[: length - done])
    return digest.digest()


@dataclass(frozen=True, slots=True)
class Index:
    """An index; `table` holds its items of 40 bytes as in the file, which `parse` has validated."""

    table: bytes
    chunk_size_min: int = 1
    chunk_size_avg: int = CHUNK_BYTES
    chunk_size_max: int = REGION_BYTES
    feature_flags: int = _FEATURES

    def __len__(self) -> int:
        return len(self.table) // layout.ITEM.size

    @property
    def size_bytes(self) -> int:
        """The exact length of the disk."""
        return self._end(len(self) - 1)

    @property
    def is_regular(self) -> bool:
        """Whether the chunks are cut as ours: places of 64 KiB, or a whole region that is zeros."""
        ends = _ends(self.table).tolist()
        lengths = map(operator.sub, ends, [0, *ends[:-1]])
        return all(self._is_end_or_zeros(n) for n, length in enumerate(lengths) if length != CHUNK_BYTES)

    def _is_end_or_zeros(self, number: int) -> bool:
        """Whether a chunk is the rest of the disk, or a region of zeros; all before it are regular."""
        size, start, end = self.size_bytes, self._end(number - 1), self._end(number)
        if end == size and start == size - size % CHUNK_BYTES:
            return True
        is_region = not start % REGION_BYTES and end == min(start + REGION_BYTES, size)
        return is_region and self._name(number) == null_name(end - start)

    def _name(self, number: int) -> bytes:
        return self.table[number * layout.ITEM.size + 8 : (number + 1) * layout.ITEM.size]

    def _end(self, number: int) -> int:
        if number < 0:
            return 0
        end: int = layout.ITEM.unpack_from(self.table, number * layout.ITEM.size)[0]
        return end

    def chunk(self, number: int) -> Chunk:
        """Return the chunk with that number, counted from 0."""
        end, name = layout.ITEM.unpack_from(self.table, number * layout.ITEM.size)
        return Chunk(self._end(number - 1), end, name)

    def find(self, offset: int) -> int:
        """Return the number of the chunk that byte `offset` of the disk is in; it must be on the disk."""
        return bisect_right(_ends(self.table), offset)

    def items(self, number: int, count: int) -> bytes:
        """Return the bytes of up to `count` items in a row."""
        return self.table[number * layout.ITEM.size : (number + count) * layout.ITEM.size]

    def chunks(self, start: int = 0, end: int | None = None) -> Iterator[Chunk]:
        """Yield the chunks that hold any byte from `start` up to `end`, by default all, in order."""
        stop = self.size_bytes if end is None else min(end, self.size_bytes)
        if start >= stop:
            return
        number = self.find(start)
        position = self._end(number - 1)
        for chunk_end, name in layout.ITEM.iter_unpack(memoryview(self.table)[number * layout.ITEM.size :]):
            yield Chunk(position, chunk_end, name)
            position = chunk_end
            if position >= stop:
                return

    def names(self) -> set[bytes]:
        """Return the names of all chunks."""
        return {name for _end, name in layout.ITEM.iter_unpack(self.table)}

    def null_chunks(self) -> dict[int, bytes]:
        """Return the lengths of zeros that a regular index names as chunks, with their names."""
        size = self.size_bytes
        lengths = {CHUNK_BYTES, REGION_BYTES, size % CHUNK_BYTES, size % REGION_BYTES} - {0}
        return {length: null_name(length) for length in lengths if null_name(length) in self.table}

    def build(self) -> bytes:
        """Return the index as a file."""
        head = {
            "size": layout.INDEX_HEADER_BYTES,
            "magic": layout.INDEX_MAGIC,
            "feature_flags": self.feature_flags,
            "chunk_size_min": self.chunk_size_min,
            "chunk_size_avg": self.chunk_size_avg,
            "chunk_size_max": self.chunk_size_max,
            "table_size": layout.OPEN_ENDED,
            "table_magic": layout.TABLE_MAGIC,
        }
        tail = {
            "zero_offset": 0,
            "zero_size": 0,
            "index_offset": layout.INDEX_HEADER_BYTES,
            "table_size": layout.TABLE_HEADER_BYTES + len(self.table) + layout.TAIL.sizeof(),
            "magic": layout.TAIL_MAGIC,
        }
        built: bytes = layout.HEADER.build(head) + self.table + layout.TAIL.build(tail)
        return built

    def digest(self) -> str:
        """Return the SHA-256 of the index as a file, which stands for the whole disk."""
        return hashlib.sha256(self.build()).hexdigest()


def parse(data: bytes, *, where: str = "") -> Index:
    """Read an index; raises DataError with the byte where it is not one, or where its chunks do not ascend."""
    head_bytes, tail_bytes = layout.HEADER.sizeof(), layout.TAIL.sizeof()
    items_bytes = len(data) - head_bytes - tail_bytes
    if items_bytes < 0 or items_bytes % layout.ITEM.size:
        raise DataError("the index is cut off", where=where, found=f"{len(data)} bytes")
    head, tail = layout.HEADER.parse(data), layout.TAIL.parse(data[-tail_bytes:])
    _require(head.magic == layout.INDEX_MAGIC and head.size == layout.INDEX_HEADER_BYTES, "no index", where, 0)
    is_table = head.table_magic == layout.TABLE_MAGIC and head.table_size == layout.OPEN_ENDED
    _require(is_table, "no table of chunks", where, layout.INDEX_HEADER_BYTES)
    _require(bool(head.feature_flags & layout.FEATURE_SHA512_256), "another digest than SHA-512/256", where, 16)
    table_bytes = items_bytes + layout.TABLE_HEADER_BYTES + tail_bytes
    found = (tail.zero_offset, tail.zero_size, tail.index_offset, tail.table_size, tail.magic)
    wanted = (0, 0, layout.INDEX_HEADER_BYTES, table_bytes, layout.TAIL_MAGIC)
    _require(found == wanted, "the table of chunks does not end as it must", where, len(data) - tail_bytes)
    table = data[head_bytes:-tail_bytes]
    _require_ascending(table, min(head.chunk_size_max, _CHUNK_SIZE_LIMIT), where)
    return Index(table, head.chunk_size_min, head.chunk_size_avg, head.chunk_size_max, head.feature_flags)


def _require(condition: bool, what: str, where: str, offset: int) -> None:
    if not condition:
        raise DataError(f"not a chunk index: {what}", where=f"{where}, byte {offset}".removeprefix(", "))


def _require_ascending(table: bytes, largest: int, where: str) -> None:
    ends = _ends(table).tolist()
    starts = [0, *ends[:-1]]
    if not ends or (all(map(operator.lt, starts, ends)) and max(map(operator.sub, ends, starts)) <= largest):
        return
    lengths = map(operator.sub, ends, starts)
    number, length = next((n, length) for n, length in enumerate(lengths) if not 0 < length <= largest)
    raise DataError(
        "a chunk of the index has an impossible length",
        where=f"{where}, byte {layout.HEADER.sizeof() + number * layout.ITEM.size}".removeprefix(", "),
        expected=f"1 to {largest}",
        found=length,
    )


def _ends(table: bytes) -> memoryview[int]:
    """Return where the chunks end, as a sequence that reads them where they lie: their fields are read often."""
    words = memoryview(table).cast("Q") if sys.byteorder == "little" else _swapped(table)
    return words[:: layout.ITEM.size // 8]


def _swapped(table: bytes) -> memoryview[int]:
    words = array("Q", table)
    words.byteswap()
    return memoryview(words)


# -- making -----------------------------------------------------------------------------------------------------------


def places(size_bytes: int, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the 64 KiB places that touch `start` to `end` of a disk, the last one up to its exact end."""
    stop = size_bytes if end is None else min(end, size_bytes)
    for place in range(start - start % CHUNK_BYTES, stop, CHUNK_BYTES):
        yield place, min(place + CHUNK_BYTES, size_bytes)


def replaced(base: Index | None, size_bytes: int, changed: Mapping[int, bytes]) -> Index:
    """Return the index of a disk that is `base` with other chunks at some places, in canonical form.

    `changed` maps the start of a place to the name of its chunk. Without a base, places that are left out are zeros. A
    base must be regular and of the same size. The work grows with what changed.
    """
    by_region: dict[int, dict[int, bytes]] = {}
    for place in sorted(changed):
        by_region.setdefault(place - place % REGION_BYTES, {})[place] = changed[place]
    regions = ((region, region_items(region, size_bytes, names, base)) for region, names in by_region.items())
    return spliced(base, size_bytes, regions)


def spliced(base: Index | None, size_bytes: int, regions: Iterable[tuple[int, bytes]]) -> Index:
    """Return `base` with the items of some regions in the place of its own; ascending starts of regions.

    Without a base, the regions that are left out are zeros. Items are taken one region at a time, so that they need
    not all exist at once.
    """
    table = bytearray()
    copied = 0
    if base is None:
        for region, items in regions:
            table += _null_regions(copied, region, size_bytes) + items
            copied = region + REGION_BYTES
        table += _null_regions(copied, size_bytes, size_bytes)
        return Index(bytes(table))
    view = memoryview(base.table)
    for region, items in regions:
        end = min(region + REGION_BYTES, size_bytes)
        table += view[copied : base.find(region) * layout.ITEM.size]
        table += items
        copied = (base.find(end - 1) + 1) * layout.ITEM.size
    table += view[copied:]
    return Index(bytes(table))


def region_items(region: int, size_bytes: int, names: Mapping[int, bytes], base: Index | None = None) -> bytes:
    """Return the items of the region that starts at `region`.

    Places that `names` leaves out are as in `base`, and zeros when there is none or it has the region as one chunk.
    """
    end = min(region + REGION_BYTES, size_bytes)
    count = -(-(end - region) // CHUNK_BYTES)
    items = b"" if base is None else base.items(base.find(region), count)
    if len(items) < count * layout.ITEM.size or layout.ITEM.unpack_from(items)[0] > region + CHUNK_BYTES:
        items = _places_of_zeros(region, end)
    patched = bytearray(items)
    for place, name in names.items():
        at = (place - region) // CHUNK_BYTES * layout.ITEM.size
        patched[at + 8 : at + layout.ITEM.size] = name
    if patched == _places_of_zeros(region, end):
        return layout.ITEM.pack(end, null_name(end - region))
    return bytes(patched)


def _places_of_zeros(region: int, end: int) -> bytes:
    return b"".join(layout.ITEM.pack(stop, null_name(stop - place)) for place, stop in places(end, region))


def _null_regions(start: int, end: int, size_bytes: int) -> bytes:
    """Return the items of the regions from `start` up to `end` of which all are zeros."""
    regions = range(start, end, REGION_BYTES)
    ends = (min(region + REGION_BYTES, size_bytes) for region in regions)
    return b"".join(
        layout.ITEM.pack(stop, null_name(stop - region)) for region, stop in zip(regions, ends, strict=True)
    )
