"""The disks of a guest as `status` shows them, looked at while the guest may run.

Nothing is locked. Of each file the header and the allocated part of the bitmap are read, never the data, so that the
time follows what is changed. A guest that writes meanwhile can make the count a moment old, not wrong: bits are only
ever set, whole pages at a time.

    allocated    what a file takes on the host, as du counts
    changed      what the bits of the COW file stand for, at most the size of the disk
    growth       what the files could take in addition if the guest wrote every sector
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.config.guest import Guest
from umldisk.cow import check_backing, check_bitmap
from umldisk.cow import header as headers
from umldisk.cow.file import Access
from umldisk.cow.findings import Finding
from umldisk.cow.survey import BackingState, Level, Survey, survey
from umldisk.errors import UmldiskError
from umldisk.guest.state import RunDisk
from umldisk.ops.running.status_findings import guest_finding
from umldisk.system import locks, sparse
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.locks import Holder

_CHEAP: tuple[Callable[[Level], Iterable[Finding]], ...] = (
    check_backing.backing_state,
    check_backing.unfinished_header,
    check_backing.foreign_journal,
    check_backing.backing_locked,
    check_bitmap.cuts,
)
"""What `check` asks of every COW file of a stack and costs no more than reading the header and bits."""

_GIVEN_BACK = (BackingState.OTHER_SIZE, BackingState.OTHER_MTIME, BackingState.MISSING)


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """The newest good checkpoint of a drive."""

    number: int
    time: datetime
    age_seconds: int


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """One disk of a guest: `path` is the file that the guest writes, `backing` what a COW file stands on.

    Sizes are None where the file is not there or cannot be read; `changed_bytes` also where there is no COW file.
    `locked_by` has a lock on `path`. `thrown_away`: the file goes away with the run.
    """

    drive: str
    path: str
    exists: bool
    size_bytes: int | None
    allocated_bytes: int | None
    changed_bytes: int | None
    backing: str | None
    backing_allocated_bytes: int | None
    backing_state: BackingState | None
    locked_by: Holder | None
    thrown_away: bool
    checkpoint: LastCheckpoint | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """A disk, what is wrong with it, and by how many bytes it could grow on which file system."""

    disk: DiskStatus
    findings: tuple[Finding, ...] = ()
    device: int | None = None
    growth_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DisksSeen:
    """All disks of a guest and what is wrong with them; `is_built` when there is any of them."""

    disks: tuple[DiskStatus, ...]
    findings: tuple[Finding, ...]

    @property
    def is_built(self) -> bool:
        """Whether the guest has disks at all."""
        return any(disk.exists or disk.backing_allocated_bytes is not None for disk in self.disks)

    @property
    def holder(self) -> Holder | None:
        """Who has a disk of the guest locked for writing, a UML guest rather than anybody else."""
        found = [disk.locked_by for disk in self.disks if disk.locked_by is not None and disk.locked_by.exclusive]
        return next((one for one in found if one.umid is not None), found[0] if found else None)


Checkpoints = dict[tuple[str, str], Checkpoint]
"""The newest good checkpoint by guest and drive."""


def planned_disks(guest: Guest) -> tuple[RunDisk, ...]:
    """Return the disks that the guest would run on."""
    return tuple(
        RunDisk(drive.name, drive.ubd, cow or guest.base_path(drive), guest.base_path(drive) if cow else None)
        for drive in guest.drives
        for cow in [guest.cow_path(drive)]
    )


def look_at_disks(guest: Guest, disks: Sequence[RunDisk], checkpoints: Checkpoints, *, now: datetime) -> DisksSeen:
    """Look at the disks of a guest; whatever is wrong with one is a finding."""
    seen = [_look(disk, _last(checkpoints.get((guest.name, disk.drive)), now)) for disk in disks]
    found = [one for disk in seen for one in disk.findings]
    result = DisksSeen(tuple(one.disk for one in seen), ())
    if result.is_built:
        found += [*_missing(result.disks), *_space(guest.directory, seen)]
    return DisksSeen(result.disks, tuple(found))


def _last(checkpoint: Checkpoint | None, now: datetime) -> LastCheckpoint | None:
    if checkpoint is None:
        return None
    return LastCheckpoint(checkpoint.number, checkpoint.time, int((now - checkpoint.time).total_seconds()))


def _look(disk: RunDisk, checkpoint: LastCheckpoint | None) -> _Seen:
    """Look at one disk; a COW file that is not there yet is none that is missing, if its base is there."""
    blank = DiskStatus(
        drive=disk.drive,
        path=disk.path,
        exists=os.path.lexists(disk.path),
        size_bytes=None,
        allocated_bytes=None,
        changed_bytes=None,
        backing=disk.backing,
        backing_allocated_bytes=None if disk.backing is None else _allocated(disk.backing),
        backing_state=None,
        locked_by=None,
        thrown_away=disk.thrown_away,
        checkpoint=checkpoint,
    )
    if not blank.exists:
        return _Seen(blank)
    try:
        return _look_at_file(blank)
    except UmldiskError as error:
        reason = error.what if error.found is None else f"{error.what}, found {error.found}"
        return _Seen(blank, (guest_finding("disk-unreadable", reason, where=disk.path, hint=error.hint),))


def _look_at_file(blank: DiskStatus) -> _Seen:
    with open_disk(blank.path) as file:
        if headers.looks_like_cow(file.read_at(0, 4)):
            return _look_at_cow(blank)
        disk = _filled(blank, file, size_bytes=file.size_bytes)
        growth = 0 if file.is_block_device else file.size_bytes - (disk.allocated_bytes or 0)
        return _Seen(disk, (), file.status.st_dev, max(0, growth))


def _look_at_cow(blank: DiskStatus) -> _Seen:
    with _opened_as_uml_does(blank) as stack:
        top = stack.top
        size_bytes = top.header.size_bytes
        changed = min(top.layer.changed_sectors() * top.header.sector_bytes, size_bytes)
        found = [one for level in stack.levels for find in _CHEAP for one in find(level)]
        found += check_backing.stacked(top)
        disk = _filled(
            blank, top.disk, size_bytes=size_bytes, changed_bytes=changed, backing=top.backing_path, state=top.state
        )
        growth = max(0, top.geometry.file_bytes - (disk.allocated_bytes or 0))
        return _Seen(disk, tuple(found), top.disk.status.st_dev, growth)


@contextlib.contextmanager
def _opened_as_uml_does(disk: DiskStatus) -> Iterator[Survey]:
    """Open a COW file over the guest's own backing file, or if that does not fit, the one that the header names."""
    if disk.backing is not None:
        with survey(disk.path, Access(backing=disk.backing)) as stack:
            if stack.top.state not in _GIVEN_BACK:
                yield stack
                return
    with survey(disk.path) as stack:
        yield stack


