"""Making several disks at a time, and of each disk whatever can go on at the same time.

    root   mke2fs ──▶ debugfs ──▶ digest, sync
                 │           └──▶ e2fsck
                 └──▶ the scratch tree is removed
    var    mke2fs ──▶ ...

Almost all of it is done by other programs, or by code that lets go of Python's lock. The root disk is most of the work;
one more thread makes all other disks in that time. When one disk fails, or we are interrupted, the programs of all
others are killed (`umldisk.system.process.Leash`), and all threads have ended before anything is tidied up.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from umldisk.build.disks import Workshop, check, make_ext_disk, make_swap_disk
from umldisk.build.pool import Stored
from umldisk.build.tree import Tree
from umldisk.config.guest import Guest
from umldisk.errors import CannotCreateError, StorageError
from umldisk.image.drives import Content, Drive
from umldisk.progress import Task
from umldisk.system.deferring import interruptions_deferred
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import open_disk
from umldisk.system.process import NOTICE_SECONDS, Leash
from umldisk.system.swapping import open_directory

_DISKS_AT_A_TIME = 2
_STEPS = 2
_EMPTY_DISK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk to be made in `directory`: what goes on it, and the scratch tree of that, which is used up."""

    guest: Guest
    drive: Drive
    share: Tree
    directory: str
    scratch_tree: str

    @property
    def weight(self) -> int:
        """How many bytes of progress it is."""
        return _STEPS * weight_of(self.share)


def weight_of(share: Tree) -> int:
    """Return how much of a step a share is, in bytes: what it holds, and something for the disk itself."""
    stored = (inode.contents for inode in share.values() if isinstance(inode.contents, Stored))
    return _EMPTY_DISK_BYTES + sum(contents.pages * 4096 for contents in stored)


def make_disks(plans: Sequence[DiskPlan], workshop: Workshop, *, task: Task) -> dict[str, str]:
    """Make all disks, checked and synced; return their digests by the drives' names.

    Raises what `disks` raises; then the other disks are unfinished.
    """
    with _crew() as (workers, helpers):
        maker = _Maker(workshop, helpers, task)
        ended: SimpleQueue[Future[str]] = SimpleQueue()
        with interruptions_deferred():  # an executor does not wait for a thread whose start was broken off
            jobs = {plan.drive.name: workers.submit(maker.make, plan) for plan in plans}
            for job in jobs.values():
                job.add_done_callback(ended.put)
        for _job in jobs:
            _next(ended).result()
        return {name: job.result() for name, job in jobs.items()}


def _next(ended: SimpleQueue[Future[str]]) -> Future[str]:
    """Wait for a job to end.

    An interruption in the middle of `concurrent.futures.wait`, and of all that waits by `threading.Condition`, can
    come out as a RuntimeError about a lock; this kind of queue is not written in Python.
    """
    while True:
        with contextlib.suppress(Empty):
            return ended.get(timeout=NOTICE_SECONDS)


@contextlib.contextmanager
def _crew() -> Iterator[tuple[Executor, Executor]]:
    """Give threads that make disks, and threads that help them, whose work is broken off when the block fails."""
    leash = Leash()
    with (
        ThreadPoolExecutor(_DISKS_AT_A_TIME, initializer=leash.take) as helpers,
        ThreadPoolExecutor(_DISKS_AT_A_TIME, initializer=leash.take) as workers,
    ):
        try:
            yield workers, helpers
        except BaseException:
            with interruptions_deferred():
                workers.shutdown(wait=False, cancel_futures=True)
                leash.pull()
            raise


class _Maker:
    """Makes one disk after the other, in whichever thread it is asked."""

    def __init__(self, workshop: Workshop, helpers: Executor, task: Task) -> None:
        self._workshop = workshop
        self._helpers = helpers
        self._task = task
        self._counting = threading.Lock()

    def make(self, plan: DiskPlan) -> str:
        """Make a disk and return its digest."""
        path = os.path.join(plan.directory, plan.drive.file_name)
        if plan.drive.content is Content.SWAP:
            make_swap_disk(path, plan.guest, plan.drive)
            self._count(plan)
            digest = _digest_and_sync(path)
        else:
            self._make_ext(path, plan)
            self._count(plan)
            checking = self._helpers.submit(check, path, self._workshop.environment)
            digest = _digest_and_sync(path)
            checking.result()
        self._count(plan)
        return digest

    def _make_ext(self, path: str, plan: DiskPlan) -> None:
        make_ext_disk(
            path,
            plan.guest,
            plan.drive,
            plan.share,
            workshop=self._workshop,
            tree=plan.scratch_tree,
            when_copied=lambda: self._helpers.submit(clear, plan.scratch_tree),
        )

    def _count(self, plan: DiskPlan) -> None:
        with self._counting:
            self._task.add(plan.weight // _STEPS)


def _digest_and_sync(path: str) -> str:
    with open_disk(path, writable=True) as disk:
        digest = sparse_sha256(disk)
        disk.sync()
    return digest


def clear(path: str) -> None:
    """Remove scratch as far as that goes, however deep; what stays goes with the whole directory."""
    above, name = os.path.split(path)
    with contextlib.suppress(CannotCreateError, StorageError), open_directory(above) as directory:
        directory.clear(name)
