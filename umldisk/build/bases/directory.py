"""A directory as a base: everything below it as lstat(2) shows it, sorted by name, a directory before what is in it.

Every directory is opened beneath the one before (O_NOFOLLOW) and its files are named relative to that descriptor, so
that no symlink, not even one that somebody puts there while we walk, leads anywhere else, and no path gets too long.
Where a call takes no descriptor (listing, attributes) it is named through /proc/self/fd, which gives bytes besides.
Nothing but regular files and directories is opened: FIFOs, sockets and devices are taken as what they are.

Names of one inode are hard links; holes stay holes. Attributes are those that this process is shown and that an ext
file system can hold: an ordinary user sees no trusted ones, and those of other file systems (btrfs., system.nfs4_acl)
are properties of the disk, not of the file. Owners are the numbers that the files have here.

What is mounted on a directory below is another file system and is left out: /proc, /sys and /dev of a chroot that is in
use stay as the directories they are mounted on, with nothing in them, and so do Btrfs subvolumes. A file with a mount
on it (a container's /etc/hosts) is what the mount shows. The scratch directory is left out too, should it lie
below: it grows with everything that is read.

There is no snapshot. A file that is written to while it is read is refused, one that cannot be read too; files that
come and go in directories that were read already are not noticed.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.build.bases.base import Origin
from umldisk.build.bases.compression import CHUNK_BYTES
from umldisk.build.bases.pax import is_kept
from umldisk.build.tree import EMPTY, PATH_BYTES, Entry, FileType, HardLink, Inode, path_text
from umldisk.errors import DataError, NoInputError, StorageError, from_os_error
from umldisk.system.files import Identity, identify
from umldisk.system.sparse import data_extents

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_MOST_LEVELS = PATH_BYTES // 2 + 64
"""How many directories a path can lead through, and what else is open."""
_NOT_THERE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_NOT_SHOWN = (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)


@dataclass(slots=True)
class _Level:
    """An open directory of the way down: what is still to be visited, in reverse order."""

    fd: int
    path: str
    names: list[bytes]


class DirectoryBase:
    """The files of a directory; owns the descriptors of the way down. See Base.

    `scratch` is a directory of ours that is left out. Raises NoInputError for what is missing or may not be read,
    DataError for a file that changes, StorageError when reading fails.
    """

    def __init__(self, source: str, *, scratch: str) -> None:
        self._source = source
        self._scratch = identify(scratch)
        self._known: dict[Identity, str] = {}
        self._levels: list[_Level] = []
        _allow_descriptors(_MOST_LEVELS)
        try:
            fd = os.open(source, _DIRECTORY_FLAGS)
        except (OSError, ValueError) as error:
            raise _unreadable(error, source) from error
        self._levels.append(_Level(fd, "/", []))
        self._device = os.fstat(fd).st_dev

    @property
    def origin(self) -> Origin:
        """What was read; a directory has no digest."""
        return Origin("directory", self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._levels:
            os.close(self._levels.pop().fd)

    def entries(self) -> Iterator[Entry | HardLink]:
        """Yield the directory itself as "/", then everything below it."""
        top = self._levels[0]
        yield Entry("/", _inode(os.fstat(top.fd), _attributes(_by_descriptor(top.fd), self._source, follow=True)))
        top.names = self._list(top.fd, self._source)
        while self._levels:
            level = self._levels[-1]
            if not level.names:
                os.close(self._levels.pop().fd)
                continue
            name = level.names.pop()
            path = f"{level.path.rstrip('/')}/{path_text(name)}"
            try:
                entry = self._visit(level, name, path)
            except OSError as error:
                raise _unreadable(error, self._shown(path)) from error
            if entry is not None:
                yield entry

    def _visit(self, level: _Level, name: bytes, path: str) -> Entry | HardLink | None:
        """Return the entry of one name; a directory is entered."""
        status = os.stat(name, dir_fd=level.fd, follow_symlinks=False)
        identity = Identity(status.st_dev, status.st_ino)
        kind = FileType(stat.S_IFMT(status.st_mode))
        if kind is FileType.DIRECTORY:
            if identity == self._scratch:
                return None
            if status.st_dev == self._device:
                self._enter(level, name, path, identity)
        elif status.st_nlink > 1 and (first := self._known.setdefault(identity, path)) != path:
            return HardLink(path, first)
        xattrs = _attributes(_by_descriptor(level.fd) + b"/" + name, self._shown(path))
        contents = _FileContents(level.fd, name, status, self._shown(path)) if kind is FileType.FILE else None
        target = os.readlink(name, dir_fd=level.fd) if kind is FileType.SYMLINK else b""
        return Entry(path, _inode(status, xattrs, contents, path_text(target)))

    def _enter(self, level: _Level, name: bytes, path: str, identity: Identity) -> None:
        fd = os.open(name, _DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=level.fd)
        self._levels.append(_Level(fd, path, []))
        if Identity.of(os.fstat(fd)) != identity:
            raise DataError("a directory was replaced while it was read", where=self._shown(path))
        self._levels[-1].names = self._list(fd, self._shown(path))

    def _list(self, fd: int, shown: str) -> list[bytes]:
        try:
            return sorted(os.listdir(_by_descriptor(fd)), reverse=True)
        except OSError as error:
            raise _unreadable(error, shown) from error

    def _shown(self, path: str) -> str:
        return self._source.rstrip("/") + path


@dataclass(frozen=True, slots=True, eq=False)
class _FileContents:
    """The bytes of a file that is opened when they are asked for; `directory_fd` is open until the next entry."""

    directory_fd: int
    name: bytes
    status: os.stat_result
    shown: str

    @property
    def size_bytes(self) -> int:
        """The length of the file, holes included."""
        return self.status.st_size

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and data, holes left out."""
        try:
            fd = os.open(self.name, _FILE_FLAGS, dir_fd=self.directory_fd)
        except OSError as error:
            raise _unreadable(error, self.shown) from error
        try:
            self._require_unchanged(fd)
            for start, end in data_extents(fd, 0, self.size_bytes):
                yield from self._read(fd, start, end)
            self._require_unchanged(fd)
        except OSError as error:
            raise from_os_error(error, "read", self.shown) from error
        finally:
            os.close(fd)

    def _read(self, fd: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        while start < end:
            data = os.pread(fd, min(end - start, CHUNK_BYTES), start)
            if not data:
                raise DataError("a file became shorter while it was read", where=self.shown)
            yield start, data
            start += len(data)

    def _require_unchanged(self, fd: int) -> None:
        now, before = os.fstat(fd), self.status
        changed = (now.st_dev, now.st_ino, now.st_mode) != (before.st_dev, before.st_ino, before.st_mode)
        if changed or (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            expected, found = f"{before.st_size} bytes", f"{now.st_size} bytes"
            raise DataError("a file was changed while it was read", where=self.shown, expected=expected, found=found)


def _inode(
    status: os.stat_result,
    xattrs: tuple[tuple[str, bytes], ...],
    contents: _FileContents | None = None,
    target: str = "",
) -> Inode:
    kind = FileType(stat.S_IFMT(status.st_mode))
    return Inode(
        kind,
        0o777 if kind is FileType.SYMLINK else stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        contents or EMPTY,
        target,
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind.is_device else (0, 0),
        xattrs,
    )


def _allow_descriptors(count: int) -> None:
    """Let this process have so many descriptors open, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _by_descriptor(fd: int) -> bytes:
    return b"/proc/self/fd/%d" % fd


def _attributes(place: bytes, shown: str, *, follow: bool = False) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes of a file that we are shown, sorted; none where the file system has no such thing."""
    found = []
    try:
        for name in os.listxattr(place, follow_symlinks=follow):
            plain = path_text(os.fsencode(name))  # Python spelled it as the locale has it
            if is_kept(plain) and (value := _value(place, name, follow=follow)) is not None:
                found.append((plain, value))
    except FileNotFoundError as error:
        raise _unreadable(error, shown) from error
    except OSError as error:
        if error.errno not in _NOT_SHOWN:
            raise from_os_error(error, "read the attributes of", shown) from error
    return tuple(sorted(found))


def _value(place: bytes, name: str, *, follow: bool) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NOT_SHOWN:
            return None
        raise


def _unreadable(error: OSError | ValueError, shown: str) -> NoInputError | StorageError:
    if isinstance(error, OSError) and error.errno not in _NOT_THERE:
        return from_os_error(error, "read", shown)
    reason = error.strerror if isinstance(error, OSError) else error
    hint = "build as root, or from a tar archive that root wrote" if isinstance(error, PermissionError) else None
    return NoInputError(f"cannot read: {reason}", where=shown, hint=hint)
