"""The destructive merge: a COW file's changes go into its backing file, in place.

    1  siblings   other COW files on this backing are refused, kept (the old sectors copied up into them) or orphaned
    2  journal    beside the backing file: from here on the same command finishes what was begun
    3  apply      data written, zeros punched, the backing file made durable
    4  mtime      the backing file gets a time of change that no COW file of it has seen
    5  headers    kept siblings and the COW file itself learn that mtime; or the COW file becomes an empty one (reset)
    6  journal    removed

The COW file is its own redo log, so every step can be done again after a stop at any point, and is (see `journal`).

The mtime is what protects the others. A COW file that was left behind would show its guest old and new sectors mixed;
with another mtime every tool and the kernel refuse the pair instead. The merged COW file's own view is not touched by
the merge: its changed sectors are now in both places. It therefore gets the new mtime and stays usable, and running
the same command twice is harmless.

Left out: a block device or another COW file as the target. Merge these into a new image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow import siblings as sibling_files
from umldisk.cow.execute import Executor, Manner, can_share
from umldisk.cow.file import Access, CowFile, read_header
from umldisk.cow.journal import MergeJournal
from umldisk.cow.layers import CowLayer, RawLayer, Segment
from umldisk.cow.plan import Totals, coalesce, measure
from umldisk.cow.writing import ByteRange, copy_up, replace_header, unchanged_ranges
from umldisk.errors import DataError, StorageError, UmldiskError
from umldisk.progress import SILENT, Progress
from umldisk.system import files, locks, staging, transfer
from umldisk.system.files import DiskFile
from umldisk.system.transfer import CHUNK_BYTES, PAGE_BYTES

_NS = 1_000_000_000
_MTIME_MASK = 0xFFFFFFFF


class SiblingPolicy(Enum):
    """What happens to other COW files that stand on the same backing file."""

    REFUSE = "refuse"
    KEEP = "keep"
    ORPHAN = "orphan"


@dataclass(frozen=True, slots=True)
class InPlaceOptions:
    """How a destructive merge is done; `reset` leaves an empty COW file of the merged backing, ready to boot."""

    reset: bool = False
    sparse: bool = True
    sync: bool = True
    verify: bool = False
    dry_run: bool = False
    siblings: SiblingPolicy = SiblingPolicy.REFUSE


@dataclass(frozen=True, slots=True)
class InPlaceReport:
    """What a destructive merge did or would do; `resumed` says that it finished an interrupted one."""

    cow: str
    backing: str
    size_bytes: int
    totals: Totals
    reset: bool
    resumed: bool
    siblings: tuple[str, ...]
    verified: bool
    dry_run: bool
    mtime: int


def merge_into_backing(
    cow: str | os.PathLike[str],
    *,
    access: Access | None = None,
    options: InPlaceOptions | None = None,
    progress: Progress = SILENT,
) -> InPlaceReport:
    """Merge the COW file's changes into its backing file.

    Stopped anywhere, the same call again completes it. Raises what CowFile.open raises; DataError when other COW files
    stand on the backing file and nothing was said about them, or it is no regular file; StorageError when writing
    fails, after which the merge can be finished once the cause is removed.
    """
    options = options or InPlaceOptions()
    writing = not options.dry_run
    access = replace(access or Access(), change_cow=writing, change_backing=writing)
    with CowFile.open(cow, access=access) as source, ExitStack() as resources:
        merge = _Merge(source, _target_of(source), options, progress)
        others = merge.prepare(resources)
        totals, mtime = merge.carry_out(others) if merge.has_work() else merge.measured()
        return merge.report(others, totals, mtime)


def _target_of(source: CowFile) -> DiskFile:
    """Return the backing file, if it is one that can be merged into."""
    backing = source.backing.disk
    if not isinstance(source.backing, RawLayer):
        raise DataError(
            "the backing file is a COW file itself",
            where=backing.path,
            hint=f"flatten the chain into a new image: umldisk merge {source.path} NEW",
        )
    if backing.is_block_device:
        raise DataError(
            "the backing file is a block device",
            where=backing.path,
            hint=f"merge into a new image: umldisk merge {source.path} NEW",
        )
    return backing


class _Merge:
    """One destructive merge between the opening and the closing of its files."""

    def __init__(self, source: CowFile, backing: DiskFile, options: InPlaceOptions, progress: Progress) -> None:
        self._source = source
        self._backing = backing
        self._options = options
        self._progress = progress
        pending = journals.read(backing.path)
        self.pending = pending if isinstance(pending, MergeJournal) else None

    def segments(self) -> Iterator[Segment]:
        """The plan."""
        return coalesce(self._source.layer.changed())

    def has_work(self) -> bool:
        """Whether anything is to be written: there are changes, or something was begun, and this is no dry run."""
        return not self._options.dry_run and (self.pending is not None or next(self.segments(), None) is not None)

    def measured(self) -> tuple[Totals, int]:
        """Return what would be moved, and the backing file's mtime as it is."""
        return measure(self.segments()), self._backing.mtime_seconds

    def report(self, others: list[CowLayer], totals: Totals, mtime: int) -> InPlaceReport:
        """Say what was done, or would be."""
        options = self._options
        return InPlaceReport(
            cow=self._source.path,
            backing=self._backing.path,
            size_bytes=self._source.size_bytes,
            totals=totals,
            reset=options.reset,
            resumed=self.pending is not None,
            siblings=tuple(other.disk.path for other in others),
            verified=options.verify and not options.dry_run,
            dry_run=options.dry_run,
            mtime=mtime,
        )

    def prepare(self, resources: ExitStack) -> list[CowLayer]:
        """Find the siblings and open those that are to be kept; an interrupted merge has named them already."""
        found = sibling_files.find(self._source.path, self._backing)
        if self.pending is not None:
            adopted = [other.path for other in found if os.path.realpath(other.path) in self.pending.adopted]
            others = [self._open_sibling(path, resources) for path in adopted]
            mtimes = {self.pending.old_mtime & _MTIME_MASK, self.pending.mtime & _MTIME_MASK}
            return [other for other in others if other.header.mtime in mtimes]  # else made anew since
        fitting = [other.path for other in found if other.fits]
        if not fitting or self._options.siblings is SiblingPolicy.ORPHAN:
            return []
        if self._options.siblings is SiblingPolicy.REFUSE:
            raise DataError(
                "other COW files stand on this backing file",
                where=self._backing.path,
                found=", ".join(fitting),
                hint="--keep-siblings saves what they see, --orphan-siblings gives them up",
            )
        return [self._open_sibling(path, resources) for path in fitting]

    def _open_sibling(self, path: str, resources: ExitStack) -> CowLayer:
        writing = not self._options.dry_run
        disk = resources.enter_context(files.open_disk(path, writable=writing))
        locks.lock(disk.fd, path, exclusive=writing)
        return CowLayer(disk, read_header(disk), self._source.backing)

    def carry_out(self, others: list[CowLayer]) -> tuple[Totals, int]:
        """Do all six steps; return what was moved and the backing file's new mtime."""
        sync = self._options.sync
        if self.pending is None:
            for other in others:
                self._keep(other)
        pending = self.pending or self._new_journal(others)
        journals.write(self._backing.path, pending, sync=sync)
        totals = self._apply()
        mtime = _settle_mtime(self._backing, pending.mtime, sync=sync)
        for other in others:
            replace_header(other.disk, other.header, headers.rewrite(other.header, mtime=mtime), sync=sync)
        self._finish_cow(mtime)
        journals.remove(self._backing.path, sync=sync)
        return totals, mtime

    def _new_journal(self, others: list[CowLayer]) -> MergeJournal:
        seen = max(self._source.header.mtime, self._backing.mtime_seconds)
        return MergeJournal(
            cow=os.path.realpath(self._source.path),
            inode=self._backing.identity.inode,
            size_bytes=self._source.size_bytes,
            old_mtime=self._backing.mtime_seconds,
            mtime=max(int(time.time()), seen + 1),
            reset=self._options.reset,
            adopted=tuple(os.path.realpath(other.disk.path) for other in others),
        )

    def _keep(self, other: CowLayer) -> None:
        """Copy the sectors that are about to change up into a sibling: its guest goes on seeing the old ones."""
        ranges = _pages_to_keep(self._source.layer, other)
        copy_up(other, ranges, self._source.backing.read_into, sync=self._options.sync, progress=self._progress)

    def _apply(self) -> Totals:
        options = self._options
        try:
            with self._progress.task("merge", self._source.size_bytes) as task:
                share = options.sparse and can_share(self._source.layer, self._backing)
                manner = Manner(sparse=options.sparse, fresh=False, share=share)
                segments = coalesce(self._source.layer.changed(split_holes=not share))
                totals = Executor(self._backing, manner, task).overlay(segments)
            if options.sync:
                os.fsync(self._backing.fd)
            if options.verify:
                self._verify()
        except (OSError, UmldiskError) as error:
            raise StorageError(
                f"the merge stopped: {error.strerror if isinstance(error, OSError) else error}",
                where=self._backing.path,
                hint="nothing is lost; remove the cause and run the same command again to finish it",
            ) from error
        return totals

    def _verify(self) -> None:
        """Lay the changes over what was written once more: nothing may change."""
        ours, theirs = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
        with self._progress.task("verify", self._source.size_bytes) as task:
            for segment in self.segments():
                for offset in range(segment.start, segment.end, CHUNK_BYTES):
                    length = min(CHUNK_BYTES, segment.end - offset)
                    transfer.read_into(self._backing.fd, offset, memoryview(theirs)[:length])
                    ours[:length] = theirs[:length]
                    self._source.layer.overlay_into(offset, memoryview(ours)[:length])
                    if not transfer.same(ours, theirs, length):
                        raise StorageError("what was written reads back differently", where=f"byte {offset} or after")
                    task.add(length)

    def _finish_cow(self, mtime: int) -> None:
        """Let the COW file fit the merged backing file: emptied, or stamped as merged."""
        header, disk, sync = self._source.header, self._source.layer.disk, self._options.sync
        if self._options.reset:
            _publish_empty(disk, headers.rewrite(header, mtime=mtime), sync=sync)
            journals.remove(disk.path, sync=sync)
            return
        now_ns = time.time_ns()
        replace_header(disk, header, headers.rewrite(header, mtime=mtime, merged_ns=now_ns), sync=sync)
        os.utime(disk.fd, ns=(now_ns, now_ns))
        if sync:
            disk.sync()


