"""Findings about the bitmap and the data it speaks for.

A page of 4 KiB is *mixed* when some of its sectors are changed and some are not. The kernel reads such a page piece by
piece and then takes every later part of the same request from the wrong place. How many there are is found without
looking at single bits: a table turns each byte of the bitmap into its number of mixed pages, and bytes are counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from umldisk.cow.file import first_missing_sector
from umldisk.cow.findings import Finding, finding
from umldisk.cow.geometry import SECTORS_PER_BYTE, Geometry
from umldisk.cow.layers import CowLayer
from umldisk.cow.survey import Level
from umldisk.system.transfer import PAGE_BYTES


def mixed_pages(level: Level) -> Iterator[Finding]:
    """Pages that the kernel reads wrongly."""
    pages, first = count_mixed_pages(level.layer)
    if pages:
        yield finding(
            "mixed-pages",
            f"{pages} {'page holds' if pages == 1 else 'pages hold'} both changed and unchanged sectors, "
            "which a guest reads wrongly",
            where=level.path,
            hint="fill them: umldisk align COW",
            sector=first,
            count=pages,
        )


def count_mixed_pages(layer: CowLayer) -> tuple[int, int | None]:
    """Return how many pages are mixed, and the first sector of the first of them."""
    geometry = layer.geometry
    page_sectors = PAGE_BYTES // geometry.sector_bytes
    table = bytes(_mixed_in(byte, page_sectors) for byte in range(256))
    total, first = 0, None
    for number, window in layer.windows():
        whole = _with_uniform_tail(number, window, geometry)
        pages = whole.translate(table)
        here = sum(pages.count(some) * some for some in range(1, SECTORS_PER_BYTE // page_sectors + 1))
        if here and first is None:
            group = len(pages) - len(pages.lstrip(b"\0"))
            first = (number + group) * SECTORS_PER_BYTE + _first_mixed(whole[group], page_sectors)
        total += here
    return total, first


def _mixed_in(byte: int, page_sectors: int) -> int:
    return sum(_is_mixed(byte >> bit, page_sectors) for bit in range(0, SECTORS_PER_BYTE, page_sectors))


def _first_mixed(byte: int, page_sectors: int) -> int:
    return next(bit for bit in range(0, SECTORS_PER_BYTE, page_sectors) if _is_mixed(byte >> bit, page_sectors))


def _is_mixed(bits: int, page_sectors: int) -> bool:
    full = (1 << page_sectors) - 1
    return 0 < bits & full < full


def _with_uniform_tail(number: int, window: bytes, geometry: Geometry) -> bytes:
    """Give the sectors that the last group lacks the state of its last one, so that they mix no page."""
    present = geometry.sectors % SECTORS_PER_BYTE
    if not present or number + len(window) != -(-geometry.sectors // SECTORS_PER_BYTE):
        return window
    last = window[-1]
    if last >> present - 1 & 1:
        last |= 0xFF << present & 0xFF
    return window[:-1] + bytes([last])


def cuts(level: Level) -> Iterator[Finding]:
    """A file that ends before everything that it should hold."""
    geometry, file_bytes = level.geometry, level.disk.size_bytes
    if file_bytes >= geometry.file_bytes:
        return
    if file_bytes < geometry.bitmap_end:
        yield finding(
            "bitmap-cut",
            f"the file ends inside its bitmap, after {file_bytes} of at least {geometry.bitmap_end} bytes",
            where=level.path,
            hint="get the rest from a copy; --accept-truncated takes the missing bits for unchanged",
        )
    missing = first_missing_sector(level.layer)
    if missing is not None:
        yield finding(
            "data-cut",
            f"the file ends before the data of changed sector {missing}, after {file_bytes} bytes",
            where=level.path,
            hint="get the rest from a copy; --accept-truncated takes the missing data for zeros",
            sector=missing,
        )


def short_file(level: Level) -> Iterator[Finding]:
    """A version 3 file without its last bytes, none of which are needed; older layouts always ended where they like."""
    geometry, file_bytes = level.geometry, level.disk.size_bytes
    if not level.header.dialect.has_alignment or file_bytes >= geometry.file_bytes:
        return
    if not any(cuts(level)):
        yield finding(
            "short-file",
            f"the file has {file_bytes} of {geometry.file_bytes} bytes; no changed sector is missing",
            where=level.path,
        )


def bits_past_end(level: Level) -> Iterator[Finding]:
    """Bits of the last byte that belong to no sector."""
    geometry = level.geometry
    spare = geometry.bitmap_bytes * SECTORS_PER_BYTE - geometry.sectors
    last = level.disk.read_at(geometry.bitmap_end - 1, 1) if spare > 0 else b""
    bits = (last[0] >> SECTORS_PER_BYTE - spare).bit_count() if last else 0
    if bits:
        yield finding(
            "bits-past-end",
            f"{bits} {'bit is' if bits == 1 else 'bits are'} set for sectors past the end of the disk",
            where=level.path,
            hint="they are ignored here; a program that believes them reads past the end",
            sector=geometry.sectors,
            count=bits,
        )
