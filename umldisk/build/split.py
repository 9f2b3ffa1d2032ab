"""Sharing one tree out over the drives.

A path belongs to the drive with the longest mount point above it. What lies *in* a mount point goes
to the top of that drive (/var/log becomes /log of the var drive; there is no /var/var), and the
mount point itself exists twice: as an empty directory on the drive it is mounted on, and as the top
directory of its own drive, both with the mode that the drive demands or, for the plain 0755, the
one that the base gave it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace

from umldisk.build.tree import Entry, FileType, make_tree
from umldisk.errors import DataError
from umldisk.image.drives import Drive


def drive_of(path: str, drives: Sequence[Drive]) -> tuple[Drive, str]:
    """Return the drive that `path` lies on and its path there; a mount point is its own drive's top."""
    mounted = [(drive.mount_point, drive) for drive in drives if drive.mount_point]
    mount_point, drive = max(
        ((point, drive) for point, drive in mounted if _is_under(path, point)),
        key=lambda pair: len(pair[0]),
    )
    return drive, path if mount_point == "/" else path[len(mount_point) :] or "/"


def _is_under(path: str, mount_point: str) -> bool:
    return mount_point in ("/", path) or path.startswith(mount_point + "/")


def split(tree: Iterable[Entry], drives: Sequence[Drive]) -> dict[Drive, list[Entry]]:
    """Share `tree` out: every drive with a mount point gets its own tree, with a top directory.

    Mount points that the tree lacks are added. Raises DataError when one is no directory.
    """
    mount_points = {drive.mount_point: drive for drive in drives if drive.mount_point}
    entries = {entry.path: entry for entry in tree}
    for point, drive in mount_points.items():
        entries[point] = _mount_point(entries.get(point), point, drive)
    shares: dict[Drive, list[Entry]] = {drive: [] for drive in mount_points.values()}
    for path, entry in entries.items():
        drive, place = drive_of(path, drives)
        shares[drive].append(replace(entry, path=place))
        if path in mount_points and path != "/":
            outer, outer_place = drive_of(posixpath.dirname(path), drives)
            name = posixpath.join(outer_place, posixpath.basename(path))
            shares[outer].append(replace(entry, path=name))
    return {drive: make_tree(share) for drive, share in shares.items()}


def _mount_point(found: Entry | None, path: str, drive: Drive) -> Entry:
    if found is None:
        return Entry(path, FileType.DIRECTORY, drive.mount_mode)
    if found.type is not FileType.DIRECTORY:
        raise DataError("a mount point of the guest is no directory", where=path, found=found.type.name.lower())
    return replace(found, mode=drive.mount_mode) if drive.mount_mode != 0o755 else found
