"""A tree of files as a value: what a base provides and a disk is filled with.

    "/bin/sh"      ──▶ Inode(SYMLINK, target="dash")
    "/bin/gunzip"  ──▶ Inode(FILE, 0755, contents ...)  ◀── "/bin/uncompress"     one object: a hard link

A base yields entries: a path with its inode, or a path that is one more name of an earlier path. A tree maps every
path to its inode, and two paths with the *same object* are hard links of each other. An inode says what a file system
must hold, owner and device numbers included, without any file having it: whoever builds may be an ordinary user.

Invariants of a tree: it has "/", every parent of a path is a directory in it, and a path has one spelling (absolute,
no empty part, no "." or ".."). Paths are text in UTF-8 whatever the locale; bytes that are none stand in it as
surrogates (`path_bytes` gives them back). Nothing is ever looked up in the builder's own file system.

Of times an inode has one. What a guest calls "changed", "read" and "born" is set to the same moment on its disks: tar
carries no other, and a disk that told when it was unpacked would differ from build to build.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from umldisk.errors import DataError
from umldisk.image.ext import EARLIEST_SECONDS, LATEST_SECONDS

NAME_BYTES = 255
"""What a directory of ext2/3/4 takes as the length of a name."""
PATH_BYTES = 4095
"""What the kernel takes as the length of a path (PATH_MAX without its NUL)."""
_MOST_SYMLINKS = 40
"""What the kernel follows in one path (MAXSYMLINKS)."""
_EARLIEST_NS, _LATEST_NS = EARLIEST_SECONDS * 1_000_000_000, LATEST_SECONDS * 1_000_000_000


class FileType(Enum):
    """What an inode is; the value is its type in the mode of an inode."""

    FIFO = 0o010000
    CHARACTER_DEVICE = 0o020000
    DIRECTORY = 0o040000
    BLOCK_DEVICE = 0o060000
    FILE = 0o100000
    SYMLINK = 0o120000
    SOCKET = 0o140000

    @property
    def is_device(self) -> bool:
        """Whether an inode of this type has device numbers."""
        return self in (FileType.CHARACTER_DEVICE, FileType.BLOCK_DEVICE)


class Contents(Protocol):
    """The bytes of a regular file, in whatever way a base holds them.

    Contents of a base that is read as a stream can be read once, and only before the base's next entry is asked for.
    """

    @property
    def size_bytes(self) -> int:
        """The length of the file, holes included."""

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and data, ascending, of everything that is not a hole."""


@dataclass(frozen=True, slots=True)
class Text:
    """Contents that are at hand."""

    data: bytes = b""

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return len(self.data)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield all of it, unless there is nothing."""
        if self.data:
            yield 0, self.data


EMPTY = Text()


@dataclass(frozen=True, slots=True, eq=False)
class Inode:
    """What a path leads to; compared by identity, because two equal files are not one.

    `mode` is permissions with setuid, setgid and sticky; `mtime_ns` counts from 1970 and may be negative; `device` is
    major and minor; `xattrs` are pairs of full name and value, sorted, values as the kernel's getxattr gives them
    (ACLs are `system.posix_acl_access` and `system.posix_acl_default`, capabilities `security.capability`).
    """

    type: FileType
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    contents: Contents = EMPTY
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()

    @property
    def inode_mode(self) -> int:
        """Type and permissions as an inode has them."""
        return self.type.value | self.mode


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a base with what it leads to."""

    path: str
    inode: Inode


@dataclass(frozen=True, slots=True)
class HardLink:
    """One more name, `path`, of the file that an earlier entry of the same base has at `target`."""

    path: str
    target: str


Tree = dict[str, Inode]
"""Every path of a guest, or of one of its drives, with its inode."""


def directory(path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0, mtime_ns: int = 0) -> Entry:
    """Make a directory entry."""
    return Entry(require_path(path), Inode(FileType.DIRECTORY, mode, uid, gid, mtime_ns))


def file(path: str, contents: bytes | str, mode: int = 0o644, *, gid: int = 0, mtime_ns: int = 0) -> Entry:
    """Make a file entry; text becomes UTF-8."""
    data = contents.encode() if isinstance(contents, str) else contents
    return Entry(require_path(path), Inode(FileType.FILE, mode, 0, gid, mtime_ns, Text(data)))


def symlink(path: str, target: str, *, mtime_ns: int = 0) -> Entry:
    """Make a symlink entry."""
    return Entry(require_path(path), Inode(FileType.SYMLINK, 0o777, mtime_ns=mtime_ns, target=target))


def path_bytes(path: str) -> bytes:
    """Return the bytes that `path` has on a disk."""
    return path.encode("utf-8", "surrogateescape")


def path_text(raw: bytes) -> str:
    """Return the spelling of the bytes of a path or of a part of one."""
    return raw.decode("utf-8", "surrogateescape")


def require_path(path: str) -> str:
    """Return `path`, or raise DataError unless it is the one spelling of a path that a guest can hold."""
    plain = path == "/" or (path[:1] == "/" and all(part not in ("", ".", "..") for part in path[1:].split("/")))
    if not plain or "\0" in path:
        raise DataError("not a path for a file of a guest", where=path, expected="an absolute plain path")
    raw = path_bytes(path)
    if len(raw) > PATH_BYTES or any(len(part) > NAME_BYTES for part in raw.split(b"/")):
        raise DataError(
            "a path is too long for a guest",
            where=path[:80] + "...",
            expected=f"names of at most {NAME_BYTES} bytes in a path of at most {PATH_BYTES}",
        )
    return path


