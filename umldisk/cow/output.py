"""Where a result may go: a new name, the place of an old file, a block device.

A file that is replaced is held locked until the new one has its name, so that nobody takes an image away from a guest
that runs on it. A block device cannot be replaced; it is overwritten, and must be free and large enough.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from umldisk.cow import journal as journals
from umldisk.errors import BusyError, CannotCreateError, NoInputError, from_os_error
from umldisk.system import files, locks, staging
from umldisk.system.files import DiskFile


@contextlib.contextmanager
def held_output(path: str | os.PathLike[str], *, replace: bool) -> Iterator[os.stat_result | None]:
    """Make sure that a new file may take the name `path`; yield what it replaces, or None.

    A file that is there stays locked, so that no guest has it. Raises CannotCreateError, BusyError,
    and DataError when a merge into that file is unfinished.
    """
    target = os.path.realpath(path)
    if not os.path.lexists(target):
        yield None
        return
    if not replace:
        raise CannotCreateError("the output exists already", where=target, hint="replace it with --force")
    with _open_replaced(target) as old:
        locks.lock(old.fd, target, exclusive=True)
        journals.refuse_unfinished_merge(old)
        yield old.status


def _open_replaced(target: str) -> DiskFile:
    try:
        disk = files.open_disk(target, writable=True)
    except NoInputError as error:
        raise CannotCreateError(f"cannot replace: {error.what}", where=target) from error
    if disk.is_block_device:
        disk.close()
        raise CannotCreateError("cannot replace a block device", where=target)
    return disk


def check_target(path: str, *, replace: bool, size_bytes: int) -> None:
    """Raise what `open_target` would raise, without making or changing anything."""
    if _is_block_device(path):
        _open_device(path, replace=replace, size_bytes=size_bytes).close()
        return
    with held_output(path, replace=replace):
        pass


@contextlib.contextmanager
def open_target(path: str, base: DiskFile, *, size_bytes: int, replace: bool, sync: bool) -> Iterator[DiskFile]:
    """Open what an image of `size_bytes` is written to: a staged file like `base`, or a block device.

    A staged file appears under its name when the block ends well.
    """
    if _is_block_device(path):
        with _open_device(path, replace=replace, size_bytes=size_bytes) as device:
            yield device
            if sync:
                device.sync()
        return
    like = None if base.is_block_device else base.status
    with held_output(path, replace=replace), staging.staged(path, replace=replace, sync=sync, like=like) as stage:
        yield stage


def _is_block_device(path: str) -> bool:
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _open_device(path: str, *, replace: bool, size_bytes: int) -> DiskFile:
    if not replace:
        raise CannotCreateError("the output is a block device", where=path, hint="overwrite it with --force")
    try:
        # O_EXCL without O_CREAT: the kernel refuses a device that is mounted or part of another device
        device = DiskFile(path, os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BusyError("the block device is in use", where=path) from error
        raise from_os_error(error, "open", path) from error
    try:
        if device.size_bytes < size_bytes:
            raise CannotCreateError(
                "the block device is too small", where=path, expected=size_bytes, found=device.size_bytes
            )
        locks.lock(device.fd, path, exclusive=True)
    except BaseException:
        device.close()
        raise
    return device
