"""What has to be on the drives of a guest that was built from a base without an init.

Said anew here, apart from the build: the split by mount points, parents that nothing named, hard links that end at a
drive's edge, mke2fs's lost+found. Only the files that are laid over the base come from where the build has them.
"""

from __future__ import annotations

import stat
from dataclasses import replace
from posixpath import dirname

from tests.kit.listing import Listing, Row, row_of_file
from tests.kit.rich_tree import REPLACED
from umldisk.build.files.facts import inspect
from umldisk.build.files.render import guest_entries
from umldisk.build.tree import FileType, Text, path_bytes, plant
from umldisk.config.guest import Guest
from umldisk.image.drives import DRIVES

_MOUNTED = {b"/var": "var", b"/home": "home", b"/tmp": "tmp"}
_SECOND = 1_000_000_000
_2038_NS = (1 << 31) * _SECOND
_LATEST_OF_SUPERBLOCK_NS = ((1 << 32) - 1) * _SECOND


def expected_shares(guest: Guest, source: Listing) -> dict[str, Listing]:
    """Return what has to be on each drive: the base's files, ours over them, and the directories that are needed."""
    time_ns = max(row.mtime_ns for row in source.values() if row.mtime_ns < _2038_NS)
    whole = _with_parents({**source, **_rendered(guest, time_ns), **_mount_points(source, time_ns)}, time_ns)
    assert REPLACED not in source or whole[REPLACED] != source[REPLACED]
    shares = _on_drives(whole)
    for share in shares.values():
        share.setdefault(b"/lost+found", _lost_and_found(time_ns))
    return shares


def _rendered(guest: Guest, time_ns: int) -> Listing:
    """Return what umldisk lays over a base that has nothing it would have to edit."""
    rows = {}
    for entry in guest_entries(guest, inspect(plant({}, [])), mtime_ns=time_ns):
        path, inode = path_bytes(entry.path), entry.inode
        if inode.type is FileType.FILE:
            assert isinstance(inode.contents, Text)
            data = inode.contents.data
            rows[path] = row_of_file(path, data, mode=inode.mode, uid=inode.uid, gid=inode.gid, mtime_ns=time_ns)
        else:
            target = path_bytes(inode.target) if inode.type is FileType.SYMLINK else None
            rows[path] = Row(inode.inode_mode, inode.uid, inode.gid, time_ns, path, target=target)
    return rows


def _mount_points(source: Listing, time_ns: int) -> Listing:
    missing = (path for path in _MOUNTED if path not in source)
    return {path: _directory(path, time_ns) for path in missing}


def _directory(path: bytes, time_ns: int) -> Row:
    return Row(stat.S_IFDIR | 0o755, 0, 0, time_ns, path)


def _with_parents(rows: Listing, time_ns: int) -> Listing:
    parents: Listing = {}
    for path in rows:
        parent = path
        while parent not in (b"/", b""):
            parent = dirname(parent)
            if parent not in rows:
                parents[parent] = _directory(parent, time_ns)
    return {**rows, **parents}


def _lost_and_found(time_ns: int) -> Row:
    """Return what mke2fs makes, at the time that it is told, in whole seconds and never the second 0."""
    seconds = min(max(time_ns // _SECOND, 1), _LATEST_OF_SUPERBLOCK_NS // _SECOND)
    return Row(stat.S_IFDIR | 0o700, 0, 0, seconds * _SECOND, b"/lost+found")


def _on_drives(whole: Listing) -> dict[str, Listing]:
    shares: dict[str, Listing] = {drive.name: {} for drive in DRIVES if drive.mount_point}
    for path, row in whole.items():
        point = next((point for point in _MOUNTED if path == point or path.startswith(point + b"/")), b"")
        kept = replace(row, mode=stat.S_IFDIR | 0o1777) if path == b"/tmp" else row
        shares[_MOUNTED.get(point, "root")][path[len(point) :] or b"/"] = kept
        if path == point:
            shares["root"][path] = kept
    return {name: _relinked(share) for name, share in shares.items()}


def _relinked(share: Listing) -> Listing:
    """Name every group of hard links after its first name on this drive."""
    first: dict[bytes, bytes] = {}
    for place in sorted(share):
        first.setdefault(share[place].link, place)
    return {place: replace(row, link=first[row.link]) for place, row in share.items()}
