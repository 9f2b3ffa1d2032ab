"""What a COW header says in a given dialect (which one it is, `detect` finds out).

*Parsing* refuses what cannot be true. No field is trusted, because the old tools checked none: a sector size of 0
stops them with SIGFPE, one of 2^31 takes gigabytes. *Building* makes a new header; *rewriting* changes path and mtime
of an old one in the layout that it has and leaves every other byte as it was.

Bytes after the path's NUL are the writer's left-overs. They are kept and never shown. In the last of them umldisk
leaves a stamp when it merged a COW file and kept it; the kernel reads no further than the NUL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from umldisk.cow import layout
from umldisk.cow.dialect import LONGEST_HEADER_BYTES, MAGICS, Dialect
from umldisk.cow.geometry import Geometry, lay_out
from umldisk.errors import DataError

DEFAULT_SECTOR_BYTES = 512
DEFAULT_ALIGNMENT_BYTES = 4096
_SECTOR_SIZES = (512, 1024, 2048, 4096)
_LARGEST_ALIGNMENT_BYTES = 1 << 20
_LARGEST_OFFSET = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class CowHeader:
    """A header's fields. `backing_path` is bytes as the writer left them; `mtime` is seconds, unsigned 32 bit.

    `raw` is the header as found, for writing it back; `alternatives` are dialects that would be plausible as well.
    `merged_ns` is the modification time that the file had when umldisk merged it and kept it, else None.
    """

    dialect: Dialect
    backing_path: bytes
    mtime: int
    size_bytes: int
    sector_bytes: int
    alignment_bytes: int
    raw: bytes
    alternatives: tuple[Dialect, ...] = ()
    merged_ns: int | None = None

    @property
    def geometry(self) -> Geometry:
        """Where bitmap and data lie."""
        return lay_out(
            self.dialect,
            size_bytes=self.size_bytes,
            sector_bytes=self.sector_bytes,
            alignment_bytes=self.alignment_bytes,
        )


def looks_like_cow(start: bytes) -> bool:
    """Whether a file that starts with these bytes claims to be a COW file."""
    return start[:4] in MAGICS


def parse(raw: bytes, dialect: Dialect, *, where: str) -> CowHeader:
    """Read `raw` as a header of `dialect`.

    Raises DataError naming the first field that cannot be true, with its offset, what was expected and what found.
    """
    if len(raw) < dialect.header_bytes:
        raise DataError(
            "the COW header is cut off", where=where, expected=f"{dialect.header_bytes} bytes", found=len(raw)
        )
    fields = layout.HEADERS[dialect].parse(raw)
    _validate(fields, dialect, where)
    path, _nul, _rest = fields.path.partition(b"\0")
    header = CowHeader(
        dialect=dialect,
        backing_path=path,
        mtime=fields.mtime,
        size_bytes=fields.size,
        sector_bytes=fields.sectorsize,
        alignment_bytes=fields.alignment if dialect.has_alignment else fields.sectorsize,
        raw=raw[: dialect.header_bytes],
        merged_ns=_read_stamp(fields.path),
    )
    if header.geometry.file_bytes > _LARGEST_OFFSET:
        raise bad_field("size", dialect, where, "a disk that fits in a file", fields.size)
    return header


def _validate(fields: Any, dialect: Dialect, where: str) -> None:
    if fields.magic != dialect.magic or fields.version != dialect.version:
        raise DataError(f"not a COW header of {dialect.label}", where=where)
    if fields.sectorsize not in _SECTOR_SIZES:
        raise bad_field("sectorsize", dialect, where, "512, 1024, 2048 or 4096", fields.sectorsize)
    if fields.size > _LARGEST_OFFSET:
        raise bad_field("size", dialect, where, "at most 2^63 - 1", fields.size)
    if b"\0" not in fields.path:
        raise bad_field("path", dialect, where, "a closing NUL", "none")
    if fields.path[0] == 0:
        raise bad_field("path", dialect, where, "the name of a backing file", "nothing")
    if dialect.has_alignment:
        _validate_version_3(fields, dialect, where)


def _validate_version_3(fields: Any, dialect: Dialect, where: str) -> None:
    alignment = fields.alignment
    if not 512 <= alignment <= _LARGEST_ALIGNMENT_BYTES or alignment & (alignment - 1):
        raise bad_field("alignment", dialect, where, "a power of two from 512 to 1048576", alignment)
    if fields.format != 0:
        raise bad_field("format", dialect, where, "0 (bitmap)", fields.format)


def bad_field(field: str, dialect: Dialect, where: str, expected: str, found: object) -> DataError:
    place = f"{where}, byte {layout.offset_of(dialect, field)}"
    return DataError(f"bad {field} in the COW header", where=place, expected=expected, found=found)


def _read_stamp(path_field: bytes) -> int | None:
    stamp = layout.STAMP.parse(path_field[-layout.STAMP_BYTES :])
    if stamp.magic != layout.STAMP_MAGIC or path_field.find(b"\0") > len(path_field) - layout.STAMP_BYTES - 1:
        return None
    time_ns: int = stamp.time_ns
    return time_ns


def build(
    dialect: Dialect,
    *,
    backing_path: bytes,
    mtime: int,
    size_bytes: int,
    sector_bytes: int = DEFAULT_SECTOR_BYTES,
    alignment_bytes: int = DEFAULT_ALIGNMENT_BYTES,
    where: str = "",
) -> CowHeader:
    """Make a new header. `mtime` may be any number of seconds and is cut to 32 bits, as UML does.

    Raises DataError when the path does not fit in the dialect's field, or parse() would refuse the result.
    """
    fields = {
        "magic": dialect.magic,
        "version": dialect.version,
        "path": _path_field(dialect, backing_path, where),
        "mtime": mtime & 0xFFFFFFFF,
        "size": size_bytes,
        "sectorsize": sector_bytes,
        "alignment": alignment_bytes,
        "format": 0,
    }
    padding = (layout.HEADERS[dialect].sizeof() - _unpadded_bytes(dialect)) // 2
    raw = layout.HEADERS[dialect].build({**fields, "padding": bytes(padding), "tail": bytes(padding)})
    return parse(raw, dialect, where=where)


def _unpadded_bytes(dialect: Dialect) -> int:
    numbers = 32 if dialect.has_alignment else 24
    return dialect.path_bytes + numbers


def _path_field(dialect: Dialect, path: bytes, where: str) -> bytes:
    if len(path) >= dialect.path_bytes:
        raise DataError(
            f"the backing path is too long for {dialect.label}",
            where=where or None,
            expected=f"at most {dialect.path_bytes - 1} bytes",
            found=len(path),
        )
    return path.ljust(dialect.path_bytes, b"\0")


def rewrite(
    header: CowHeader, *, backing_path: bytes | None = None, mtime: int | None = None, merged_ns: int | None = None
) -> CowHeader:
    """Return the same header in the same layout with another path, mtime or merge stamp; all other bytes stay.

    The stamp is dropped unless `merged_ns` is given, and is left out when a long path leaves no room for it.
    """
    fields = layout.HEADERS[header.dialect].parse(header.raw)
    if backing_path is not None:
        fields.path = _path_field(header.dialect, backing_path, "")
    elif header.merged_ns is not None:
        fields.path = fields.path[: -layout.STAMP_BYTES] + bytes(layout.STAMP_BYTES)
    if mtime is not None:
        fields.mtime = mtime & 0xFFFFFFFF
    if merged_ns is not None:
        fields.path = _with_stamp(fields.path, merged_ns)
    return replace(
        parse(layout.HEADERS[header.dialect].build(fields), header.dialect, where=""), alternatives=header.alternatives
    )


def _with_stamp(path_field: bytes, merged_ns: int) -> bytes:
    room = len(path_field) - layout.STAMP_BYTES
    if path_field.find(b"\0") >= room:
        return path_field
    stamp: bytes = layout.STAMP.build({"magic": layout.STAMP_MAGIC, "time_ns": merged_ns})
    return path_field[:room] + stamp


HEADER_READ_BYTES = LONGEST_HEADER_BYTES
