"""Opening disk images, and telling whether two names are one file.

`open_disk` opens regular files and block devices only. Anything else (a FIFO, a directory, /dev/zero, a loop of
symlinks) is refused before it could block or feed us for ever. Files are put in place by `staging`.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.errors import DataError, NoInputError, StorageError, from_os_error


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a file the same file under any name: device and inode number (of a block device: the device)."""

    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Identify the file that `status` describes."""
        if stat.S_ISBLK(status.st_mode):
            return cls(status.st_rdev, -1)
        return cls(status.st_dev, status.st_ino)


class DiskFile:
    """An open regular file or block device; a context manager that owns its descriptor.

    `path` is the path as given, `fd` the descriptor, `identity` what the file is under any of its names.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        status = os.fstat(fd)
        self.identity = Identity.of(status)
        self.is_block_device = stat.S_ISBLK(status.st_mode)

    @property
    def status(self) -> os.stat_result:
        """The file's metadata as it is now."""
        return os.fstat(self.fd)

    @property
    def size_bytes(self) -> int:
        """The length now; of a block device its capacity."""
        return os.lseek(self.fd, 0, os.SEEK_END) if self.is_block_device else self.status.st_size

    @property
    def mtime_seconds(self) -> int:
        """The time of last change in whole seconds, the resolution of a COW header."""
        return self.status.st_mtime_ns // 1_000_000_000

    def read_at(self, offset: int, length: int) -> bytes:
        """Read up to `length` bytes at `offset`; less only at the end of the file."""
        try:
            data = os.pread(self.fd, length, offset)
            while len(data) < length and (more := os.pread(self.fd, length - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise from_os_error(error, "read", self.path) from error
        return data

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        try:
            written = 0
            while written < len(data):
                written += os.pwrite(self.fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise from_os_error(error, "write", self.path) from error

    def sync(self) -> None:
        """Make everything written so far durable."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            raise from_os_error(error, "sync", self.path) from error

    def close(self) -> None:
        """Give up the descriptor and every lock taken through it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_disk(path: str | os.PathLike[str], *, writable: bool = False) -> DiskFile:
    """Open a regular file or block device; never blocks, whatever `path` is.

    Raises NoInputError when it is missing, unreadable or of another type.
    """
    name = os.fspath(path)
    try:
        _refuse_other_types(name, os.stat(name).st_mode)
        fd = os.open(name, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _cannot_open(error, name, writable=writable) from error
    disk = DiskFile(name, fd)
    try:
        _refuse_other_types(name, disk.status.st_mode)
    except NoInputError:
        disk.close()
        raise
    return disk


def _cannot_open(error: Exception, name: str, *, writable: bool) -> NoInputError | StorageError:
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.ETXTBSY):
        return from_os_error(error, "open for writing", name)
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return NoInputError(f"cannot open{' for writing' if writable else ''}: {reason}", where=name)


def _refuse_other_types(name: str, mode: int) -> None:
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a character device",
        stat.S_IFSOCK: "a socket",
    }
    raise NoInputError(
        "not a disk image",
        where=name,
        expected="a regular file or block device",
        found=kinds.get(stat.S_IFMT(mode), "something else"),
    )


def identify(path: str | os.PathLike[str]) -> Identity | None:
    """Return what `path` leads to (through symlinks), or None when there is nothing."""
    try:
        return Identity.of(os.stat(path))
    except (OSError, ValueError):
        return None


def refuse_same_file(output: str | os.PathLike[str], *inputs: DiskFile) -> None:
    """Raise DataError when `output` is one of `inputs`, also by symlink or hard link."""
    identity = identify(output)
    for disk in inputs:
        if identity is not None and identity == disk.identity:
            raise DataError("the output is one of the inputs", where=os.fspath(output), found=disk.path)
