"""What a COW file changes, for people and scripts to look at.

Two views of one thing. `extents` lists the changed sectors exactly, and of each stretch whether the file holds data for
it or a hole, which stands for zeros; it joins the runs of the bitmap with the file's own extents in one pass. `cells`
weighs the disk in as many parts as a picture has: how much of each is changed, and of how much the backing file has
data. It counts bits instead of listing them, so that a tebibyte in scattered sectors takes no longer than any other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from umldisk.cow.bitmap import Run
from umldisk.cow.check_bitmap import cuts
from umldisk.cow.file import Access
from umldisk.cow.layers import CowLayer, Kind
from umldisk.cow.picture import Cell, Grid, count_bits, spread
from umldisk.cow.survey import survey
from umldisk.errors import DataError
from umldisk.system import sparse


class Extent(NamedTuple):
    """Changed sectors in a row, all DATA in the COW file or all ZERO; `size_bytes` ends with the disk."""

    start_sector: int
    sectors: int
    offset_bytes: int
    size_bytes: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class DiskMap:
    """An open COW file to be mapped; `has_backing` tells whether the backing file's data can be told from its holes."""

    layer: CowLayer
    has_backing: bool

    def extents(self) -> Iterator[Extent]:
        """Yield what is changed, in order, in constant memory."""
        return extents(self.layer)

    def cells(self, grid: Grid) -> Iterator[Cell]:
        """Yield what each part of the disk consists of."""
        changed = count_bits(grid, self.layer.windows(), sector_bytes=self.layer.geometry.sector_bytes)
        data = spread(grid, self._backing_data() if self.has_backing else ())
        for cell_bytes, changed_bytes, data_bytes in zip(grid.cell_sizes(), changed, data, strict=True):
            yield Cell(cell_bytes, changed_bytes, data_bytes)

    def _backing_data(self) -> Iterator[tuple[int, int]]:
        for segment in self.layer.below.segments(0, self.layer.size_bytes):
            if segment.kind is not Kind.ZERO:
                yield segment.start, segment.end


@contextlib.contextmanager
def open_map(path: str | os.PathLike[str], access: Access | None = None) -> Iterator[DiskMap]:
    """Open the COW file `path` to be mapped, without locks; its backing file may be missing or another.

    Raises NoInputError when it cannot be opened, DataError when it is no COW file, or is cut off and `access` does not
    accept that.
    """
    access = access or Access()
    with survey(path, access) as stack:
        for cut in () if access.accept_truncated else cuts(stack.top):
            raise DataError(cut.message, where=cut.where, hint=cut.hint)
        yield DiskMap(stack.top.layer, stack.view is not None)


def extents(layer: CowLayer) -> Iterator[Extent]:
    """Yield the changed sectors of `layer`, cut where its file goes over from data to holes."""
    data = _data_sectors(layer)
    held = next(data, None)
    for run in layer.runs():
        position = run.start
        while position < run.end:
            while held is not None and held.end <= position:
                held = next(data, None)
            if held is None or held.start >= run.end:
                yield _extent(layer, position, run.end, Kind.ZERO)
                break
            if held.start > position:
                yield _extent(layer, position, held.start, Kind.ZERO)
                position = held.start
            stop = min(held.end, run.end)
            yield _extent(layer, position, stop, Kind.DATA)
            position = stop


def _data_sectors(layer: CowLayer) -> Iterator[Run]:
    """Yield the sectors of which the file holds any byte as data, as maximal runs."""
    sector_bytes, shift = layer.geometry.sector_bytes, layer.data_offset
    held = Run(0, 0)
    for low, high in _shifted(sparse.data_extents(layer.disk.fd, shift, shift + layer.size_bytes), shift):
        start, end = low // sector_bytes, -(-high // sector_bytes)
        if start <= held.end:
            held = Run(held.start, max(end, held.end) - held.start)
            continue
        if held.sectors:
            yield held
        held = Run(start, end - start)
    if held.sectors:
        yield held


def _shifted(ranges: Iterable[tuple[int, int]], shift: int) -> Iterator[tuple[int, int]]:
    for low, high in ranges:
        yield low - shift, high - shift


def _extent(layer: CowLayer, start: int, end: int, kind: Kind) -> Extent:
    sector_bytes = layer.geometry.sector_bytes
    offset = start * sector_bytes
    return Extent(start, end - start, offset, min(end * sector_bytes, layer.size_bytes) - offset, kind)
