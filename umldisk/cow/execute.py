"""Carrying a plan out: the loops that move a merge's bytes.

`assemble` fills a fresh, empty file from all layers. `overlay` lays one COW layer over a file that already holds what
is below it: the backing file itself, or a reflink of it. Both keep holes, and make holes of zero pages that a guest
wrote; sharing (reflink) comes before looking for zeros, because shared data costs no room.

    segment   fresh file                     over existing data
    ZERO      stays a hole                   punched
    DATA      copied; from a COW file        the same, zero pages punched
              looked through for zero pages
    MIXED     read through the layers        read, changed sectors laid over, written back

Within a MIXED page unchanged sectors are written back as they were, so that the page is written once; a machine that
stops in between leaves them with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from umldisk.cow.layers import CowLayer, Kind, Reader, Segment
from umldisk.cow.plan import Totals
from umldisk.progress import Task
from umldisk.system import transfer
from umldisk.system.files import DiskFile
from umldisk.system.transfer import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class Manner:
    """How bytes are put into a target.

    `sparse`: zero pages become holes. `fresh`: the target is all holes so far. `share`: what is laid over existing data
    is cloned where the file system can, unread but for a look at its first page.
    """

    sparse: bool = True
    fresh: bool = True
    share: bool = False


class Executor:
    """Puts segments into one target file and counts what it did."""

    def __init__(self, target: DiskFile, manner: Manner, task: Task) -> None:
        self._fd = target.fd
        self._manner = manner
        self._task = task
        self._chunk = bytearray(CHUNK_BYTES)
        self._runs = self._copied = self._punched = self._shared = 0

    def assemble(self, segments: Iterable[Segment]) -> Totals:
        """Fill the target from segments that cover the whole disk."""
        position = 0
        for segment in segments:
            if segment.kind is Kind.ZERO:
                self._zero(segment.start, segment.end)
            elif segment.kind is Kind.MIXED:
                self._through(segment)
            elif isinstance(segment.layer, CowLayer) and self._manner.sparse:
                self._looked_through(segment)
            else:
                self._copy(segment)
            self._task.add(segment.end - position)
            position = segment.end
        return Totals(self._runs, self._copied, self._punched, self._shared)

    def overlay(self, segments: Iterable[Segment]) -> Totals:
        """Lay the segments of one COW layer over what the target holds already."""
        position = 0
        for segment in segments:
            if segment.kind is Kind.ZERO:
                self._zero(segment.start, segment.end)
            elif segment.kind is Kind.MIXED:
                self._mix(segment)
            elif self._manner.share:
                self._share(segment)
            elif self._manner.sparse:
                self._looked_through(segment)
            else:
                self._copy(segment)
            self._task.add(segment.end - position)
            position = segment.end
        return Totals(self._runs, self._copied, self._punched, self._shared)

    def _zero(self, start: int, end: int) -> None:
        self._punched += end - start
        if self._manner.fresh:
            return
        if self._manner.sparse:
            transfer.punch(self._fd, start, end - start)
        else:
            transfer.write_zeros(self._fd, start, end - start)

    def _copy(self, segment: Segment) -> None:
        self._runs += 1
        self._copied += segment.end - segment.start
        length = segment.end - segment.start
        transfer.copy(segment.layer.disk.fd, segment.file_offset, self._fd, segment.start, length)

    def _share(self, segment: Segment) -> None:
        """Clone the data with its holes, unless its first page is zero: then a guest may have cleared it."""
        layer, length = segment.layer, segment.end - segment.start
        if self._manner.sparse:
            first = memoryview(self._chunk)[: min(transfer.PAGE_BYTES, length)]
            layer.read_own(segment.start, first)
            if transfer.is_zero(first):
                self._clear(segment)
                return
        if not transfer.reflink_range(layer.disk.fd, segment.file_offset, self._fd, segment.start, length):
            self._looked_through(segment)  # a last block that is no whole one
            return
        self._runs += 1
        self._shared += length

    def _clear(self, segment: Segment) -> None:
        for part in segment.layer.own_segments(segment.start, segment.end):
            if part.kind is Kind.ZERO:
                self._zero(part.start, part.end)
            else:
                self._looked_through(part)

    def _looked_through(self, segment: Segment) -> None:
        """Copy data through memory and leave its zero pages out."""
        self._pour(segment, segment.layer.read_own)

    def _through(self, segment: Segment) -> None:
        """Copy what all layers together show."""
        self._pour(segment, segment.layer.read_into)

    def _mix(self, segment: Segment) -> None:
        """Lay changed sectors over what the target holds."""
        layer = segment.layer
        assert isinstance(layer, CowLayer)

        def fill(offset: int, view: memoryview) -> None:
            transfer.read_into(self._fd, offset, view)
            layer.overlay_into(offset, view)

        self._pour(segment, fill)

    def _pour(self, segment: Segment, fill: Reader) -> None:
        """Write what `fill` gives for the segment, chunk by chunk."""
        self._runs += 1
        view = memoryview(self._chunk)
        for offset in range(segment.start, segment.end, CHUNK_BYTES):
            length = min(CHUNK_BYTES, segment.end - offset)
            fill(offset, view[:length])
            self._put(offset, length)

    def _put(self, offset: int, length: int) -> None:
        """Write the first `length` bytes of the chunk at `offset`, leaving out zero pages."""
        view = memoryview(self._chunk)
        if not self._manner.sparse:
            transfer.write_all(self._fd, offset, view[:length])
            self._copied += length
            return
        position = 0
        for low, high in transfer.nonzero_spans(self._chunk, length):
            if low > position:
                self._zero(offset + position, offset + low)
            transfer.write_all(self._fd, offset + low, view[low:high])
            self._copied += high - low
            position = high
        if position < length:
            self._zero(offset + position, offset + length)


def can_share(layer: CowLayer, target: DiskFile) -> bool:
    """Whether the layer's data can be cloned into `target`: found out on the first page that is to go there anyway."""
    first = next((segment for segment in layer.changed() if segment.kind is Kind.DATA), None)
    if first is None or first.end - first.start < transfer.PAGE_BYTES:
        return False
    page = transfer.PAGE_BYTES
    return transfer.reflink_range(layer.disk.fd, first.file_offset, target.fd, first.start, page)
