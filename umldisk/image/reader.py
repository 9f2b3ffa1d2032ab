"""What the parsers of this package read from: anything that gives bytes at a place."""

from __future__ import annotations

from typing import Protocol

from umldisk.system.files import DiskFile


class Reader(Protocol):
    """A disk as its bytes: a file, a block device, or the merged view of a COW file."""

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`; less only at the end of the disk."""


class DiskReader:
    """An open file as a Reader; does not own it."""

    def __init__(self, disk: DiskFile) -> None:
        self._disk = disk

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`; less only at the end of the file."""
        return self._disk.read_at(offset, length)
