"""Where a file has data and where it has holes.

Holes speed a reader up: they are zeros that need not be read. They never say more than that, because a file system
may report data where a hole was made (small ones, or none supported at all).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches `(start, end)` in bytes, in order, that hold data between `start` and `end`.

    Everything outside them reads as zeros, also what lies past the end of the file. Where holes cannot be told (block
    devices, some network file systems) the whole range is one stretch. The descriptor's position changes.
    """
    position = start
    while position < end:
        try:
            position = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE):
                raise
            yield position, end
            return
        if position >= end:
            return
        stop = min(os.lseek(fd, position, os.SEEK_HOLE), end)
        yield position, stop
        position = stop


def allocated_bytes(fd: int) -> int:
    """Return how much room the file takes on its file system, as `du` counts."""
    return os.fstat(fd).st_blocks * 512
