"""The manifest: what a set of disks was made of, and what is on them.

It lies beside the disks as manifest.json and appears together with them. It holds no time of building and no name of
a host: the same inputs give the same manifest, byte for byte.

    format       1
    guest        the guest's name
    base         kind, source, sha256 of the archive or program, tree_sha256 of all that was read, packages
    init         what the kernel runs first: busybox, sysvinit, systemd, other or none
    time         the newest time that was allowed on the disks, in nanoseconds (SOURCE_DATE_EPOCH or the base's newest)
    tools        name and version of what made them
    drives       for each: name, file, cow, mount, filesystem, size_bytes, uuid, digest
    files        for each path: path, drive, type, mode, uid, gid, mtime_ns, and by type size and sha256, target,
                 device, xattrs (base64); hard links have the same `inode`, a number that only counts

A path that is not UTF-8 has its odd bytes as the surrogates U+DC80 to U+DCFF, as in Python.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from umldisk.build.bases.base import Origin
from umldisk.build.pool import Stored
from umldisk.build.split import guest_path
from umldisk.build.tree import FileType, Inode, Tree, in_order
from umldisk.config.guest import Guest
from umldisk.errors import DataError, NoInputError
from umldisk.image.drives import Drive, drive_uuid
from umldisk.system.files import open_disk

FILE_NAME = "manifest.json"
FORMAT = 1
LIMIT_BYTES = 1 << 30
"""Some four million files. The guest's own user can write the manifest, and it must not cost its reader all memory."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was read: `drives` and `files` are the rows described above; older ones have no `init`."""

    guest: str
    base: Mapping[str, Any]
    drives: tuple[Mapping[str, Any], ...]
    files: tuple[Mapping[str, Any], ...]
    init: str = "other"


def describe_tree(tree: Tree, drive: str | None = None, *, at: Drive | None = None) -> Iterator[dict[str, Any]]:
    """Yield a row for every path of `tree`, as the guest sees it when `tree` is the share of the drive `at`."""
    numbers: dict[int, int] = {}
    for place, inode in in_order(tree):
        row: dict[str, Any] = {"path": guest_path(at, place) if at else place}
        if drive:
            row["drive"] = drive
        row |= describe_inode(inode)
        known = len(numbers)
        row["inode"] = numbers.setdefault(id(inode), known)
        yield row


def describe_inode(inode: Inode) -> dict[str, Any]:
    """Return what a row says of an inode; contents must be stored."""
    row: dict[str, Any] = {
        "type": inode.type.name.lower(),
        "mode": f"{inode.mode:04o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "mtime_ns": inode.mtime_ns,
    }
    if isinstance(inode.contents, Stored):
        row |= {"size": inode.contents.size_bytes, "sha256": inode.contents.sha256.hex()}
    if inode.type is FileType.SYMLINK:
        row["target"] = inode.target
    if inode.type.is_device:
        row["device"] = list(inode.device)
    if inode.xattrs:
        row["xattrs"] = {name: base64.b64encode(value).decode() for name, value in inode.xattrs}
    return row


def tree_digest(tree: Tree) -> str:
    """Return the SHA-256 of everything in `tree`: of its rows, each a line of JSON with sorted keys."""
    digest = hashlib.sha256()
    for row in describe_tree(tree):
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def describe_origin(origin: Origin, tree_sha256: str) -> dict[str, Any]:
    """Return what a manifest says of a base."""
    return {
        "kind": origin.kind,
        "source": origin.source,
        "sha256": origin.sha256,
        "tree_sha256": tree_sha256,
        "packages": list(origin.packages),
    }


def describe_drive(guest: Guest, drive: Drive, digest: str) -> dict[str, Any]:
    """Return what a manifest says of a disk."""
    return {
        "name": drive.name,
        "file": drive.file_name,
        "cow": drive.cow_name,
        "mount": drive.mount_point,
        "filesystem": drive.content.value,
        "size_bytes": drive.size_bytes,
        "uuid": str(drive_uuid(guest.name, drive)),
        "digest": digest,
    }


def render(
    head: Mapping[str, Any], drives: Iterable[Mapping[str, Any]], files: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a manifest as JSON, one line a drive and a file: it is meant to be looked at and compared, too."""
    yield json.dumps({"format": FORMAT, **head}, indent=1)[:-2]
    for name, rows in (("drives", drives), ("files", files)):
        yield f',\n "{name}": ['
        for number, row in enumerate(rows):
            yield (",\n  " if number else "\n  ") + json.dumps(row)
        yield "\n ]"
    yield "\n}\n"


def read(directory: str) -> Manifest:
    """Read the manifest of the disks in `directory`.

    Raises NoInputError when there is none, DataError when it is not one of ours or of a later format.
    """
    path = os.path.join(directory, FILE_NAME)
    found = _parse(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        number = found.get("format") if isinstance(found, dict) else None
        raise DataError("a manifest of another format", where=path, expected=FORMAT, found=number)
    try:
        rows = tuple(found["drives"]), tuple(found["files"])
        return Manifest(found["guest"], found["base"], *rows, init=str(found.get("init", "other")))
    except (KeyError, TypeError) as error:
        raise DataError("the manifest lacks a part", where=path, found=str(error)) from error


def _parse(path: str) -> object:
    try:
        with open_disk(path) as file:
            if file.size_bytes > LIMIT_BYTES:
                raise DataError("too large for a manifest", where=path, expected=LIMIT_BYTES, found=file.size_bytes)
            return json.loads(file.read_at(0, file.size_bytes))
    except NoInputError as error:
        hint = "disks that an older version built have none; build again with --force"
        raise NoInputError("the guest has no manifest", where=path, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError("the manifest cannot be read", where=path, found=str(error)) from error
