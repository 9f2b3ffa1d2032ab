"""Opening disk images and putting files in place.

Two promises are kept here and nowhere else.

*Inputs.* `open_disk` opens regular files and block devices only. Anything else (a FIFO, a directory, /dev/zero, a loop
of symlinks) is refused before it could block or feed us for ever.

*Outputs.* `staged` gives an unnamed file in the target's directory. Its name appears by one link or rename after its
contents were synced, and the directory is synced after that. Whoever looks sees the old file, or none, or the whole
new one. Killing the process leaves nothing behind: the kernel frees an unnamed file. Where a file system has no
unnamed files a hidden name is used, and the next run in that directory sweeps what a killed one left.

Not guaranteed: anything after a power cut with `sync=False`, and atomicity against a target directory on a network
file system that lies about rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.errors import CannotCreateError, DataError, NoInputError, StorageError, from_os_error
from umldisk.system import locks

_STAGE_MARK = ".umldisk-"


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
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise from_os_error(error, "read", self.path) from error

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


def sync_directory(path: str) -> None:
    """Make the names in directory `path` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory
            raise from_os_error(error, "sync", path) from error
    finally:
        os.close(fd)


def remove(path: str, *, sync: bool = True) -> None:
    """Remove the file `path` if it is there, durably."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os_error(error, "remove", path) from error
    if sync:
        sync_directory(os.path.dirname(path) or ".")


def write_file(path: str, contents: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Put a small file in place, replacing what was there, all or nothing."""
    with staged(path, replace=True, sync=sync, mode=mode) as stage:
        stage.write_at(0, contents)


@contextlib.contextmanager
def staged(
    path: str | os.PathLike[str],
    *,
    replace: bool = False,
    sync: bool = True,
    mode: int | None = None,
    like: os.stat_result | None = None,
) -> Iterator[DiskFile]:
    """Give an unnamed file that becomes `path` when the block ends well, and vanishes when it does not.

    `replace` lets it take the place of an existing file (through a symlink: of the file the link leads to). `mode`
    sets its permissions, `like` those and, where we may, the owner of another file.

    Raises CannotCreateError when `path` exists and `replace` is false, or its directory takes no new file.
    """
    target = os.path.realpath(path)
    _refuse_target(target)
    if not replace and os.path.lexists(target):
        raise _exists(target)
    directory = os.path.dirname(target)
    stage_name, fd = _open_stage(target, directory)
    stage = DiskFile(target, fd)
    try:
        _dress(stage, mode, like)
        yield stage
        if sync:
            stage.sync()
        _publish(stage, stage_name, target, replace=replace)
        stage_name = None
        if sync:
            sync_directory(directory)
    except OSError as error:
        raise from_os_error(error, "write", target) from error
    finally:
        stage.close()
        if stage_name is not None:
            with contextlib.suppress(OSError):
                os.unlink(stage_name)


def _exists(target: str) -> CannotCreateError:
    return CannotCreateError("the output exists already", where=target, hint="replace it with --force")


def _refuse_target(target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise CannotCreateError("the output is there and is not a regular file", where=target)


def _open_stage(target: str, directory: str) -> tuple[str | None, int]:
    """Open the unnamed file, or where there is no such thing a hidden one; return its name (None) and descriptor."""
    try:
        sweep(directory)
        if os.path.isdir("/proc/self/fd"):  # without it an unnamed file could not be named later
            with contextlib.suppress(OSError):
                return None, os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
        name = _stage_name(target)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        locks.lock(fd, name, exclusive=True)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotCreateError(f"cannot create: {reason}", where=target) from error
    return name, fd


def _stage_name(target: str) -> str:
    directory, base = os.path.split(target)
    return os.path.join(directory, f".{base[:200]}{_STAGE_MARK}{secrets.token_hex(4)}")


def sweep(directory: str) -> None:
    """Remove hidden stage files that killed processes left in `directory`; those in use are locked and stay."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(".") and _STAGE_MARK in entry.name and entry.is_file(follow_symlinks=False):
                _sweep_one(entry.path)


def _sweep_one(path: str) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if locks.try_lock(fd, exclusive=True):
                os.unlink(path)
        finally:
            os.close(fd)


def _dress(stage: DiskFile, mode: int | None, like: os.stat_result | None) -> None:
    if like is not None:
        with contextlib.suppress(PermissionError):
            os.fchown(stage.fd, like.st_uid, like.st_gid)
        os.fchmod(stage.fd, stat.S_IMODE(like.st_mode))
    elif mode is not None:
        os.fchmod(stage.fd, mode)


def _publish(stage: DiskFile, stage_name: str | None, target: str, *, replace: bool) -> None:
    """Let the staged file appear as `target` in one step."""
    if stage_name is None and not replace:
        try:
            _name(stage, target)
        except FileExistsError as error:
            raise _exists(target) from error
        return
    if stage_name is None:
        stage_name = _stage_name(target)
        locks.lock(stage.fd, stage_name, exclusive=True)
        _name(stage, stage_name)
    if not replace:
        _link_once(stage_name, target)
        return
    os.rename(stage_name, target)


def _name(stage: DiskFile, name: str) -> None:
    """Give the unnamed file a name."""
    # src_dir_fd does nothing for an absolute path, but makes Python call linkat, which can follow the /proc link
    os.link(f"/proc/self/fd/{stage.fd}", name, src_dir_fd=stage.fd, follow_symlinks=True)


def _link_once(stage_name: str, target: str) -> None:
    try:
        os.link(stage_name, target)
    except FileExistsError as error:
        raise _exists(target) from error
    os.unlink(stage_name)


def refuse_same_file(output: str | os.PathLike[str], *inputs: DiskFile) -> None:
    """Raise DataError when `output` is one of `inputs`, also by symlink or hard link."""
    identity = identify(output)
    for disk in inputs:
        if identity is not None and identity == disk.identity:
            raise DataError("the output is one of the inputs", where=os.fspath(output), found=disk.path)
