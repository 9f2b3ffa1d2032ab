"""Another backing file for a COW file: the guest goes on seeing the same disk.

    old backing ─┐
                 ├─ compare where the COW file has no sectors of its own
    new backing ─┘            │ differing pages
                              ▼
    1  copied up from the old backing file into the COW file, data first, then bits
    2  the header names the new backing file, under a journal

With `header_only` step 1 is left out: the new file is taken to have the same contents (it was
moved, copied, or only its mtime changed), and the old one need not exist any more.

Stopped anywhere, the same call again completes it:

    in step 1        the view is unchanged; pages with bits are not compared again, the rest is
    journal there    the header is read through the journal, and written before anything replaces it
    after step 2     the header names the new file already: nothing differs from itself, all done

Whole pages are copied, so that no page gets mixed (see `align`). A page counts as differing when
any of its sectors do, also one that the COW file has: the price of never looking twice.

Left out: changing the size of the disk, or the dialect. The header keeps its layout to the byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import replace as replaced

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.compare import Comparer, Tally, first_difference, joined, reading
from umldisk.cow.creating import absolute_path, open_backing, refuse_itself
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile, backing_path_of, read_header
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import MergeJournal, refuse_unfinished_merge
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.cow.merging import stack_of
from umldisk.cow.writing import ByteRange, copy_up, replace_header, unchanged_ranges
from umldisk.errors import DataError, NoInputError
from umldisk.progress import SILENT, Progress, Task
from umldisk.system import files, locks
from umldisk.system.files import DiskFile

_MTIME_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class RebaseReport:
    """What was done, or with `dry_run` would be; `mtime` (seconds) is the new backing file's.

    `copied_bytes` of the old backing file went into the COW file to keep what its guest sees.
    """

    cow: str
    old_backing: str
    backing: str
    copied_bytes: int
    mtime: int
    dialect: Dialect
    dry_run: bool


def rebase(
    cow: str | os.PathLike[str],
    backing: str | os.PathLike[str],
    *,
    access: Access | None = None,
    header_only: bool = False,
    sync: bool = True,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> RebaseReport:
    """Let `cow` stand on `backing` from now on, with the same contents seen through it.

    `access.backing` says where the old backing file is, if not where the header says. With
    `header_only` only path and mtime in the header change; then `backing` may be a COW file, which
    names a chain for umldisk to flatten (UML reads none). Without it a COW file is refused.

    Raises what CowFile.open raises; DataError when the sizes differ, `backing` is the COW file
    itself or stands on it, a merge is unfinished, or pages differ that the dialect has no bits for;
    BusyError when one of the files is in use. Nothing has been written then.
    """
    job = _Job(os.fspath(cow), access or Access(), sync=sync, dry_run=dry_run)
    if header_only:
        return job.rename(os.fspath(backing))
    with open_backing(backing, cow=cow) as new:
        return job.carry_over(RawLayer(new), progress)


class _Job:
    """One rebase of one COW file."""

    def __init__(self, cow: str, access: Access, *, sync: bool, dry_run: bool) -> None:
        writing = not dry_run
        self._cow = cow
        self._access = replaced(access, change_cow=writing, change_backing=False, lock=access.lock or writing)
        self._sync = sync
        self._dry_run = dry_run

    # -- the header alone -------------------------------------------------------------------------

    def rename(self, backing: str) -> RebaseReport:
        """Write path and mtime of `backing` into the header."""
        with ExitStack() as resources:
            new = resources.enter_context(files.open_disk(backing))
            refuse_itself(new, self._cow)
            size_bytes = self._size_of(new)
            locks.lock(new.fd, new.path, exclusive=False)
            refuse_unfinished_merge(new)
            disk, header = self._open_top(resources, new)
            self._refuse_own_merge(disk, header)
            _check_size(new.path, header.size_bytes, size_bytes)
            pointed = _pointed_at(header, new)
            if not self._dry_run:
                replace_header(disk, header, pointed, sync=self._sync)
            return self._report(pointed, backing_path_of(disk, header), copied_bytes=0)

    def _size_of(self, backing: DiskFile) -> int:
        """Return the size of the disk in `backing`, an image or a COW file that stands."""
        if not headers.looks_like_cow(backing.read_at(0, 4)):
            return backing.size_bytes
        looking = Access(ignore_mtime=self._access.ignore_mtime, lock=self._access.lock)
        with CowFile.open(backing.path, access=looking) as chain:
            for layer in stack_of(chain.layer):
                refuse_itself(layer.disk, self._cow)
            return chain.size_bytes

    def _open_top(self, resources: ExitStack, new: DiskFile) -> tuple[DiskFile, CowHeader]:
        """Open and lock the COW file alone; the new image's size helps to tell its dialect."""
        access = self._access
        disk = resources.enter_context(files.open_disk(self._cow, writable=access.change_cow))
        if access.lock:
            locks.lock(disk.fd, disk.path, exclusive=access.change_cow)
        old = None if access.backing is None else os.fspath(access.backing)
        is_cow = headers.looks_like_cow(new.read_at(0, 4))
        sized = old or (None if is_cow else new.path)
        return disk, read_header(disk, dialect=access.dialect, backing=sized)

    def _refuse_own_merge(self, disk: DiskFile, header: CowHeader) -> None:
        """Raise DataError when this COW file takes part in an unfinished merge where it stood."""
        old = backing_path_of(disk, header)
        identity = files.identify(old)
        pending = journals.read(old) if identity is not None else None
        if identity is None or not isinstance(pending, MergeJournal):
            return
        if pending.covers(disk.path, identity) or os.path.realpath(disk.path) in pending.adopted:
            raise DataError(
                "a merge that the COW file takes part in is unfinished",
                where=old,
                hint=f"finish it with: umldisk merge -d {pending.cow}",
            )

    # -- with contents ----------------------------------------------------------------------------

    def carry_over(self, new: Layer, progress: Progress) -> RebaseReport:
        """Copy up what differs between the old backing file and `new`, then write the header."""
        opening = self._fitting_access(new.disk)
        with CowFile.open(self._cow, access=opening) as target, reading(target.path):
            refuse_unfinished_merge(target.backing.disk)
            _check_size(new.disk.path, target.size_bytes, new.size_bytes)
            _check_tail(target, new)
            pointed = _pointed_at(target.header, new.disk)
            with progress.task("rebase", target.size_bytes) as task:
                copied_bytes = self._keep_view(target, new, task)
            if not self._dry_run:
                replace_header(target.layer.disk, target.header, pointed, sync=self._sync)
            return self._report(pointed, target.backing.disk.path, copied_bytes=copied_bytes)

    def _fitting_access(self, new: DiskFile) -> Access:
        """Forget where the old backing file is once the header names the new one.

        The call that gave `access.backing` was then carried out already, unless that file fits the
        header as well; if it does, comparing once more does no harm.
        """
        access = self._access
        if access.backing is None:
            return access
        old_mtime = _mtime_at(access.backing)
        hint = None if old_mtime is None else os.fspath(access.backing)
        with files.open_disk(self._cow) as disk:
            header = read_header(disk, dialect=access.dialect, backing=hint)
            named = files.identify(backing_path_of(disk, header))
        if named != new.identity:
            return access
        fits = old_mtime is not None and (access.ignore_mtime or old_mtime == header.mtime)
        return access if fits else replaced(access, backing=None)

    def _keep_view(self, target: CowFile, new: Layer, task: Task) -> int:
        ranges = _ranges_to_keep(target.layer, Comparer(target.backing, new, task=task), task)
        if not self._dry_run:
            return copy_up(target.layer, ranges, target.backing.read_into, sync=self._sync)
        tally = Tally()
        tally.exhaust(ranges)
        return tally.bytes

    def _report(self, header: CowHeader, old_backing: str, *, copied_bytes: int) -> RebaseReport:
        return RebaseReport(
            cow=self._cow,
            old_backing=old_backing,
            backing=os.fsdecode(header.backing_path),
            copied_bytes=copied_bytes,
            mtime=header.mtime,
            dialect=header.dialect,
            dry_run=self._dry_run,
        )


