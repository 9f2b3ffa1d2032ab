"""From two images back to a COW file: the smallest one over BASE through which IMAGE is seen.

    BASE ─┐
          ├─ compare ──▶ ranges that differ ──▶ copied up into a new, empty COW file over BASE
    IMAGE ┘

It undoes a merge: `merge` of the result gives IMAGE again, byte for byte. By default whole 4 KiB
pages are taken, because UML misreads a page of which only some sectors are changed; `by_sector`
takes single sectors, for archiving or for other readers. A page that is zeros in IMAGE and not in
BASE costs a bit and no room: a hole under a set bit means zeros.

Versions 1 and 2 have no bits for up to seven sectors at the end of the disk. If these differ there
is no such COW file, and it is refused before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from umldisk.cow import header as headers
from umldisk.cow.compare import Comparer, Tally, first_difference
from umldisk.cow.creating import new_cow, new_header, open_backing
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import refuse_unfinished_merge
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.cow.merging import stack_of
from umldisk.cow.output import held_output
from umldisk.cow.writing import ByteRange, copy_up
from umldisk.errors import DataError
from umldisk.progress import SILENT, Progress, Task
from umldisk.system import files, locks
from umldisk.system.transfer import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class DifferenceReport:
    """The COW file that was made, or with `dry_run` would be.

    `changed_bytes` of the disk are marked as changed, in `runs` stretches; what of them is zeros
    takes no room in the file.
    """

    base: str
    image: str
    cow: str
    size_bytes: int
    changed_bytes: int
    runs: int
    dialect: Dialect
    dry_run: bool


def difference(  # noqa: PLR0913
    base: str | os.PathLike[str],
    image: str | os.PathLike[str],
    cow: str | os.PathLike[str],
    *,
    dialect: Dialect = Dialect.V3,
    by_sector: bool = False,
    replace: bool = False,
    sync: bool = True,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> DifferenceReport:
    """Make `cow`, the smallest COW file over `base` whose guest sees what is in `image`.

    `base` is an image or block device, because UML reads no COW file over a COW file; `image` may
    be a COW file over anything and is then read as its guest sees it. Both are read-locked.

    Raises what create() and CowFile.open raise, and DataError when the sizes differ, or the disk's
    end differs where the dialect has no bits.
    """
    with ExitStack() as resources:
        pair = _open_pair(base, image, os.fspath(cow), dialect, resources)
        task = resources.enter_context(progress.task("compare", pair.below.size_bytes))
        ranges, tally = pair.differing(task, by_sector=by_sector), Tally()
        if dry_run:
            with held_output(cow, replace=replace):
                tally.exhaust(ranges)
        else:
            with new_cow(cow, pair.header, replace=replace, sync=sync) as stage:
                layer = CowLayer(stage, pair.header, pair.below)
                copy_up(layer, tally.count(ranges), pair.above.read_into, sync=False)
        return pair.report(os.fspath(cow), tally, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two disks of one size, and the header of the COW file that leads from the one to the other."""

    below: RawLayer
    above: Layer
    header: CowHeader

    def differing(self, task: Task, *, by_sector: bool) -> Iterator[ByteRange]:
        """Yield where the two differ, in whole pages or sectors."""
        grain_bytes = self.header.sector_bytes if by_sector else PAGE_BYTES
        comparer = Comparer(self.below, self.above, task=task, grain_bytes=grain_bytes)
        return comparer.differing(0, self.header.geometry.mapped_bytes)

    def report(self, cow: str, tally: Tally, *, dry_run: bool) -> DifferenceReport:
        """Say what was made, or would be."""
        return DifferenceReport(
            base=self.below.disk.path,
            image=self.above.disk.path,
            cow=cow,
            size_bytes=self.below.size_bytes,
            changed_bytes=tally.bytes,
            runs=tally.ranges,
            dialect=self.header.dialect,
            dry_run=dry_run,
        )


def _open_pair(
    base: str | os.PathLike[str], image: str | os.PathLike[str], cow: str, dialect: Dialect, resources: ExitStack
) -> _Pair:
    """Open and read-lock both disks, if there can be a COW file of this dialect between them."""
    below = RawLayer(resources.enter_context(open_backing(base, cow=cow)))
    above = _open_image(image, resources)
    files.refuse_same_file(cow, *(layer.disk for layer in stack_of(above)))
    _check_sizes(below, above)
    header = new_header(dialect, below.disk, where=cow)
    _check_tail(below, above, header)
    return _Pair(below, above, header)


def _open_image(path: str | os.PathLike[str], resources: ExitStack) -> Layer:
    """Open and read-lock an image, or a COW file and all it stands on."""
    disk = resources.enter_context(files.open_disk(path))
    if headers.looks_like_cow(disk.read_at(0, 4)):
        return resources.enter_context(CowFile.open(path)).layer
    locks.lock(disk.fd, disk.path, exclusive=False)
    refuse_unfinished_merge(disk)
    return RawLayer(disk)


def _check_sizes(below: Layer, above: Layer) -> None:
    if below.size_bytes != above.size_bytes:
        raise DataError(
            "the two disks differ in size",
            where=above.disk.path,
            expected=below.size_bytes,
            found=above.size_bytes,
        )


def _check_tail(below: Layer, above: Layer, header: CowHeader) -> None:
    """Raise DataError when sectors differ that have no bit in the header's dialect."""
    place = first_difference(below, above, header.geometry.mapped_bytes, header.size_bytes)
    if place is not None:
        raise DataError(
            f"the disk's last sectors differ, and {header.dialect.label} has no bits for them",
            where=f"{above.disk.path}, byte {place}",
            hint="write version 3",
        )
