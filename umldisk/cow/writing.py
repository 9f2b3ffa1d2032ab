"""Changing a COW file in place without ever changing what its guest sees by accident.

Sectors are *copied up* in the kernel's own order: first the data, made durable, then the bits that declare it. A
process killed in between leaves data without bits, which nobody reads, and the same operation simply does it again.
Work goes in batches, so that a long list of ranges never has to be held.

A header is replaced under a journal, because it reaches over two pages and a torn one would name no backing file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator

from umldisk.cow import bitmap, journal
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal
from umldisk.cow.layers import WINDOW_BYTES, CowLayer, Reader
from umldisk.errors import from_os_error
from umldisk.progress import SILENT, Progress
from umldisk.system import transfer
from umldisk.system.files import DiskFile
from umldisk.system.transfer import CHUNK_BYTES

_BATCH_RANGES = 16_384
_BATCH_BYTES = 256 * 1024 * 1024
_LOOKUP_BYTES = 64 * 1024 * 1024
"""How much of the disk the bitmap is asked about at once: 16 KiB of it with 512-byte sectors."""

ByteRange = tuple[int, int]


def copy_up(
    cow: CowLayer, ranges: Iterable[ByteRange], read_into: Reader, *, sync: bool = True, progress: Progress = SILENT
) -> int:
    """Copy unchanged ranges of the disk into the COW file and mark them as changed; return the number of bytes.

    `ranges` are (start, end) in bytes, ascending, whole sectors (the last may be cut by the disk's end), and must not
    hold changed sectors. `read_into` gives their contents. Pages of zeros become holes. At every moment the file is a
    valid COW file; its view changes only if `read_into` differs from what is below.
    """
    copied = 0
    remaining = iter(ranges)
    with progress.task("copy up") as task:
        while batch := list(_take(remaining)):
            for start, end in batch:
                _write_data(cow, start, end, read_into)
                task.add(end - start)
                copied += end - start
            _sync(cow.disk, sync)
            _mark(cow, batch)
            _sync(cow.disk, sync)
    return copied


def _take(ranges: Iterator[ByteRange]) -> Iterator[ByteRange]:
    size = 0
    for start, end in itertools.islice(ranges, _BATCH_RANGES):
        yield start, end
        size += end - start
        if size >= _BATCH_BYTES:
            return


def _sync(disk: DiskFile, sync: bool) -> None:
    if sync:
        disk.sync()


def _write_data(cow: CowLayer, start: int, end: int, read_into: Reader) -> None:
    """Put the contents of a range in its place in the data area, without touching the bitmap."""
    fd, shift = cow.disk.fd, cow.data_offset
    try:
        if os.fstat(fd).st_size < shift + end:
            os.ftruncate(fd, shift + end)
        chunk = bytearray(min(CHUNK_BYTES, end - start))
        for offset in range(start, end, CHUNK_BYTES):
            length = min(CHUNK_BYTES, end - offset)
            read_into(offset, memoryview(chunk)[:length])
            _write_sparse(fd, shift + offset, chunk, length)
    except OSError as error:
        raise from_os_error(error, "write", cow.disk.path) from error


def _write_sparse(fd: int, offset: int, chunk: bytearray, length: int) -> None:
    position = 0
    for low, high in transfer.nonzero_spans(chunk, length):
        transfer.punch(fd, offset + position, low - position)
        transfer.write_all(fd, offset + low, memoryview(chunk)[low:high])
        position = high
    transfer.punch(fd, offset + position, length - position)


def _mark(cow: CowLayer, ranges: list[ByteRange]) -> None:
    """Set the bits of all ranges, a window of the bitmap at a time."""
    sector_bytes, origin = cow.geometry.sector_bytes, cow.geometry.bitmap_offset
    held = bytearray()
    first = 0
    for start, end in ranges:
        low, high = start // sector_bytes, -(-end // sector_bytes)
        while low < high:
            if not first * 8 <= low < (first + len(held)) * 8:
                cow.disk.write_at(origin + first, bytes(held))
                first = low // 8
                held = bytearray(_bitmap_window(cow, first))
            stop = min(high, (first + len(held)) * 8)
            bitmap.set_range(held, low - first * 8, stop - first * 8)
            low = stop
    cow.disk.write_at(origin + first, bytes(held))


def _bitmap_window(cow: CowLayer, first: int) -> bytes:
    length = min(WINDOW_BYTES, cow.geometry.bitmap_bytes - first)
    return cow.disk.read_at(cow.geometry.bitmap_offset + first, length).ljust(length, b"\0")


def unchanged_ranges(layer: CowLayer, start: int, end: int) -> Iterator[ByteRange]:
    """Yield the ranges between `start` and `end` whose sectors are not changed in the layer, in order."""
    for low in range(start, end, _LOOKUP_BYTES):
        high = min(low + _LOOKUP_BYTES, end)
        position = low
        for first, last in layer.changed_ranges(low, high):
            if low + first > position:
                yield position, low + first
            position = low + last
        if position < high:
            yield position, high


def replace_header(disk: DiskFile, old: CowHeader, new: CowHeader, *, sync: bool = True) -> None:
    """Write `new` over the header `old` in place, under a journal; both must be of one dialect."""
    pending = journal.read(disk.path)
    if new.raw == old.raw and pending is None:
        return
    if pending is not None:  # `old` was read through it: first let the file say so itself
        disk.write_at(0, old.raw)
        _sync(disk, sync)
    journal.write(disk.path, HeaderJournal(old.raw.hex(), new.raw.hex()), sync=sync)
    disk.write_at(0, new.raw)
    _sync(disk, sync)
    journal.remove(disk.path, sync=sync)
