"""Headers of all nine dialects: read and written byte for byte, and refused when they cannot be true.

The places of the numbers stand here once more, as plain offsets, so that a layout which reads back
what it wrote itself cannot pass by being wrong in both directions.
"""

import re
import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.cow import header as headers
from umldisk.cow import layout
from umldisk.cow.detect import detect
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.header import CowHeader, build, parse, rewrite
from umldisk.errors import DataError


class Places(NamedTuple):
    """Where a dialect keeps what, in bytes; -1 where it has no such field."""

    order: str
    path: int
    path_bytes: int
    mtime: int
    size: int
    sectorsize: int
    alignment: int
    format: int
    length: int


PLACES = {
    Dialect.V1_LITTLE: Places("<", 8, 256, 264, 268, 276, -1, -1, 280),
    Dialect.V1_BIG: Places(">", 8, 256, 264, 268, 276, -1, -1, 280),
    Dialect.V1_POWERPC: Places(">", 8, 256, 264, 272, 280, -1, -1, 288),
    Dialect.V2: Places(">", 8, 4096, 4104, 4108, 4116, -1, -1, 4120),
    Dialect.V2_64: Places(">", 8, 4096, 4104, 4112, 4120, -1, -1, 4128),
    Dialect.QEMU_32: Places(">", 8, 1024, 1032, 1036, 1044, -1, -1, 1048),
    Dialect.QEMU_64: Places(">", 8, 1024, 1032, 1040, 1048, -1, -1, 1056),
    Dialect.V3: Places(">", 32, 4096, 8, 12, 20, 24, 28, 4128),
    Dialect.V3_64: Places(">", 36, 4096, 8, 16, 24, 28, 32, 4136),
}
MIB = 1 << 20
_U64 = {"size"}

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
dialects = st.sampled_from(Dialect)
backing_paths = st.binary(min_size=1, max_size=255).filter(lambda path: b"\0" not in path)


def put(raw: bytes, dialect: Dialect, **numbers: int) -> bytes:
    """Return the header with these numbers at their places."""
    changed = bytearray(raw)
    for field, number in numbers.items():
        kind = PLACES[dialect].order + ("Q" if field in _U64 else "I")
        struct.pack_into(kind, changed, getattr(PLACES[dialect], field), number)
    return bytes(changed)


def plain(dialect: Dialect, *, size_bytes: int = MIB, path: bytes = b"/var/uml/root_fs") -> bytes:
    """Write a header without any of the code under test."""
    places = PLACES[dialect]
    version = 3 if places.alignment >= 0 else 1 if places.path_bytes == 256 else 2
    raw = bytearray(places.length)
    raw[:8] = (b"MOOO" if places.order == "<" else b"OOOM") + struct.pack(places.order + "I", version)
    raw[places.path : places.path + len(path)] = path
    numbers = {"mtime": 1_000_000_007, "size": size_bytes, "sectorsize": 512}
    if places.alignment >= 0:
        numbers |= {"alignment": 4096, "format": 0}
    return put(bytes(raw), dialect, **numbers)


def detected(raw: bytes, **options: object) -> CowHeader:
    """Detect the dialect of a file that begins with `raw` and is long enough for any bitmap."""
    return detect(raw.ljust(8192, b"\0"), file_bytes=1 << 40, where="cow", **options)  # type: ignore[arg-type]


@every_dialect
def test_every_number_is_read_from_its_place(dialect: Dialect) -> None:
    header = parse(plain(dialect), dialect, where="cow")
    assert (header.backing_path, header.mtime) == (b"/var/uml/root_fs", 1_000_000_007)
    assert (header.size_bytes, header.sector_bytes) == (MIB, 512)
    assert header.alignment_bytes == (4096 if dialect.has_alignment else 512)
    assert header.merged_ns is None
    assert len(header.raw) == PLACES[dialect].length == dialect.header_bytes


@every_dialect
def test_build_writes_every_byte_of_the_plain_header(dialect: Dialect) -> None:
    header = build(dialect, backing_path=b"/var/uml/root_fs", mtime=1_000_000_007, size_bytes=MIB)
    assert header.raw == plain(dialect)


@every_dialect
def test_the_plain_header_is_detected(dialect: Dialect) -> None:
    assert detected(plain(dialect)).dialect is dialect


