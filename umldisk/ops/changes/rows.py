"""Files as rows, and what differs between two sets of them.

A row says of a file what the manifest of a build says of it (`umldisk.build.manifest`), so that a disk can be held
against the manifest, and two disks against each other. Contents count by their SHA-256. A change that its maker hid by
putting size and mtime back is seen by that.

A file may be longer than its file system: a guest can make one of terabytes that is nothing but a hole, and hashing
its zeros would take days. Of such a file the digest is of its data alone, as `sparse`:

    SHA-256 of:   offset (u64, little-endian), data      for every 1 KiB that is not all zeros, ascending

Times of reading and of the inode's own change are left out; so are the blocks that a file lies in.
"""

from __future__ import annotations

import base64
import hashlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from umldisk.build.tree import FileType, path_text
from umldisk.image.extfs.inode import ExtInode
from umldisk.image.extfs.volume import Volume
from umldisk.system.digest import contents_sha256

Row = Mapping[str, Any]
"""What is known of one file, by the manifest's names."""

COMPARED = ("type", "mode", "uid", "gid", "size", "sha256", "sparse", "target", "device", "xattrs", "mtime_ns")
TIME_ALONE = ("mtime_ns",)
_LOST_AND_FOUND = "/lost+found"
_GRAIN_BYTES = 1024
"""The smallest block of an ext file system: data always lies at multiples of it."""


class ChangeKind(Enum):
    """What happened to a file."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs: its row before and after, None where there was none, and in which fields."""

    path: str
    before: Row | None
    after: Row | None
    fields: tuple[str, ...] = ()

    @property
    def kind(self) -> ChangeKind:
        """What happened to the file."""
        if self.before is None:
            return ChangeKind.ADDED
        return ChangeKind.REMOVED if self.after is None else ChangeKind.CHANGED


def file_rows(volume: Volume, mount_point: str) -> Iterator[tuple[str, Row]]:
    """Yield every path of a file system, as its guest sees it, with its row; contents are read.

    Raises DataError for a file system that is damaged.
    """
    for place, number in volume.walk():
        if place != _LOST_AND_FOUND:
            path = place if mount_point == "/" else f"{mount_point}{place}".rstrip("/")
            yield path, describe(volume, volume.inode(number))


def describe(volume: Volume, inode: ExtInode) -> Row:
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
        row |= {"size": inode.size_bytes, **_contents(volume, inode)}
    if kind is FileType.SYMLINK:
        row["target"] = path_text(volume.symlink_target(inode))
    if kind.is_device:
        row["device"] = list(inode.device)
    if xattrs := volume.xattrs(inode):
        row["xattrs"] = {name: base64.b64encode(value).decode() for name, value in xattrs}
    return row


def _contents(volume: Volume, inode: ExtInode) -> dict[str, str]:
    if inode.size_bytes <= volume.size_bytes:
        return {"sha256": contents_sha256(volume.pieces(inode), inode.size_bytes).hex()}
    digest = hashlib.sha256()
    for start, piece in volume.pieces(inode):
        for offset in range(0, len(piece), _GRAIN_BYTES):
            data = piece[offset : offset + _GRAIN_BYTES].rstrip(b"\0")
            if data:
                digest.update((start + offset).to_bytes(8, "little"))
                digest.update(data.ljust(_GRAIN_BYTES, b"\0"))
    return {"sparse": digest.hexdigest()}


def differences(before: Mapping[str, Row], after: Iterable[tuple[str, Row]]) -> Iterator[Difference]:
    """Yield what differs, in the order of `after`, and at the end what is not there any more."""
    missing = dict(before)
    for path, found in after:
        expected = missing.pop(path, None)
        if expected is None:
            yield Difference(path, None, found)
            continue
        fields = tuple(field for field in COMPARED if expected.get(field) != found.get(field))
        if fields:
            yield Difference(path, expected, found, fields)
    yield from (Difference(path, row, None) for path, row in missing.items())
