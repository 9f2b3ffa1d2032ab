"""Comparing and exporting checkpoints by the names that people give them."""

from __future__ import annotations

from dataclasses import dataclass

from umldisk.checkpoint.assemble import load_index
from umldisk.checkpoint.differing import SECTOR_BYTES, differing, narrowed
from umldisk.config.site import Site
from umldisk.errors import UsageError
from umldisk.ops.checkpoints.naming import find_checkpoint
from umldisk.ops.checkpoints.storage import required_catalog, store_of
from umldisk.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class DifferingRun:
    """So many sectors of 512 bytes from one on."""

    start: int
    sectors: int


@dataclass(frozen=True, slots=True)
class ChangesReport:
    """Where checkpoint `right` of a drive differs from `left`: surely if `exact`, else these parts may differ.

    `differing_bytes` is the runs' length; what one disk has beyond the other's end differs.
    """

    guest: str
    drive: str
    left: int
    right: int
    left_bytes: int
    right_bytes: int
    exact: bool
    differing_bytes: int
    runs: tuple[DifferingRun, ...]


def compare_checkpoints(
    site: Site,
    guest: str,
    left: str,
    right: str,
    *,
    drive: str | None = None,
    exact: bool = False,
    progress: Progress = SILENT,
) -> ChangesReport:
    """Tell where two checkpoints of a drive differ, from their indexes; with `exact` by reading what differs there.

    Raises UsageError when they are of different drives, NoInputError when there is no such checkpoint or it was
    reclaimed, DataError when an index or chunk is damaged, StorageError when the store fails.
    """
    store = store_of(site, guest)
    with required_catalog(site, guest) as catalog:
        one, other = (find_checkpoint(catalog, guest, name, drive=drive) for name in (left, right))
    if one.drive != other.drive:
        raise UsageError("the checkpoints are of different drives", found=f"{one.drive} and {other.drive}")
    ours, theirs = load_index(store, one), load_index(store, other)
    found = narrowed(store, ours, theirs, progress=progress) if exact else differing(ours, theirs)
    runs = tuple(DifferingRun(run.start, run.sectors) for run in found)
    return ChangesReport(
        guest=guest,
        drive=one.drive,
        left=one.number,
        right=other.number,
        left_bytes=ours.size_bytes,
        right_bytes=theirs.size_bytes,
        exact=exact,
        differing_bytes=_length_bytes(runs, max(ours.size_bytes, theirs.size_bytes)),
        runs=runs,
    )


def _length_bytes(runs: tuple[DifferingRun, ...], size_bytes: int) -> int:
    """Add up the runs on a disk whose last sector may be half a one."""
    return sum(min((run.start + run.sectors) * SECTOR_BYTES, size_bytes) - run.start * SECTOR_BYTES for run in runs)
