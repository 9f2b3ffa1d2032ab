"""What a guest sees, as an ordinary read-only file object."""

from __future__ import annotations

import io
import os

from umldisk.cow.layers import Layer
from umldisk.errors import from_os_error


class ViewFile(io.RawIOBase):
    """A raw, seekable, read-only file over a layer; wrap it in io.BufferedReader for small reads."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read in any order."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the disk and return its number."""
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._layer.size_bytes}
        if whence not in starts:
            raise ValueError(f"whence must be 0, 1 or 2, not {whence}")
        position = starts[whence] + offset
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def tell(self) -> int:
        """Return the byte the next read begins at."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fill `buffer` as far as the disk goes; return the number of bytes, 0 at its end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        length = max(0, min(len(view), self._layer.size_bytes - self._position))
        if length:
            try:
                self._layer.read_into(self._position, view[:length])
            except OSError as error:
                raise from_os_error(error, "read", self._layer.disk.path) from error
            self._position += length
        return length
