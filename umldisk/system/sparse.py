"""Where a file has data and where it has holes.

Holes speed a reader up: they are zeros that need not be read. They never say more than that, because a file system
may report data where a hole was made (small ones, or none supported at all).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


class DataMap:
    """Where one open file has data, remembering the stretch of data that was found last.

    Asking for the end of a long stretch costs the file system a walk over all its extents, so that asking again for
    every part of it would take longer than copying it. Only data is remembered: of a hole that was filled since it
    would be wrong, of data it is at worst slow.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._low = self._high = 0

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches `(start, end)` in bytes, in order, that hold data between `start` and `end`.

        Everything outside them reads as zeros, also what lies past the end of the file. Where holes cannot be told
        (block devices, some network file systems) the whole range is one stretch. The descriptor's position changes.
        """
        position = start
        while position < end:
            if not self._low <= position < self._high and not self._find(position):
                return
            if self._low >= end:
                return
            stop = min(self._high, end)
            yield max(self._low, position), stop
            position = stop

    def _find(self, position: int) -> bool:
        """Look for the next data at `position` or after; return whether there is any."""
        try:
            self._low = os.lseek(self._fd, position, os.SEEK_DATA)
            self._high = os.lseek(self._fd, self._low, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE):
                raise
            self._low, self._high = position, 1 << 63
        return True


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of data between `start` and `end` of an open file; see DataMap.extents."""
    return DataMap(fd).extents(start, end)


def allocated_bytes(fd: int) -> int:
    """Return how much room the file takes on its file system, as `du` counts."""
    return os.fstat(fd).st_blocks * 512