@given(
    dialect=dialects,
    path=backing_paths,
    mtime=st.integers(0, (1 << 32) - 1),
    size=st.integers(0, 1 << 61),
    sector_bytes=st.sampled_from([512, 1024, 2048, 4096]),
    alignment_bytes=st.sampled_from([512, 4096, 65536, MIB]),
)
def test_what_is_built_is_parsed(
    dialect: Dialect, path: bytes, mtime: int, size: int, sector_bytes: int, alignment_bytes: int
) -> None:
    built = build(
        dialect,
        backing_path=path,
        mtime=mtime,
        size_bytes=size,
        sector_bytes=sector_bytes,
        alignment_bytes=alignment_bytes,
    )
    assert parse(built.raw, dialect, where="cow") == built
    assert (built.backing_path, built.mtime, built.size_bytes) == (path, mtime, size)
    assert built.sector_bytes == sector_bytes
    assert built.alignment_bytes == (alignment_bytes if dialect.has_alignment else sector_bytes)


@given(dialects, st.integers(-(1 << 40), 1 << 40))
def test_an_mtime_is_cut_to_32_bits_as_uml_does(dialect: Dialect, mtime: int) -> None:
    assert build(dialect, backing_path=b"b", mtime=mtime, size_bytes=512).mtime == mtime % (1 << 32)


@given(dialects, st.binary(min_size=200, max_size=200), backing_paths, st.integers(0, (1 << 32) - 1))
def test_rewrite_changes_nothing_but_what_it_is_told(dialect: Dialect, litter: bytes, path: bytes, mtime: int) -> None:
    places = PLACES[dialect]
    raw = bytearray(plain(dialect))
    raw[places.path + 40 : places.path + 240] = litter  # what the writer left after the path's NUL
    before = parse(bytes(raw), dialect, where="cow")
    touched = rewrite(before, mtime=mtime)
    assert touched.raw == put(bytes(raw), dialect, mtime=mtime)
    moved = rewrite(before, backing_path=path)
    field = slice(places.path, places.path + places.path_bytes)
    assert moved.raw[field] == path.ljust(places.path_bytes, b"\0")
    assert moved.raw[: field.start] + moved.raw[field.stop :] == before.raw[: field.start] + before.raw[field.stop :]
    assert (moved.dialect, moved.backing_path, moved.mtime) == (dialect, path, before.mtime)


@every_dialect
def test_the_merge_stamp_lives_behind_the_path_and_goes_with_the_next_rewrite(dialect: Dialect) -> None:
    before = parse(plain(dialect), dialect, where="cow")
    stamped = rewrite(before, merged_ns=1_700_000_000_123_456_789)
    assert stamped.merged_ns == 1_700_000_000_123_456_789
    assert parse(stamped.raw, dialect, where="cow").backing_path == before.backing_path
    places = PLACES[dialect]
    stamp_at = places.path + places.path_bytes - layout.STAMP_BYTES
    assert stamped.raw[:stamp_at] == before.raw[:stamp_at]
    assert rewrite(stamped, mtime=5).merged_ns is None
    assert rewrite(stamped, mtime=before.mtime).raw == before.raw


@every_dialect
def test_a_path_that_leaves_no_room_gets_no_stamp_and_is_not_cut(dialect: Dialect) -> None:
    longest = b"/" + b"x" * (dialect.path_bytes - 2)
    before = build(dialect, backing_path=longest, mtime=1, size_bytes=MIB)
    stamped = rewrite(before, merged_ns=7)
    assert (stamped.backing_path, stamped.merged_ns) == (longest, None)
    assert stamped.raw == before.raw


@every_dialect
def test_a_path_as_long_as_the_field_is_refused(dialect: Dialect) -> None:
    with pytest.raises(DataError, match="too long") as caught:
        build(dialect, backing_path=b"x" * dialect.path_bytes, mtime=1, size_bytes=MIB)
    assert caught.value.expected == f"at most {dialect.path_bytes - 1} bytes"
    assert caught.value.found == dialect.path_bytes