def _filled(
    blank: DiskStatus,
    file: DiskFile,
    *,
    size_bytes: int,
    changed_bytes: int | None = None,
    backing: str | None = None,
    state: BackingState | None = None,
) -> DiskStatus:
    return DiskStatus(
        drive=blank.drive,
        path=blank.path,
        exists=True,
        size_bytes=size_bytes,
        allocated_bytes=sparse.allocated_bytes(file.fd),
        changed_bytes=changed_bytes,
        backing=backing,
        backing_allocated_bytes=None if backing is None else _allocated(backing),
        backing_state=state,
        locked_by=_holder(file),
        thrown_away=blank.thrown_away,
        checkpoint=blank.checkpoint,
    )


def _allocated(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return os.stat(path).st_blocks * 512
    return None


def _holder(file: DiskFile) -> Holder | None:
    with contextlib.suppress(OSError):  # a file system without locks has no holders
        return locks.holder(file.fd, exclusive=True)
    return None


# -- what is wrong with all of them -----------------------------------------------------------------------------------


def _missing(disks: Iterable[DiskStatus]) -> Iterator[Finding]:
    for disk in disks:
        path = disk.backing if disk.backing is not None and disk.backing_state is None else disk.path
        if not disk.exists and (disk.backing is None or disk.backing_allocated_bytes is None):
            hint = "umldisk build or umldisk restore makes it anew"
            yield guest_finding("disk-missing", f"the file of the drive {disk.drive} is missing", where=path, hint=hint)


def _space(directory: str, seen: Iterable[_Seen]) -> Iterator[Finding]:
    """File systems that are too small for what their disks could become."""
    growth: dict[int, int] = {}
    place: dict[int, str] = {}
    for one in seen:
        if one.device is not None:
            growth[one.device] = growth.get(one.device, 0) + one.growth_bytes
            place.setdefault(one.device, os.path.dirname(one.disk.path))
    for device, growth_bytes in growth.items():
        free_bytes = _free(place[device])
        if free_bytes is not None and free_bytes < growth_bytes:
            yield guest_finding(
                "disk-space",
                f"the disks could still grow by {growth_bytes >> 20} MiB, and {free_bytes >> 20} MiB are free",
                where=place[device] or directory,
                hint="a full file system of the host gives the guest errors on its disks",
            )


def _free(directory: str) -> int | None:
    with contextlib.suppress(OSError):
        status = os.statvfs(directory)
        return status.f_bavail * status.f_frsize
    return None
