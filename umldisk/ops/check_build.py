"""Comparing a set of disks with the manifest that was written when they were built.

A disk whose digest is the manifest's is as built, and nothing more is read. Where a digest differs, the disk's files
are read, without mounting it, and held against the manifest's rows: what is there that was not, what is missing, what
differs in which respect. A file system that was mounted writably differs in its superblock even when no file does; it
is then *touched*. Disks that a guest writes without a COW file (tmp, swap) differ after the first boot, as they should,
and are no difference.

COW files are not looked at: this is about the disks that must not change under them.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from umldisk.build import manifest
from umldisk.build.manifest import Manifest
from umldisk.build.tree import FileType, path_text
from umldisk.config.site import Site
from umldisk.errors import DataError, NoInputError
from umldisk.image.extfs.inode import ExtInode
from umldisk.image.extfs.volume import Volume
from umldisk.image.reader import DiskReader
from umldisk.progress import SILENT, Progress
from umldisk.system.digest import contents_sha256, sparse_sha256
from umldisk.system.files import DiskFile, open_disk

_LOST_AND_FOUND = "/lost+found"
_COMPARED = ("type", "mode", "uid", "gid", "size", "sha256", "target", "device", "xattrs", "mtime_ns")


class DiskState(Enum):
    """How a disk compares with its row of the manifest."""

    SAME = "as built"
    TOUCHED = "touched: all files as built, other bytes not"
    CHANGED = "changed"
    USED = "used by the guest, as it has no COW file"
    MISSING = "missing"
    UNREADABLE = "changed, and its files cannot be read"


class ChangeKind(Enum):
    """What happened to a file."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


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
    name, mount = str(drive["name"]), str(drive["mount"])
    missing = {str(row["path"]): row for row in built.files if row["drive"] == name}
    volume = Volume.open(DiskReader(disk), where=disk.path)
    for place, number in volume.walk():
        if place == _LOST_AND_FOUND:
            continue
        path = place if mount == "/" else f"{mount}{place}".rstrip("/")
        expected = missing.pop(path, None)
        if expected is None:
            yield FileChange(path, name, ChangeKind.ADDED)
            continue
        found = _describe(volume, volume.inode(number))
        fields = tuple(field for field in _COMPARED if expected.get(field) != found.get(field))
        if fields:
            yield FileChange(path, name, ChangeKind.CHANGED, fields)
    yield from (FileChange(path, name, ChangeKind.REMOVED) for path in missing)


def _describe(volume: Volume, inode: ExtInode) -> dict[str, Any]:
    """Say of an inode what a row of the manifest says of it."""
    kind = FileType(stat.S_IFMT(inode.mode))
    row: dict[str, Any] = {
        "type": kind.name.lower(),
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime_ns": inode.mtime_ns,
    }
    if kind is FileType.FILE:
        row |= {"size": inode.size_bytes, "sha256": contents_sha256(volume.pieces(inode), inode.size_bytes).hex()}
    if kind is FileType.SYMLINK:
        row["target"] = path_text(volume.symlink_target(inode))
    if kind.is_device:
        row["device"] = list(inode.device)
    if xattrs := volume.xattrs(inode):
        row["xattrs"] = {name: base64.b64encode(value).decode() for name, value in xattrs}
    return row
