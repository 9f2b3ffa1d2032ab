"""Sharing one tree out over the drives.

A path belongs to the drive with the longest mount point above it. What lies *in* a mount point goes
to the top of that drive (/var/log becomes /log of the var drive; there is no /var/var), and the
mount point itself exists twice: as an empty directory on the drive it is mounted on, and as the top
directory of its own drive, both with the mode that the drive demands or, for the plain 0755, the
one that the base gave it.

Names of one file stay names of one file on each drive. Where they lie on several drives, which no
file system can link, every drive gets the file once.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

from umldisk.build.tree import FileType, Inode, Tree, follow
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


def guest_path(drive: Drive, place: str) -> str:
    """Return the path in the guest of what lies at `place` on `drive`."""
    if drive.mount_point in ("/", None):
        return place
    return f"{drive.mount_point}{place}".rstrip("/")


def _is_under(path: str, mount_point: str) -> bool:
    return mount_point in ("/", path) or path.startswith(mount_point + "/")


def split(tree: Tree, drives: Sequence[Drive], *, mtime_ns: int = 0) -> dict[Drive, Tree]:
    """Share `tree` out: every drive with a mount point gets its own tree, with a top directory.

    Mount points that the tree lacks are added, with parents, and get the time `mtime_ns`. Raises DataError when one
    is no directory.
    """
    mount_points = {drive.mount_point: drive for drive in drives if drive.mount_point}
    whole = dict(tree)
    for point, drive in mount_points.items():
        _add_mount_point(whole, point, drive, mtime_ns)
    shares: dict[Drive, Tree] = {drive: {} for drive in mount_points.values()}
    placed = [(path, inode, *drive_of(path, drives)) for path, inode in whole.items()]
    for path, inode, drive, place in placed:
        shares[drive][place] = inode
        if path in mount_points and path != "/":
            outer, outer_place = drive_of(posixpath.dirname(path), drives)
            shares[outer][posixpath.join(outer_place, posixpath.basename(path))] = replace(inode)
    return shares


def _add_mount_point(whole: Tree, path: str, drive: Drive, mtime_ns: int) -> None:
    ancestor = path
    while ancestor != "/":
        ancestor = posixpath.dirname(ancestor)
        _require_directory(whole.setdefault(ancestor, Inode(FileType.DIRECTORY, 0o755, mtime_ns=mtime_ns)), ancestor)
    found = whole.setdefault(path, Inode(FileType.DIRECTORY, drive.mount_mode, mtime_ns=mtime_ns))
    _require_directory(found, path)
    if drive.mount_mode != 0o755:
        whole[path] = replace(found, mode=drive.mount_mode)


def _require_directory(found: Inode, path: str) -> None:
    if found.type is not FileType.DIRECTORY:
        raise DataError("a mount point of the guest is no directory", where=path, found=found.type.name.lower())


def require_init_on_root(tree: Tree, drives: Sequence[Drive]) -> None:
    """Raise DataError when /sbin/init leads to a drive that the kernel has not mounted when it starts init."""
    path = follow(tree, "/sbin/init")
    drive, _place = drive_of(path, drives)
    if path in tree and drive.mount_point != "/":
        raise DataError(
            "the base has its init where another drive is mounted",
            where=path,
            expected="a path on the root drive",
            found=f"the {drive.name} drive",
            hint=f"leave {drive.mount_point} on the root drive",
        )
