"""Filling mixed pages, which UML reads wrongly.

    sectors of a 4 KiB page   C C . C . . . .     C changed, in the COW file; . unchanged, below
    after                     C C C C C C C C     the guest's view is the same

The kernel splits a request at a page with changed and unchanged sectors and then reads every later
memory segment of that request from the wrong place. A guest whose file system has blocks smaller
than a page sees garbage, though the merged image is right. Copying the missing sectors up leaves
no such page; it costs at most seven sectors for each.

A page is 4096 bytes whatever the sector size: with larger sectors one byte of the bitmap speaks
for several pages. The sectors that versions 1 and 2 have no bits for cannot be marked; they fill
pages of their own at the disk's end, which are counted and left as they are.

Invariants. At every moment the file is a valid COW file with the same view, so that a killed run
is simply run again. Only what `writing.copy_up` writes is written.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from umldisk.cow import bitmap
from umldisk.cow.compare import Tally, reading
from umldisk.cow.file import Access, CowFile
from umldisk.cow.geometry import SECTORS_PER_BYTE, Geometry
from umldisk.cow.journal import refuse_unfinished_merge
from umldisk.cow.layers import CowLayer
from umldisk.cow.writing import ByteRange, copy_up
from umldisk.progress import SILENT, Progress
from umldisk.system.transfer import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class AlignReport:
    """How many mixed `pages` were filled with `filled_bytes`, or with `dry_run` would be.

    `unfixable_pages` are those at the disk's end whose sectors have no bit (versions 1 and 2): what
    a guest writes there is lost whatever is done to the file.
    """

    cow: str
    pages: int
    filled_bytes: int
    unfixable_pages: int
    dry_run: bool


def align(
    cow: str | os.PathLike[str],
    *,
    access: Access | None = None,
    sync: bool = True,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> AlignReport:
    """Copy what mixed 4 KiB pages lack from below into the COW file; its view stays the same.

    The COW file is locked exclusively. Stopped anywhere, the same call again completes it. Raises
    what CowFile.open raises, DataError when a merge of the file is unfinished, and StorageError.
    """
    wanted = access or Access()
    opening = replace(wanted, change_cow=not dry_run, change_backing=False, lock=wanted.lock or not dry_run)
    with CowFile.open(cow, access=opening) as target, reading(target.path):
        refuse_unfinished_merge(target.backing.disk)
        tally = Tally()
        gaps = gaps_in_mixed_pages(target.layer)
        if dry_run:
            tally.exhaust(gaps)
        else:
            below = target.backing.read_into
            copy_up(target.layer, tally.count(gaps), below, sync=sync, progress=progress)
        return AlignReport(
            cow=target.path,
            pages=tally.pages,
            filled_bytes=tally.bytes,
            unfixable_pages=_pages_without_bits(target.geometry),
            dry_run=dry_run,
        )


def gaps_in_mixed_pages(layer: CowLayer) -> Iterator[ByteRange]:
    """Yield the unchanged ranges of every mixed page, in order; each lies in one page.

    Bytes of the disk. The last page of a disk counts only the sectors that it has.
    """
    geometry = layer.geometry
    page_sectors = PAGE_BYTES // geometry.sector_bytes
    for number, window in layer.windows():
        for stretch in bitmap.stretches(window, number):
            if not stretch.mixed:
                continue
            for group in range(stretch.start, stretch.end):
                first_sector = group * SECTORS_PER_BYTE
                for low, high in _gaps(window[group - number], page_sectors):
                    start = (first_sector + low) * geometry.sector_bytes
                    end = (first_sector + high) * geometry.sector_bytes
                    if start < geometry.size_bytes:
                        yield start, min(end, geometry.size_bytes)


@functools.cache
def _gaps(value: int, page_sectors: int) -> tuple[tuple[int, int], ...]:
    """Return the runs of unset bits in the mixed pages of one byte of the bitmap."""
    gaps = []
    full = (1 << page_sectors) - 1
    for page in range(0, SECTORS_PER_BYTE, page_sectors):
        bits = value >> page & full
        if bits:
            unset = bitmap.runs(bytes([bits ^ full]))
            gaps += [(page + run.start, page + run.end) for run in unset]
    return tuple(gaps)


def _pages_without_bits(geometry: Geometry) -> int:
    return -(-(geometry.size_bytes - geometry.mapped_bytes) // PAGE_BYTES)
