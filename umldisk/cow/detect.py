"""Which dialect a COW header is written in.

Magic and version decide between most dialects; the look-alikes that remain (two of version 1 in big-endian, four of
version 2) share their first eight bytes and differ only in where the numbers stand. So every reading is tried and the
implausible ones fall. If more than one survives, the one whose backing file exists with the right size wins and the
others are kept as `alternatives`, so that the doubt can be shown; `--dialect` decides where nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from umldisk.cow import layout
from umldisk.cow.dialect import MAGIC_LITTLE, Dialect, Placement
from umldisk.cow.header import CowHeader, bad_field, looks_like_cow, parse
from umldisk.errors import DataError, printable

BackingFits = Callable[[CowHeader], bool]
"""Tells whether the backing file that a reading names exists with the size that it gives."""

_VERSION_3_PATH_OFFSET = 32


def detect(
    raw: bytes, *, file_bytes: int, where: str, wanted: Dialect | None = None, backing_fits: BackingFits | None = None
) -> CowHeader:
    """Parse `raw`, the first bytes of a file of `file_bytes`, in the dialect it is written in.

    `wanted` skips the search. `backing_fits` tells whether the backing file that a reading names exists with the size
    that it gives. Raises DataError when no reading is plausible, or several are and none has a backing file.
    """
    if not looks_like_cow(raw):
        raise DataError(
            "not a COW file", where=where, expected="magic MOOO or OOOM", found=printable(repr(raw[:4])[2:-1])
        )
    if wanted is not None:
        return parse(raw, wanted, where=where)
    candidates = candidate_dialects(raw, where=where)
    if len(candidates) == 1:
        return parse(raw, candidates[0], where=where)
    return _choose(raw, candidates, file_bytes, where, backing_fits)


def candidate_dialects(raw: bytes, *, where: str) -> tuple[Dialect, ...]:
    """Return the dialects that magic and version leave open."""
    version = int.from_bytes(raw[4:8], "little" if raw[:4] == MAGIC_LITTLE else "big")
    found = tuple(d for d in Dialect if d.magic == raw[:4] and d.version == version)
    if not found or len(raw) < 8:
        raise DataError("unknown COW version", where=f"{where}, byte 4", expected="1, 2 or 3", found=version)
    if version != 3:
        return found
    # The kernel's test: in the 64-bit layout the format field, always 0, lies where the path would begin.
    shifted = not any(raw[_VERSION_3_PATH_OFFSET : _VERSION_3_PATH_OFFSET + 4])
    return (Dialect.V3_64,) if shifted else (Dialect.V3,)


def _choose(
    raw: bytes, candidates: tuple[Dialect, ...], file_bytes: int, where: str, backing_fits: BackingFits | None
) -> CowHeader:
    readings, refusals = [], []
    for dialect in candidates:
        try:
            header = parse(raw, dialect, where=where)
            _check_plausible(header, where)
            readings.append(header)
        except DataError as error:
            refusals.append(error)
    if not readings:
        raise refusals[0]
    # A reading whose bitmap the file does not reach is believed only when there is no other: then the file was cut.
    readings = [header for header in readings if file_bytes >= header.geometry.bitmap_end] or readings
    if len(readings) == 1:
        return readings[0]
    return _prefer_backed(readings, where, backing_fits)


def _prefer_backed(readings: list[CowHeader], where: str, backing_fits: BackingFits | None) -> CowHeader:
    fitting = [header for header in readings if backing_fits and backing_fits(header)]
    names = tuple(header.dialect for header in readings)
    if len(fitting) != 1:
        listed = ", ".join(dialect.value for dialect in names)
        raise DataError(
            "the COW header can be read in several ways", where=where, found=listed, hint="choose one with --dialect"
        )
    chosen = fitting[0]
    return replace(chosen, alternatives=tuple(d for d in names if d is not chosen.dialect))


def _check_plausible(header: CowHeader, where: str) -> None:
    """Raise DataError when a reading that is possible is not believable."""
    dialect = header.dialect
    if b"\xff" in header.backing_path:  # never in UTF-8
        raise bad_field("path", dialect, where, "a file name", "0xff")
    if dialect.placement is Placement.QEMU:
        if header.sector_bytes != 512 or header.size_bytes == 0 or header.size_bytes % 512:
            raise bad_field("size", dialect, where, "whole sectors of 512 bytes", header.size_bytes)
        if any(_padding(header)):
            raise bad_field("path", dialect, where, "zeros after the name", "other bytes")


def _padding(header: CowHeader) -> bytes:
    """The bytes after the path's NUL, without umldisk's own stamp."""
    fields = layout.HEADERS[header.dialect].parse(header.raw)
    rest: bytes = fields.path[len(header.backing_path) + 1 :]
    return rest[: -layout.STAMP_BYTES] if header.merged_ns is not None else rest
