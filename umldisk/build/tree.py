"""A tree of files as a value: what a base provides and a disk is filled with.

An entry says what a file system must hold at a path, owner and mode included, without any file
having it: whoever builds may be an ordinary user, and the scratch files that carry the contents
belong to that user. Paths are absolute and in one spelling, so that two entries of one path cannot
hide from each other.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from umldisk.errors import DataError


class FileType(Enum):
    """What an entry is; the value is its type in the mode of an inode."""

    DIRECTORY = 0o040000
    FILE = 0o100000
    SYMLINK = 0o120000


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree; `contents` belongs to files, `target` to symlinks, `mode` is permissions."""

    path: str
    type: FileType
    mode: int
    uid: int = 0
    gid: int = 0
    contents: bytes = b""
    target: str = ""

    @property
    def inode_mode(self) -> int:
        """Type and permissions as an inode has them."""
        return self.type.value | self.mode


def directory(path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> Entry:
    """Make a directory entry."""
    return Entry(_require_path(path), FileType.DIRECTORY, mode, uid, gid)


def file(path: str, contents: bytes | str, mode: int = 0o644, *, gid: int = 0) -> Entry:
    """Make a file entry; text becomes UTF-8."""
    data = contents.encode() if isinstance(contents, str) else contents
    return Entry(_require_path(path), FileType.FILE, mode, gid=gid, contents=data)


def symlink(path: str, target: str) -> Entry:
    """Make a symlink entry."""
    return Entry(_require_path(path), FileType.SYMLINK, 0o777, target=target)


def _require_path(path: str) -> str:
    plain = path.startswith("/") and not path.startswith("//") and posixpath.normpath(path) == path
    if not plain or not path.isprintable():
        raise DataError("not a path for a file of a guest", where=path, expected="an absolute plain path")
    return path


def make_tree(entries: Iterable[Entry]) -> list[Entry]:
    """Return `entries` as a tree: sorted, each after its directory.

    Raises DataError when two entries have one path, or a directory is missing or is none.
    """
    tree: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        if entry.path in tree:
            raise DataError("two files of a guest have one path", where=entry.path)
        parent = tree.get(posixpath.dirname(entry.path))
        if entry.path != "/" and (parent is None or parent.type is not FileType.DIRECTORY):
            raise DataError("a file of a guest lies in no directory", where=entry.path)
        tree[entry.path] = entry
    return list(tree.values())