@every_dialect
@pytest.mark.parametrize("sectors", [0, 1, 7, 8, 9, 4095, 4096, 32767, 32769])
@pytest.mark.parametrize("spare_bytes", [0, 1, 511])
def test_bitmap_and_data_are_placed_by_the_rules_of_the_dialect(
    dialect: Dialect, sectors: int, spare_bytes: int
) -> None:
    size = sectors * 512 + spare_bytes
    whole_sectors = (size + 511) // 512
    geometry = build(dialect, backing_path=b"b", mtime=0, size_bytes=size).geometry
    header_end = PLACES[dialect].length
    if dialect.placement is Placement.V3:
        bitmap_offset, bitmap_bytes, grain = 8192, (whole_sectors + 7) // 8, 4096
    elif dialect.placement is Placement.QEMU:
        bitmap_offset, bitmap_bytes, grain = header_end, (whole_sectors + 7) // 8, 512
    else:
        bitmap_offset, bitmap_bytes, grain = header_end, whole_sectors // 8, 512
    data_offset = bitmap_offset + bitmap_bytes
    data_offset += -data_offset % grain
    assert (geometry.bitmap_offset, geometry.bitmap_bytes) == (bitmap_offset, bitmap_bytes)
    assert (geometry.data_offset, geometry.file_bytes) == (data_offset, data_offset + size)
    assert geometry.sectors == whole_sectors
    assert geometry.mapped_sectors == min(whole_sectors, bitmap_bytes * 8)
    assert geometry.mapped_bytes == min(geometry.mapped_sectors * 512, size)


# -- hostile headers ------------------------------------------------------------------------------


_SECTOR_SIZES = "512, 1024, 2048 or 4096"
_ALIGNMENTS = "a power of two from 512 to 1048576"
HOSTILE_NUMBERS = [
    *(("sectorsize", number, _SECTOR_SIZES) for number in (0, 1, 511, 513, 8192, 1 << 31, (1 << 32) - 1)),
    *(("size", number, "at most 2^63 - 1") for number in (1 << 63, (1 << 64) - 1)),
    *(("size", number, "a disk that fits in a file") for number in ((1 << 63) - 1, (1 << 63) - 4096)),
]
HOSTILE_NUMBERS_OF_VERSION_3 = [
    *(("alignment", number, _ALIGNMENTS) for number in (0, 1, 256, 513, 4095, 4097, 1 << 21, 1 << 31, (1 << 32) - 1)),
    *(("format", number, "0 (bitmap)") for number in (1, 1 << 31, (1 << 32) - 1)),
]
HOSTILE = [
    (dialect, *case)
    for dialect in Dialect
    for case in HOSTILE_NUMBERS + (HOSTILE_NUMBERS_OF_VERSION_3 if dialect.has_alignment else [])
]


@pytest.mark.parametrize(("dialect", "field", "number", "expected"), HOSTILE)
def test_a_number_that_cannot_be_true_is_named_with_its_place(
    dialect: Dialect, field: str, number: int, expected: str
) -> None:
    raw = put(plain(dialect), dialect, **{field: number})
    with pytest.raises(DataError) as caught:
        parse(raw, dialect, where="some.cow")
    error = caught.value
    assert error.what == f"bad {field} in the COW header"
    assert error.where == f"some.cow, byte {getattr(PLACES[dialect], field)}"
    assert (error.expected, error.found) == (expected, number)
    assert error.exit_code == 65


@every_dialect
def test_a_path_without_an_end_or_a_beginning_is_named_with_its_place(dialect: Dialect) -> None:
    places = PLACES[dialect]
    raw, field = plain(dialect), slice(places.path, places.path + places.path_bytes)
    endless = raw[: field.start] + b"x" * places.path_bytes + raw[field.stop :]
    empty = raw[: field.start] + b"\0" + raw[field.start + 1 :]
    for hostile, expected, found in [
        (endless, "a closing NUL", "none"),
        (empty, "the name of a backing file", "nothing"),
    ]:
        with pytest.raises(DataError) as caught:
            parse(hostile, dialect, where="cow")
        assert caught.value.where == f"cow, byte {places.path}"
        assert (caught.value.expected, caught.value.found) == (expected, found)


@every_dialect
def test_a_header_cut_at_any_byte_is_refused(dialect: Dialect) -> None:
    raw = plain(dialect)
    for length in range(len(raw)):
        with pytest.raises(DataError) as caught:
            detect(raw[:length], file_bytes=length, where="cow")
        assert caught.value.exit_code == 65
        with pytest.raises(DataError, match="cut off") as caught:
            parse(raw[:length], dialect, where="cow")
        assert (caught.value.expected, caught.value.found) == (f"{len(raw)} bytes", length)


