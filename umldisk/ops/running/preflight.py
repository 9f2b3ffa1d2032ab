"""Everything that would make a start fail, or spoil a disk, looked for before anything is changed.

    each COW file     everything that `umldisk check` finds: the pair by size and mtime, stacked COW files, mixed pages
    each base         what was built, unless it was changed since by somebody who let its mtime change
    each disk         nobody has a lock on it that is in the way; the user whom the kernel runs as may use it, for it
                      is opened with that user's rights, in whose directory it lies and who may have laid snares there
    memory            as much as the guest may take is available, in its temporary directory as well
    disk space        something is left to write to; a warning when the disks could outgrow the file system

A base whose mtime is later than the manifest was merged into or restored: its COW file's header vouches for it. One
that is as old as the manifest and not what the manifest says was changed by something that hid it. Of a drive that is
made anew only the base is looked at, which stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from umldisk.build import manifest
from umldisk.config.guest import Guest
from umldisk.cow.file import Access
from umldisk.cow.findings import Finding, Severity
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.guest.at_start import DriveStart, Step
from umldisk.image.drives import Drive
from umldisk.ops.examine import examine
from umldisk.progress import SILENT, Progress
from umldisk.system import locks
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.memory import available_bytes
from umldisk.system.swapping import explained

LEAST_FREE_BYTES = 16 << 20
"""Less room than that on the disks' file system, and a guest could not even write its logs of the start."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the host has to give, in bytes: memory, the temporary directory's space, and that of the disks."""

    memory_bytes: int
    temp_bytes: int | None
    disk_bytes: int


def check_disks(
    guest: Guest, starts: Sequence[DriveStart], *, jailed: bool = True, progress: Progress = SILENT
) -> list[str]:
    """Look all disks of the guest over, each for what the start will do with it, and return warnings.

    It is to be called with the rights that the kernel will have. Raises NoInputError when a disk is missing, DataError
    when one is damaged or the two of a pair do not belong together, BusyError when somebody has one, StorageError when
    we may not use one.
    """
    warnings: list[str] = []
    with progress.task("checking the disks", len(starts)) as task:
        for start in starts:
            warnings += _check_drive(guest, start, jailed=jailed)
            task.add(1)
    return warnings


def _check_drive(guest: Guest, start: DriveStart, *, jailed: bool) -> Iterator[str]:
    drive, cow = start.drive, guest.cow_path(start.drive)
    is_made_anew = start.step is Step.REBUILD
    if cow is None:
        if not is_made_anew:
            _check_plain(guest.base_path(drive), is_written=start.step is Step.NOTHING, jailed=jailed)
        return
    with _open(guest.base_path(drive), writable=False, jailed=jailed) as base:
        if os.path.lexists(cow) and not is_made_anew:
            yield from _check_cow(cow, base, jailed=jailed)
        locks.lock(base.fd, base.path, exclusive=False)
        _require_as_built(guest, drive, base)


def _check_plain(path: str, *, is_written: bool, jailed: bool) -> None:
    with _open(path, writable=is_written, jailed=jailed) as disk:
        locks.lock(disk.fd, disk.path, exclusive=is_written)


def _check_cow(cow: str, base: DiskFile, *, jailed: bool) -> Iterator[str]:
    with _open(cow, writable=True, jailed=jailed) as disk:
        locks.lock(disk.fd, disk.path, exclusive=True)
    report = examine(cow, Access(backing=base.path))
    if not report.ok:
        raise _as_error(report.findings[0])
    yield from (f"{cow}: {one.message}" for one in report.findings if one.severity is Severity.WARNING)


def _open(path: str, *, writable: bool, jailed: bool) -> DiskFile:
    """Open a disk as the kernel will; raises StorageError when it is there and the kernel may not."""
    try:
        disk = open_disk(path, writable=writable)
    except NoInputError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        raise StorageError(
            f"the kernel's user may not {'write' if writable else 'read'} the disk",
            where=path,
            expected=f"a file that UID {os.geteuid()} may use",
            hint="build the guest again with --force, or change the owner of its files",
        ) from error
    if jailed and disk.is_block_device:
        disk.close()
        raise StorageError(
            "the disk is a block device, which cannot be used from inside the jail",
            where=path,
            hint="use a file, or start without a jail: --no-jail",
        )
    return disk


def _as_error(worst: Finding) -> DataError:
    return DataError(worst.message, where=worst.where, hint=worst.hint)


def _require_as_built(guest: Guest, drive: Drive, base: DiskFile) -> None:
    path = os.path.join(guest.directory, manifest.FILE_NAME)
    try:
        rows = [row for row in manifest.read(guest.directory).drives if isinstance(row, dict)]
        built_at = os.stat(path).st_mtime_ns
    except (NoInputError, FileNotFoundError):
        return
    wanted = next((row.get("digest") for row in rows if row.get("name") == drive.name), None)
    if not isinstance(wanted, str) or base.status.st_mtime_ns > built_at or (found := sparse_sha256(base)) == wanted:
        return
    raise DataError(
        f"the base of drive {drive.name} is not the one that was built, and its time of change does not show it",
        where=base.path,
        expected=wanted,
        found=found,
        hint=f"bring it back: umldisk restore {guest.name}, or umldisk build --force {guest.name}",
    )


def check_room(guest: Guest, *, memory_bytes: int, room: Room) -> list[str]:
    """Compare what a guest may take with what there is, and return warnings.

    Raises StorageError when it could not start, or would be killed by a bus error when its memory fills up.
    """
    if room.memory_bytes < memory_bytes:
        raise _too_little("memory for the guest", memory_bytes, room.memory_bytes, "set memory in umldisk.toml")
    if room.temp_bytes is not None and room.temp_bytes < memory_bytes:
        raise _too_little("room for the guest's memory in its temporary directory", memory_bytes, room.temp_bytes, None)
    if room.disk_bytes < LEAST_FREE_BYTES:
        raise _too_little("room for what the guest writes", LEAST_FREE_BYTES, room.disk_bytes, None)
    growth = sum(_growth_bytes(guest, drive) for drive in guest.drives)
    if growth <= room.disk_bytes:
        return []
    return [f"the disks can grow by {_mib(growth)}, and the file system has only {_mib(room.disk_bytes)} free"]


def _too_little(what: str, wanted: int, found: int, hint: str | None) -> StorageError:
    return StorageError(f"there is too little {what}", expected=_mib(wanted), found=_mib(found), hint=hint)


def _growth_bytes(guest: Guest, drive: Drive) -> int:
    """Return by how much the file that the guest writes can grow."""
    allocated = 0
    with contextlib.suppress(OSError):
        allocated = os.stat(guest.cow_path(drive) or guest.base_path(drive)).st_blocks * 512
    return max(0, drive.size_bytes - allocated)


def _mib(size_bytes: int) -> str:
    """Return a size rounded down, so that what is too little never looks like enough."""
    return f"{size_bytes >> 20:,} MiB"


def room_of(guest: Guest, *, temp_directory: str | None) -> Room:
    """Ask the host; `temp_directory` is where the guest's memory file will be, None when that takes memory anyway."""
    return Room(available_bytes(), _free(temp_directory) if temp_directory else None, _free(guest.directory))


def _free(directory: str) -> int:
    with explained("look at", directory):
        found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
