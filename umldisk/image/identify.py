"""Telling what a disk holds from a few bytes at its start.

The formats do not exclude each other by construction: a swap header leaves its first 1024 bytes
alone, and an ext file system its first 1024, so both magics are looked for in full before one is
believed. A COW file is recognised only to say that it is another package's. BLANK means that the
first 128 KiB are zeros, past every place where a known file system keeps its magic; the rest of the
disk is not read.
"""

from __future__ import annotations

from enum import Enum

from umldisk.cow.dialect import MAGICS
from umldisk.errors import DataError
from umldisk.image import ext, swap
from umldisk.image.reader import Reader

_BLANK_BYTES = 128 * 1024


class ImageKind(Enum):
    """What a disk begins with."""

    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    SWAP = "swap"
    COW = "cow"
    EMPTY = "empty"
    BLANK = "blank"
    UNKNOWN = "unknown"


def identify(reader: Reader) -> ImageKind:
    """Return what `reader` holds; damaged file systems are UNKNOWN."""
    start = reader.read(0, len(MAGICS[0]))
    if not start:
        return ImageKind.EMPTY
    if start in MAGICS:
        return ImageKind.COW
    try:
        if swap.find_page_bytes(reader) is not None:
            swap.read_header(reader)
            return ImageKind.SWAP
        if ext.has_magic(reader):
            return ImageKind(ext.read_superblock(reader).kind)
    except DataError:
        return ImageKind.UNKNOWN
    return ImageKind.UNKNOWN if any(reader.read(0, _BLANK_BYTES)) else ImageKind.BLANK