@pytest.mark.parametrize("start", [b"", b"OOO", b"\0\0\0\0", b"QFI\xfb", b"ooom\0\0\0\3", b"OOMO\0\0\0\3"])
def test_another_magic_is_no_cow_file(start: bytes) -> None:
    assert not headers.looks_like_cow(start)
    with pytest.raises(DataError, match="not a COW file") as caught:
        detected(start)
    assert caught.value.expected == "magic MOOO or OOOM"


@pytest.mark.parametrize("version", [0, 4, 255, 0x03000000, (1 << 32) - 1])
@pytest.mark.parametrize("magic", [b"OOOM", b"MOOO"])
def test_another_version_is_named(magic: bytes, version: int) -> None:
    number = version.to_bytes(4, "little" if magic == b"MOOO" else "big")
    with pytest.raises(DataError, match="unknown COW version") as caught:
        detected(magic + number)
    assert (caught.value.where, caught.value.found) == ("cow, byte 4", version)


@pytest.mark.parametrize("version", [2, 3])
def test_later_versions_were_never_little_endian(version: int) -> None:
    with pytest.raises(DataError, match="unknown COW version"):
        detected(b"MOOO" + version.to_bytes(4, "little"))


@pytest.mark.parametrize("found", [b"\x1b[2J", b"\r\n\0\x07", b"\xff\xfe\xfd\xfc"])
def test_a_strange_magic_is_shown_without_harm_to_the_terminal(found: bytes) -> None:
    with pytest.raises(DataError) as caught:
        detected(found)
    assert caught.value.line().isprintable()
    assert caught.value.line().isascii()


# -- look-alikes ----------------------------------------------------------------------------------


def ambiguous_v1() -> bytes:
    """Return a big-endian v1 header that can be read in the packed layout and in PowerPC's."""
    raw = plain(Dialect.V1_BIG, size_bytes=512).ljust(288, b"\0")
    # Packed: size 512 at 268, sector size 512 at 276. PowerPC: size 512 << 32 | 512 at 272, sector size at 280.
    return raw[:280] + struct.pack(">I", 512) + raw[284:]


def test_two_readings_without_a_backing_file_need_a_decision() -> None:
    with pytest.raises(DataError, match="several ways") as caught:
        detected(ambiguous_v1())
    assert set(str(caught.value.found).split(", ")) == {"v1-be", "v1-ppc"}
    assert "--dialect" in str(caught.value.hint)


@pytest.mark.parametrize("dialect", [Dialect.V1_BIG, Dialect.V1_POWERPC])
def test_the_reading_whose_backing_file_fits_wins_and_the_doubt_is_kept(dialect: Dialect) -> None:
    header = detected(ambiguous_v1(), backing_fits=lambda reading: reading.dialect is dialect)
    (other,) = {Dialect.V1_BIG, Dialect.V1_POWERPC} - {dialect}
    assert (header.dialect, header.alternatives) == (dialect, (other,))


def test_two_readings_that_both_fit_need_a_decision() -> None:
    with pytest.raises(DataError, match="several ways"):
        detected(ambiguous_v1(), backing_fits=lambda _reading: True)


@pytest.mark.parametrize("dialect", [Dialect.V1_BIG, Dialect.V1_POWERPC])
def test_the_wanted_dialect_needs_no_search(dialect: Dialect) -> None:
    header = detected(ambiguous_v1(), wanted=dialect)
    assert (header.dialect, header.alternatives) == (dialect, ())


@every_dialect
def test_a_dialect_wanted_for_a_header_of_another_kind_is_refused(dialect: Dialect) -> None:
    other = Dialect.V3 if dialect.version != 3 else Dialect.V1_LITTLE
    with pytest.raises(DataError, match=re.escape(f"not a COW header of {other.label}")):
        detected(plain(dialect).ljust(5000, b"\0"), wanted=other)


def test_qemu_is_told_by_its_zeroed_padding() -> None:
    raw = bytearray(plain(Dialect.QEMU_32))
    raw[900] = 1  # left-overs after the path: QEMU never had any
    with pytest.raises(DataError):
        detected(bytes(raw))


def test_a_reading_whose_bitmap_would_be_cut_off_falls() -> None:
    raw = ambiguous_v1()  # PowerPC's reading is a disk of 2 TiB with a bitmap of 512 MiB
    header = detect(raw.ljust(8192, b"\0"), file_bytes=8192, where="cow")
    assert header.dialect is Dialect.V1_BIG
