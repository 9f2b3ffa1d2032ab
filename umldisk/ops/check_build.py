"""Comparing a set of disks with the manifest that was written when they were built.

A disk whose digest is the manifest's is as built, and nothing more is read. Where a digest differs, the disk's files
are read, without mounting it, and held against the manifest's rows: what is there that was not, what is missing, what
differs in which respect. A file system that was mounted writably differs in its superblock even when no file does; it
is then *touched*. Disks that a guest writes without a COW file (tmp, swap) differ after the first boot, as they should,
and are no difference.

COW files are not looked at: this is about the disks that must not change under them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from umldisk.build import manifest
from umldisk.build.manifest import Manifest
from umldisk.config.site import Site
from umldisk.errors import DataError, NoInputError
from umldisk.image.extfs.volume import Volume
from umldisk.image.reader import DiskReader
from umldisk.ops.changes.rows import ChangeKind, Row, differences, file_rows
from umldisk.progress import SILENT, Progress
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import DiskFile, open_disk


class DiskState(Enum):
    """How a disk compares with its row of the manifest."""

    SAME = "as built"
    TOUCHED = "touched: all files as built, other bytes not"
    CHANGED = "changed"
    USED = "used by the guest, as it has no COW file"
    MISSING = "missing"
    UNREADABLE = "changed, and its files cannot be read"


@dataclass(frozen=True, slots=True)
class CheckedDrive:
    """One disk: its file's name, how it compares, and for UNREADABLE why."""

    name: str
    file: str
    state: DiskState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that is not as built; `fields` are the manifest's names of what differs."""

    path: str
    drive: str
    kind: ChangeKind
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildCheck:
    """The disks of a guest against their manifest; `same` when every disk that must not change did not."""

    guest: str
    directory: str
    same: bool
    drives: tuple[CheckedDrive, ...]
    changes: tuple[FileChange, ...]


def check_build(site: Site, name: str, *, progress: Progress = SILENT) -> BuildCheck:
    """Compare the disks of the guest called `name` with their manifest.

    Raises NoInputError when there is no manifest, DataError when it cannot be read, StorageError when a disk cannot.
    """
    guest = site.guest(name)
    built = manifest.read(guest.directory)
    drives: list[CheckedDrive] = []
    changes: list[FileChange] = []
    with progress.task("comparing disks", len(built.drives)) as task:
        for row in built.drives:
            drive, found = _check_drive(guest.directory, row, built)
            drives.append(drive)
            changes += found
            task.add(1)
    same = all(drive.state in (DiskState.SAME, DiskState.USED) for drive in drives)
    return BuildCheck(guest.name, guest.directory, same, tuple(drives), tuple(changes))


def _check_drive(
    directory: str, row: Mapping[str, Any], built: Manifest
) -> tuple[CheckedDrive, tuple[FileChange, ...]]:
    name, file = str(row["name"]), str(row["file"])
    try:
        disk = open_disk(os.path.join(directory, os.path.basename(file)))
    except NoInputError as error:
        return CheckedDrive(name, file, DiskState.MISSING, error.what), ()
    with disk:
        if sparse_sha256(disk) == row["digest"]:
            return CheckedDrive(name, file, DiskState.SAME), ()
        if row["cow"] is None:
            return CheckedDrive(name, file, DiskState.USED), ()
        try:
            changes = tuple(_changes(disk, row, built))
        except DataError as error:
            return CheckedDrive(name, file, DiskState.UNREADABLE, error.line()), ()
    return CheckedDrive(name, file, DiskState.CHANGED if changes else DiskState.TOUCHED), changes


def _changes(disk: DiskFile, drive: Mapping[str, Any], built: Manifest) -> Iterator[FileChange]:
    """Yield what differs between the files on `disk` and the manifest's."""
    name = str(drive["name"])
    volume = Volume.open(DiskReader(disk), where=disk.path)
    for one in differences(rows_of(built, name), file_rows(volume, str(drive["mount"]))):
        yield FileChange(one.path, name, one.kind, one.fields)


def rows_of(built: Manifest, drive: str) -> dict[str, Row]:
    """Return what a manifest says of the files on a drive, by their paths."""
    return {str(row["path"]): row for row in built.files if row["drive"] == drive}