def _publish_empty(disk: DiskFile, header: headers.CowHeader, *, sync: bool) -> None:
    """Put an empty COW file in the place of `disk`, in the same layout and with the same mode and owner."""
    with staging.staged(disk.path, replace=True, sync=sync, like=disk.status) as stage:
        stage.write_at(0, header.raw)
        os.ftruncate(stage.fd, header.geometry.file_bytes)


def _settle_mtime(backing: DiskFile, wanted: int, *, sync: bool) -> int:
    """Give the backing file the mtime `wanted` and return what it has, in seconds.

    Who may write a file but does not own it can only touch it; then "now" must do.
    """
    try:
        os.utime(backing.fd, ns=(backing.status.st_atime_ns, wanted * _NS))
    except PermissionError:
        while time.time() < wanted:
            time.sleep(0.05)
        os.utime(backing.fd)
    if sync:
        backing.sync()
    return backing.mtime_seconds


def _pages_to_keep(source: CowLayer, other: CowLayer) -> Iterator[ByteRange]:
    """Yield the ranges that `source` changes and `other` has not, in whole pages, so that no page of it gets mixed."""
    limit = other.geometry.mapped_bytes
    done = 0
    for segment in coalesce(source.changed()):
        if segment.end > limit:
            raise DataError(
                "a COW file on the same backing has no bits for the last sectors and cannot be kept",
                where=other.disk.path,
                hint="--orphan-siblings gives it up",
            )
        low = max(done, segment.start - segment.start % PAGE_BYTES)
        done = min(-(-segment.end // PAGE_BYTES) * PAGE_BYTES, limit)
        yield from unchanged_ranges(other, low, done)
