"""Where the parts of a COW file lie, computed from its header and nothing else.

    0 ── header ── bitmap_offset ── bitmap ── data_offset ── data: sector n at data_offset + n * sector_bytes ──

The rules are cow_sizes() in the kernel's arch/um/drivers/cow_user.c, and block/cow.c in QEMU. One of them is a defect
that became part of the format: versions 1 and 2 round the bitmap *down* to whole bytes, so that up to seven sectors
at the end of the disk have no bit and can never be marked as changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from umldisk.cow.dialect import Dialect, Placement

SECTORS_PER_BYTE = 8
"""Sectors one byte of the bitmap speaks for: a *group*; with 512-byte sectors exactly one 4 KiB page."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes and places of a COW file's parts; bytes unless the name says sectors or groups.

    `mapped_sectors` have a bit; the sectors from there to `sectors` (v1 and v2 only) always come from the backing.
    """

    size_bytes: int
    sector_bytes: int
    sectors: int
    mapped_sectors: int
    bitmap_offset: int
    bitmap_bytes: int
    data_offset: int

    @property
    def group_bytes(self) -> int:
        """Bytes of the disk that one byte of the bitmap speaks for."""
        return SECTORS_PER_BYTE * self.sector_bytes

    @property
    def bitmap_end(self) -> int:
        """Offset just after the bitmap."""
        return self.bitmap_offset + self.bitmap_bytes

    @property
    def file_bytes(self) -> int:
        """Length of a whole file with its data."""
        return self.data_offset + self.size_bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the disk whose sectors have a bit."""
        return min(self.mapped_sectors * self.sector_bytes, self.size_bytes)


def lay_out(dialect: Dialect, *, size_bytes: int, sector_bytes: int, alignment_bytes: int) -> Geometry:
    """Compute the geometry; `alignment_bytes` counts in version 3 only. The numbers must have been validated."""
    sectors = _ceil_div(size_bytes, sector_bytes)
    bitmap_offset = dialect.header_bytes
    bitmap_bytes = _ceil_div(sectors, SECTORS_PER_BYTE)
    data_grain = sector_bytes
    if dialect.placement is Placement.V1_V2:
        bitmap_bytes = sectors // SECTORS_PER_BYTE
    elif dialect.placement is Placement.V3:
        bitmap_offset = _round_up(bitmap_offset, alignment_bytes)
        data_grain = alignment_bytes
    return Geometry(
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        sectors=sectors,
        mapped_sectors=min(sectors, bitmap_bytes * SECTORS_PER_BYTE),
        bitmap_offset=bitmap_offset,
        bitmap_bytes=bitmap_bytes,
        data_offset=_round_up(bitmap_offset + bitmap_bytes, data_grain),
    )


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _round_up(number: int, grain: int) -> int:
    return _ceil_div(number, grain) * grain
