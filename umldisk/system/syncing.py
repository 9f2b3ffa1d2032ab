"""Waiting for the disk less often than once a file: what Python's library has no words for.

`syncfs` of Linux writes out everything that is pending on the file system, other programs' data too. Since Linux 5.8 it
reports each failed write that happened since the descriptor was opened, so the descriptor must be opened before the
writes that it answers for (syncfs(2), mm/filemap.c `file_check_and_advance_wb_err`).

`sync_file_range` is used for its first half alone: it hands what is pending to the disk and waits for nothing. It makes
nothing durable, neither does it take away an error that a later fsync has to report (sync_file_range(2)).
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from umldisk.errors import from_os_error

if TYPE_CHECKING:
    from ctypes import CDLL

_SYNC_FILE_RANGE_WRITE = 2
"""In the kernel's include/uapi/linux/fs.h."""


@cache
def _libc() -> CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def sync_file_system(fd: int, path: str) -> None:
    """Make all that was written to the file system of the open file `fd` durable; raises StorageError."""
    import ctypes

    if _libc().syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise from_os_error(OSError(number, os.strerror(number)), "sync", path)


def begin_writing_out(fd: int, start: int, end: int) -> None:
    """Let the kernel begin with writing these bytes of a file to the disk; a hint, of which no failure matters."""
    import ctypes

    offsets = ctypes.c_int64(start), ctypes.c_int64(end - start)
    _libc().sync_file_range(fd, *offsets, _SYNC_FILE_RANGE_WRITE)
