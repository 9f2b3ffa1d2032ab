"""What is on a disk, file by file, as readers say that have nothing to do with umldisk.

    a directory, or a disk that the kernel has mounted   lstat, readlink, listxattr, SEEK_DATA   needs root for a disk
    a disk (listing_debugfs)                             debugfs, and the blocks it names        needs nobody

Both give the same rows. A digest is taken of the size and of every page that is not all zeros, with its place: equal
digests are equal contents, and a hole of 4 GiB costs nothing. Where the holes are is told apart from the contents, by
`allocated_pages`, which equality leaves out.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

PAGE_BYTES = 4096
_TIMEOUT_SECONDS = 120
_ACL = struct.Struct("<HHI")
_ACL_TAGS_WITH_ID = (0x02, 0x08)
CHUNK_BYTES = 256 * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Row:
    """One name of a file; `link` is the first of all names of the same inode, `mode` has the type in it."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int] | None = None
    target: bytes | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    size_bytes: int | None = None
    digest: str | None = None
    filled_pages: int = 0
    allocated_pages: int = field(default=0, compare=False)


Listing = dict[bytes, Row]
"""Every path, from "/" on, with its row."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is said of a regular file besides its inode."""

    size_bytes: int
    digest: str
    filled_pages: int
    allocated_pages: int


def differences(expected: Listing, found: Listing, *, most: int = 12) -> list[str]:
    """Return what differs, a line a path and at most `most` lines; for an assertion that says something."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            lines.append(f"missing: {path[:120]!r}")
        elif path not in expected:
            lines.append(f"not expected: {path[:120]!r}")
        elif expected[path] != found[path]:
            lines += [f"{path[:120]!r}: {line}" for line in _field_differences(expected[path], found[path])]
    return lines[:most]


def _field_differences(expected: Row, found: Row) -> Iterator[str]:
    for name in (name for name in Row.__slots__ if name != "allocated_pages"):
        one, other = getattr(expected, name), getattr(found, name)
        if one != other:
            yield f"{name} expected {one!r:.300}, found {other!r:.300}"


def list_directory(top: Path) -> Listing:
    """List everything below `top`, which becomes "/", as this process sees it."""
    root, found, inodes = os.fsencode(top), Listing(), dict[bytes, int]()
    for path in _walk(root):
        shown = path[len(root) :] or b"/"
        found[shown] = _look_at(path)
        inodes[shown] = os.lstat(path).st_ino
    return with_links(found, inodes)


def _walk(root: bytes) -> Iterator[bytes]:
    yield root
    for directory, inner, files in os.walk(root):
        yield from (os.path.join(directory, name) for name in inner + files)


def _look_at(path: bytes) -> Row:
    status = os.lstat(path)
    names = (os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False))
    row = Row(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        b"",
        _device_of(status.st_mode, status.st_rdev),
        os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
        tuple(sorted(normal_xattr(name, os.getxattr(path, name, follow_symlinks=False)) for name in names)),
    )
    return with_contents(row, _read_file(path)) if stat.S_ISREG(status.st_mode) else row


def normal_xattr(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return name and value; in an access list, entries of nobody in particular get one id: ext stores none."""
    if not name.startswith(b"system.posix_acl_"):
        return name, value
    rows = (
        (tag, rights, number if tag in _ACL_TAGS_WITH_ID else 0) for tag, rights, number in _ACL.iter_unpack(value[4:])
    )
    return name, value[:4] + b"".join(_ACL.pack(*row) for row in rows)


def _device_of(mode: int, number: int) -> tuple[int, int] | None:
    return (os.major(number), os.minor(number)) if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None


def row_of_file(path: bytes, data: bytes, *, mode: int, uid: int, gid: int, mtime_ns: int) -> Row:
    """Return the row of a regular file with `data` and without further names."""
    row = Row(stat.S_IFREG | mode, uid, gid, mtime_ns, path)
    return with_contents(row, digest_pages([(0, data)], len(data)))


def file_digest(path: Path) -> str:
    """Return the digest of a file, the same for the same bytes, however sparsely either is stored."""
    return _read_file(os.fsencode(path)).digest


def _read_file(path: bytes) -> Contents:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        return digest_pages(((offset, os.pread(fd, length, offset)) for offset, length in _data_chunks(fd, size)), size)
    finally:
        os.close(fd)


def _data_chunks(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of all pages in which there is data, in pieces of limited length."""
    done = 0
    while done < size:
        try:
            start = os.lseek(fd, done, os.SEEK_DATA)
        except OSError:  # only a hole is left
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        first, done = start - start % PAGE_BYTES, min(end + -end % PAGE_BYTES, size)
        for offset in range(first, done, CHUNK_BYTES):
            yield offset, min(CHUNK_BYTES, done - offset)


def digest_pages(chunks: Iterable[tuple[int, bytes]], size_bytes: int) -> Contents:
    digest, filled, allocated = hashlib.sha256(b"%d" % size_bytes), 0, 0
    for offset, data in chunks:
        for start in range(0, len(data), PAGE_BYTES):
            page = data[start : start + PAGE_BYTES]
            allocated += 1
            if page.strip(b"\0"):
                filled += 1
                digest.update(b"\n%d %d " % (offset + start, len(page)) + page)
    return Contents(size_bytes, digest.hexdigest(), filled, allocated)


def with_contents(row: Row, contents: Contents) -> Row:
    return replace(
        row,
        size_bytes=contents.size_bytes,
        digest=contents.digest,
        filled_pages=contents.filled_pages,
        allocated_pages=contents.allocated_pages,
    )


def with_links(rows: Listing, inodes: dict[bytes, int]) -> Listing:
    names = defaultdict[int, list[bytes]](list)
    for path, number in inodes.items():
        names[number].append(path)
    first = {number: min(paths) for number, paths in names.items()}
    return {path: replace(row, link=first[inodes[path]]) for path, row in rows.items()}


@contextmanager
def mounted_read_only(image: Path, point: Path) -> Iterator[Path]:
    """Mount the file system in `image` without replaying its journal; needs root and a loop device."""
    point.mkdir()
    _run("mount", "-t", "ext4", "-o", "loop,ro,noload", str(image), str(point))
    try:
        yield point
    finally:
        _run("umount", str(point))
        point.rmdir()


def list_mounted(image: Path) -> Listing:
    """List the file system in `image` through the kernel; needs root and a loop device."""
    with (
        tempfile.TemporaryDirectory(prefix="umldisk-listing-") as directory,
        mounted_read_only(image, Path(directory, "disk")) as point,
    ):
        return list_directory(point)


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_SECONDS,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