def plant(tree: Tree, entries: Iterable[Entry | HardLink]) -> Tree:
    """Add what a base yields to `tree`, and return it.

    A path that comes again replaces what was there, as it does for tar; directories that nothing named are made with
    mode 0755. Raises DataError when a file stands where a directory is needed, or the other way round, when a path
    leads through a symlink, or when a hard link names nothing or a directory.
    """
    tree.setdefault("/", Inode(FileType.DIRECTORY, 0o755))
    for entry in entries:
        require_path(entry.path)
        inode = entry.inode if isinstance(entry, Entry) else _linked(tree, entry)
        _make_parents(tree, entry.path, inode.mtime_ns)
        known = tree.get(entry.path)
        if known and (known.type is FileType.DIRECTORY) != (inode.type is FileType.DIRECTORY):
            raise DataError("the base has a directory and something else at one path", where=entry.path)
        tree[entry.path] = inode
    return tree


def _linked(tree: Tree, link: HardLink) -> Inode:
    inode = tree.get(link.target)
    if inode is None or inode.type is FileType.DIRECTORY:
        found = "nothing" if inode is None else "a directory"
        raise DataError("a hard link leads to no file", where=link.path, expected=link.target, found=found)
    return inode


def _make_parents(tree: Tree, path: str, mtime_ns: int) -> None:
    missing, parent = list[str](), posixpath.dirname(path)
    while (known := tree.get(parent)) is None:
        missing.append(parent)
        parent = posixpath.dirname(parent)
    if known.type is not FileType.DIRECTORY:
        what = "a symlink" if known.type is FileType.SYMLINK else "a file"
        raise DataError(f"a path of the base leads through {what}", where=path, found=parent)
    for parent in reversed(missing):
        tree[parent] = Inode(FileType.DIRECTORY, 0o755, mtime_ns=mtime_ns)


def resolve(tree: Tree, path: str) -> str:
    """Return where `path` lies in `tree` once the symlinks among its parents are followed, never out of the tree.

    The last part is not followed, and need not exist. Raises DataError for a loop.
    """
    done, ahead, hops = "/", path.strip("/").split("/"), 0
    while len(ahead) > 1:
        part = ahead.pop(0)
        if part in ("", "."):
            continue
        done = posixpath.dirname(done) if part == ".." else posixpath.join(done, part)
        inode = tree.get(done)
        if inode is not None and inode.type is FileType.SYMLINK:
            hops += 1
            if hops > _MOST_SYMLINKS:
                raise DataError("symlinks of the base lead in a circle", where=path)
            done = "/" if inode.target.startswith("/") else posixpath.dirname(done)
            ahead[:0] = inode.target.split("/")
    return posixpath.join(done, ahead[0])


def follow(tree: Tree, path: str) -> str:
    """Return where `path` leads once every symlink is followed, the last one too; nothing need be there."""
    for _ in range(_MOST_SYMLINKS):
        path = resolve(tree, path)
        inode = tree.get(path)
        if inode is None or inode.type is not FileType.SYMLINK:
            return path
        path = posixpath.join(posixpath.dirname(path), inode.target)
    raise DataError("symlinks of the base lead in a circle", where=path)


def lay_over(tree: Tree, entries: Iterable[Entry | HardLink]) -> Tree:
    """Put files of our own over the base's, through the symlinks among its directories, and return `tree`.

    A file or symlink that is in the way is replaced, never followed; only a symlink to a directory stays where a
    directory comes, so that /lib may stay a link to usr/lib. Raises DataError when a directory would be replaced by
    something else, or the other way round.
    """
    for entry in entries:
        place = resolve(tree, entry.path)
        if isinstance(entry, Entry):
            if entry.inode.type is FileType.DIRECTORY and _leads_to_directory(tree, place):
                continue
            plant(tree, [Entry(place, entry.inode)])
        else:
            plant(tree, [HardLink(place, resolve(tree, entry.target))])
    return tree


def _leads_to_directory(tree: Tree, path: str) -> bool:
    """Whether `path` is a symlink to a directory."""
    if path not in tree or tree[path].type is not FileType.SYMLINK:
        return False
    end = tree.get(follow(tree, path))
    return end is not None and end.type is FileType.DIRECTORY


def limit_times(entries: Iterable[Entry | HardLink], latest_ns: int | None) -> Iterator[Entry | HardLink]:
    """Yield `entries` with no time later than `latest_ns`, if there is a limit, and none that ext4 could not hold.

    Such a time becomes the nearest whole second that fits, as it does in the kernel (timestamp_truncate).
    """
    latest = _LATEST_NS if latest_ns is None else min(latest_ns, _LATEST_NS)
    for entry in entries:
        if isinstance(entry, Entry) and not _EARLIEST_NS <= entry.inode.mtime_ns <= latest:
            limited = min(max(entry.inode.mtime_ns, _EARLIEST_NS), latest)
            yield Entry(entry.path, replace(entry.inode, mtime_ns=limited))
        else:
            yield entry


def in_order(tree: Tree) -> Iterator[tuple[str, Inode]]:
    """Yield path and inode, sorted by path, so that every directory comes before what is in it."""
    for path in sorted(tree):
        yield path, tree[path]
