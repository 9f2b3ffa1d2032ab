"""Making a whole file system durable at once: many small files cost one wait for the disk, not one each.

`syncfs` of Linux writes out everything that is pending on the file system, other programs' data too. Since Linux 5.8 it
reports each failed write that happened since the descriptor was opened, so the descriptor must be opened before the
writes that it answers for (syncfs(2), mm/filemap.c `file_check_and_advance_wb_err`).
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from umldisk.errors import from_os_error

if TYPE_CHECKING:
    from ctypes import CDLL


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
