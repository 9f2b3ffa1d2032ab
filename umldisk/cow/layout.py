"""The bytes of a COW header, in each of the nine dialects; nothing here gives them meaning.

Sources: struct cow_header_v1, _v2, _v3 and _v3_broken in the kernel's arch/um/drivers/cow_user.c; struct cow_header_v2
of QEMU's block/cow.c, removed after 2.1. Padding fields are what the compilers of the time inserted; they are kept as
they were found, so that a header can be written back unchanged but for what was meant to change.

    v1           magic version path[256]  mtime (pad) size sectorsize (pad)
    v2, QEMU     magic version path[4096 or 1024] mtime (pad) size sectorsize (pad)
    v3           magic version mtime (pad) size sectorsize alignment format path[4096] (pad)
"""

from __future__ import annotations

from typing import Any

from construct import (
    Bytes,
    Construct,
    ConstructError,
    Int32ub,
    Int32ul,
    Int64ub,
    Int64ul,
    Struct,
)

from umldisk.cow.dialect import Dialect


def _path_first(path_bytes: int, u32: Any, u64: Any, *, padding_bytes: int) -> Construct[Any, Any]:
    """Versions 1 and 2: the path before the numbers; a 64-bit (or PowerPC) compiler aligns `size` to 8 bytes."""
    return Struct(
        "magic" / Bytes(4),
        "version" / u32,
        "path" / Bytes(path_bytes),
        "mtime" / u32,
        "padding" / Bytes(padding_bytes),
        "size" / u64,
        "sectorsize" / u32,
        "tail" / Bytes(padding_bytes),
    )


def _path_last(*, padding_bytes: int) -> Construct[Any, Any]:
    """Version 3: the numbers before the path, so that the path could grow into the padding before the bitmap."""
    return Struct(
        "magic" / Bytes(4),
        "version" / Int32ub,
        "mtime" / Int32ub,
        "padding" / Bytes(padding_bytes),
        "size" / Int64ub,
        "sectorsize" / Int32ub,
        "alignment" / Int32ub,
        "format" / Int32ub,
        "path" / Bytes(4096),
        "tail" / Bytes(padding_bytes),
    )


HEADERS: dict[Dialect, Construct[Any, Any]] = {
    Dialect.V1_LITTLE: _path_first(256, Int32ul, Int64ul, padding_bytes=0),
    Dialect.V1_BIG: _path_first(256, Int32ub, Int64ub, padding_bytes=0),
    Dialect.V1_POWERPC: _path_first(256, Int32ub, Int64ub, padding_bytes=4),
    Dialect.V2: _path_first(4096, Int32ub, Int64ub, padding_bytes=0),
    Dialect.V2_64: _path_first(4096, Int32ub, Int64ub, padding_bytes=4),
    Dialect.QEMU_32: _path_first(1024, Int32ub, Int64ub, padding_bytes=0),
    Dialect.QEMU_64: _path_first(1024, Int32ub, Int64ub, padding_bytes=4),
    Dialect.V3: _path_last(padding_bytes=0),
    Dialect.V3_64: _path_last(padding_bytes=4),
}

STAMP = Struct("magic" / Bytes(8), "time_ns" / Int64ub)
"""What umldisk leaves in the last bytes of the path field of a COW that was merged and kept."""

STAMP_MAGIC = b"umldisk\x01"
STAMP_BYTES = STAMP.sizeof()

LayoutError = ConstructError


def offset_of(dialect: Dialect, field: str) -> int:
    """Return where `field` begins in a header, in bytes."""
    offset = 0
    for part in HEADERS[dialect].subcons:
        if part.name == field:
            return offset
        offset += part.sizeof()
    raise KeyError(field)
