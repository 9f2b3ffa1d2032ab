"""Everything that would make a start fail, or spoil a disk, looked for before anything is changed.

    each COW file     everything that `umldisk check` finds: the pair by size and mtime, stacked COW files, mixed pages
    each base         what was built, unless it was changed since by somebody who let its mtime change
    each disk         nobody has a lock on it that is in the way; the user whom the kernel runs as may use it
    memory            as much as the guest may take is available, in its temporary directory as well
    disk space        something is left to write to; a warning when the disks could outgrow the file system

A base whose mtime is later than the manifest was merged into or restored: its COW file's header vouches for it. One
that is as old as the manifest and not what the manifest says was changed by something that hid it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from umldisk.build import manifest
from umldisk.config.guest import Guest
from umldisk.cow.file import Access
from umldisk.cow.findings import Finding, Severity
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.image.drives import Drive
from umldisk.ops.examine import examine
from umldisk.progress import SILENT, Progress
from umldisk.system import locks
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.swapping import explained

LEAST_FREE_BYTES = 16 << 20
"""Less room than that on the disks' file system, and a guest could not even write its logs of the start."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the host has to give, in bytes: memory, the temporary directory's space, and that of the disks."""

    memory_bytes: int
    temp_bytes: int | None
    disk_bytes: int


def check_disks(guest: Guest, *, uid: int, progress: Progress = SILENT) -> list[str]:
    """Look all disks of the guest over and return warnings.

    Raises NoInputError when one is missing, DataError when one is damaged or the two of a pair do not belong together,
    BusyError when somebody has one, StorageError when the kernel's user `uid` could not use one.
    """
    warnings: list[str] = []
    with progress.task("checking the disks", len(guest.drives)) as task:
        for drive in guest.drives:
            warnings += _check_drive(guest, drive, uid)
            task.add(1)
    return warnings


def _check_drive(guest: Guest, drive: Drive, uid: int) -> Iterator[str]:
    cow = guest.cow_path(drive)
    has_cow = cow is not None and os.path.lexists(cow)
    with open_disk(guest.base_path(drive)) as base:
        if has_cow and cow is not None:
            _require_free(cow)
            report = examine(cow, Access(backing=base.path))
            if not report.ok:
                raise _as_error(report.findings[0])
            yield from (f"{cow}: {one.message}" for one in report.findings if one.severity is Severity.WARNING)
            _require_usable(cow, uid)
        if cow is None:
            locks.hold_unwritable(base.fd, base.path)
            _require_usable(base.path, uid)
        else:
            locks.lock(base.fd, base.path, exclusive=False)
            _require_as_built(guest, drive, base)


def _require_free(cow: str) -> None:
    with open_disk(cow, writable=True) as disk:
        locks.lock(disk.fd, disk.path, exclusive=True)


def _as_error(worst: Finding) -> DataError:
    return DataError(worst.message, where=worst.where, hint=worst.hint)


def _require_usable(path: str, uid: int) -> None:
    """Refuse a disk that the kernel's user could not write, being root ourselves."""
    with explained("look at", path):
        status = os.stat(path)
    if os.geteuid() == 0 and uid not in (0, status.st_uid):
        raise StorageError(
            "the disk does not belong to the guest's user",
            where=path,
            expected=f"UID {uid}",
            found=f"UID {status.st_uid}",
            hint="build the guest again with --force, or change the owner of its files",
        )


def _require_as_built(guest: Guest, drive: Drive, base: DiskFile) -> None:
    path = os.path.join(guest.directory, manifest.FILE_NAME)
    try:
        rows = manifest.read(guest.directory).drives
        built_at = os.stat(path).st_mtime_ns
    except (NoInputError, FileNotFoundError):
        return
    wanted = next((str(row.get("digest")) for row in rows if row.get("name") == drive.name), None)
    if wanted is None or base.status.st_mtime_ns > built_at or (found := sparse_sha256(base)) == wanted:
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
    path = guest.cow_path(drive) or guest.base_path(drive)
    allocated = os.stat(path).st_blocks * 512 if os.path.exists(path) else 0
    return max(0, drive.size_bytes - allocated)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB"


def room_of(guest: Guest, *, temp_directory: str | None) -> Room:
    """Ask the host; `temp_directory` is where the guest's memory file will be, None when that takes memory anyway."""
    return Room(_available_memory(), _free(temp_directory) if temp_directory else None, _free(guest.directory))


def _available_memory() -> int:
    with explained("read", "/proc/meminfo"), open("/proc/meminfo", encoding="ascii") as file:
        rows = dict(_fields(file))
    return rows.get("MemAvailable", 0) * 1024


def _fields(lines: Sequence[str] | Iterator[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        name, _colon, rest = line.partition(":")
        yield name, int(rest.split()[0])


def _free(directory: str) -> int:
    with explained("look at", directory):
        found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