def _mtime_of(disk: DiskFile) -> int:
    return disk.mtime_seconds & _MTIME_MASK


def _mtime_at(path: str | os.PathLike[str]) -> int | None:
    try:
        with files.open_disk(path) as disk:
            return _mtime_of(disk)
    except NoInputError:
        return None


def _pointed_at(header: CowHeader, backing: DiskFile) -> CowHeader:
    return headers.rewrite(header, backing_path=absolute_path(backing.path), mtime=backing.mtime_seconds)


def _check_size(path: str, expected_bytes: int, found_bytes: int) -> None:
    if expected_bytes != found_bytes:
        raise DataError(
            "the new backing file has another size than the disk",
            where=path,
            expected=expected_bytes,
            found=found_bytes,
        )


def _check_tail(target: CowFile, new: Layer) -> None:
    """Raise DataError when sectors differ that could not be marked as changed."""
    start, end = target.geometry.mapped_bytes, target.size_bytes
    place = first_difference(target.backing, new, start, end)
    if place is not None:
        raise DataError(
            f"the disk's last sectors differ, and {target.header.dialect.label} has no bits for them",
            where=f"{new.disk.path}, byte {place}",
            hint=f"merge it into an image instead: umldisk merge {target.path} NEW",
        )


def _ranges_to_keep(layer: CowLayer, comparer: Comparer, task: Task) -> Iterator[ByteRange]:
    """Yield the unchanged ranges of all pages that differ between the two backing files."""
    position, end = 0, layer.geometry.mapped_bytes
    for stretch in layer.stretches():
        if not stretch.mixed:
            start = stretch.start * layer.geometry.group_bytes
            stop = min(stretch.end * layer.geometry.group_bytes, end)
            yield from _differing_and_unchanged(layer, comparer, position, start)
            task.add(stop - start)
            position = stop
    yield from _differing_and_unchanged(layer, comparer, position, end)


def _differing_and_unchanged(layer: CowLayer, comparer: Comparer, start: int, end: int) -> Iterator[ByteRange]:
    for low, high in comparer.differing(start, end):
        yield from joined(unchanged_ranges(layer, low, high))
