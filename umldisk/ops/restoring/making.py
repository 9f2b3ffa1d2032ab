"""Making what a restore brings in, below the guest's .restoring/, where nobody looks.

Everything is made, checked, given its owner and mode, and synced, before anything old is touched. A base from a
checkpoint is assembled with the present base as its seed. A COW file names the place that its base will have, not the
one where it is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from umldisk.build.disks import Workshop, check, make_ext_disk, make_sparse, make_swap_disk
from umldisk.build.ownership import Ownership
from umldisk.build.tree import FileType, Inode
from umldisk.checkpoint.assemble import Assembled, Seed, assemble
from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.index import Index
from umldisk.checkpoint.recording import settled
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.cow import header as headers
from umldisk.cow.creating import absolute_path, new_cow, new_header
from umldisk.cow.dialect import Dialect
from umldisk.errors import UmldiskError
from umldisk.image.drives import Content, Drive
from umldisk.ops.restoring.bases import base_index
from umldisk.ops.restoring.planning import DrivePlan, RestorePlan, Way
from umldisk.ops.restoring.stages import NEW, SCRATCH
from umldisk.progress import SILENT, Progress
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import open_disk
from umldisk.system.swapping import open_directory


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of a drive: the digest of its base.

    Of one from a checkpoint also where its chunks came from, and which index it equals as long as it looks as `known`.
    """

    digest: str | None = None
    assembled: Assembled | None = None
    known: BaseState | None = None


@dataclass(frozen=True, slots=True)
class Making:
    """What making needs: `indexes` of the checkpoints by drive, the `store` that has them, None when there are none."""

    guest: Guest
    plan: RestorePlan
    stage: str
    store: Store | None
    indexes: Mapping[str, Index]
    ownership: Ownership
    progress: Progress = SILENT

    def path(self, name: str) -> str:
        """Where the new file of that name is made."""
        return os.path.join(self.stage, NEW, name)


def make_all(making: Making) -> dict[str, Made]:
    """Make every new file of the plan, with its owner and mode, synced; return what was made by the drive's name.

    Raises DataError when a chunk is missing or damaged, StorageError when there is no room.
    """
    drives = {drive.name: drive for drive in making.guest.drives}
    made = {plan.drive: _make(making, plan, drives[plan.drive]) for plan in making.plan.drives}
    _dress(making, drives)
    known = {plan.drive: _known(making, plan) for plan in making.plan.drives}
    return {name: dataclasses.replace(one, known=known[name]) for name, one in made.items()}


def _make(making: Making, plan: DrivePlan, drive: Drive) -> Made:
    made = Made(plan.digest)
    if plan.way is Way.CHECKPOINT:
        made = _assemble(making, plan, drive)
    elif plan.way is Way.NEW:
        made = Made(_make_empty(making, plan, drive))
    if plan.cow and plan.way is not Way.KEPT:
        _make_cow(making, plan, drive)
    return made


def _assemble(making: Making, plan: DrivePlan, drive: Drive) -> Made:
    path, store = making.path(plan.base), making.store
    assert store is not None
    make_sparse(path, 0)
    with _seed(making, store, drive) as seed, open_disk(path, writable=True) as target:
        index = making.indexes[plan.drive]
        assembled = assemble(store, index, target, seed=seed, progress=making.progress)
        target.sync()
        return Made(sparse_sha256(target), assembled)


@contextlib.contextmanager
def _seed(making: Making, store: Store, drive: Drive) -> Iterator[Seed | None]:
    """Give the present base with the index that the store has for it, if both are there."""
    index = base_index(store, making.guest, drive)
    with contextlib.ExitStack() as stack:
        seed = None
        if index is not None:
            with contextlib.suppress(UmldiskError):
                seed = Seed(stack.enter_context(open_disk(making.guest.base_path(drive))), index)
        yield seed


def _make_empty(making: Making, plan: DrivePlan, drive: Drive) -> str:
    path = making.path(plan.base)
    if drive.content is Content.SWAP:
        make_swap_disk(path, making.guest, drive)
    else:
        _make_empty_ext(making, path, drive)
    with open_disk(path, writable=True) as disk:
        disk.sync()
        return sparse_sha256(disk)


def _make_empty_ext(making: Making, path: str, drive: Drive) -> None:
    """Make a file system with nothing but its top directory, as the build leaves it where the base has nothing."""
    time_ns = _nanoseconds(making.plan.time)
    workshop = Workshop.open(os.path.join(making.stage, SCRATCH), time_ns=time_ns)
    share = {"/": Inode(FileType.DIRECTORY, drive.mount_mode, mtime_ns=time_ns)}
    tree = workshop.new_directory(f"{drive.name}.tree")
    make_ext_disk(path, making.guest, drive, share, workshop=workshop, tree=tree)
    check(path, workshop.environment)


def _known(making: Making, plan: DrivePlan) -> BaseState | None:
    """Return which index the new base equals, and how it looks now that it has its owner and mode."""
    if plan.way is not Way.CHECKPOINT or plan.index_sha256 is None:
        return None
    with open_disk(making.path(plan.base)) as disk:
        look = settled(disk)
    return None if look is None else BaseState(making.plan.guest, plan.drive, plan.index_sha256, look)


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000_000


def _make_cow(making: Making, plan: DrivePlan, drive: Drive) -> None:
    """Make an empty COW file over the base where it will lie; the disks are locked by us already."""
    assert plan.cow is not None
    path, lasting = making.path(plan.cow), making.guest.base_path(drive)
    base = making.path(plan.base) if plan.way is Way.CHECKPOINT else lasting
    with open_disk(base) as disk:
        header = new_header(Dialect.V3, disk, where=path)
    with new_cow(path, headers.rewrite(header, backing_path=absolute_path(lasting)), replace=False, sync=True):
        pass


def _dress(making: Making, drives: Mapping[str, Drive]) -> None:
    ownership = making.ownership
    with open_directory(os.path.join(making.stage, NEW)) as new:
        present = new.names()
        for plan in making.plan.drives:
            if plan.base in present:
                new.dress(plan.base, ownership.of_disk(drives[plan.drive]))
            if plan.cow in present:
                new.dress(plan.cow, ownership.writable)
        new.sync()
