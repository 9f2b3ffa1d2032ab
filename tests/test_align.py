"""Filling mixed pages: exactly those, with what the guest saw there, and safe to be killed at any time."""

import os
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import Died, Way, failing
from umldisk.cow.aligning import align
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.file import Access, CowFile
from umldisk.cow.journal import MergeJournal
from umldisk.cow.journal import write as write_journal
from umldisk.errors import BusyError, DataError, StorageError
from umldisk.system import files, locks

GIB = 1 << 30

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


def patterned(size_bytes: int, mark: bytes = b"b") -> bytes:
    sectors = -(-size_bytes // 512)
    return b"".join((b"%s%07d" % (mark, n)) * 64 for n in range(sectors))[:size_bytes]


def make(
    directory: Path,
    changed: set[int],
    *,
    size_bytes: int = 10 * 4096,
    dialect: Dialect = Dialect.V3,
    sector_bytes: int = 512,
) -> Path:
    """Write a base image and a COW file over it with these sectors changed."""
    base = model.write_image(directory / "base", patterned(size_bytes))
    changes = {n: b"C%07d" % n * (sector_bytes // 8) for n in changed}
    cow = directory / "cow"
    model.write_cow(cow, base, changes, dialect=dialect, sector_bytes=sector_bytes)
    return cow


def seen(cow: Path, access: Access | None = None) -> bytes:
    with CowFile.open(cow, access=access) as disk:
        return disk.read(0, disk.size_bytes)


@every_dialect
def test_only_mixed_pages_are_filled(tmp_path: Path, dialect: Dialect) -> None:
    changed = {1, *range(8, 16), 30, 31, 79}
    cow = make(tmp_path, changed, dialect=dialect)
    before = seen(cow)
    report = align(cow)
    assert (report.pages, report.filled_bytes, report.unfixable_pages) == (3, (7 + 6 + 7) * 512, 0)
    assert (report.cow, report.dry_run) == (str(cow), False)
    filled = {*range(16), *range(24, 32), *range(72, 80)}
    assert set(model.read_cow(cow, dialect)[1]) == filled
    assert seen(cow) == before


@pytest.mark.parametrize(
    ("sector_bytes", "changed", "pages", "filled"),
    [
        (512, {0, 1, 2, 3}, 1, set(range(8))),
        (1024, {0, 1, 2, 3}, 0, {0, 1, 2, 3}),
        (1024, {3, 4}, 2, set(range(8))),
        (1024, {5}, 1, {4, 5, 6, 7}),
        (2048, {0, 1, 3}, 1, {0, 1, 2, 3}),
        (4096, {0, 2}, 0, {0, 2}),
    ],
)
def test_pages_are_4096_bytes_whatever_the_sector_size(
    tmp_path: Path, sector_bytes: int, changed: set[int], pages: int, filled: set[int]
) -> None:
    cow = make(tmp_path, changed, sector_bytes=sector_bytes)
    before = seen(cow)
    assert align(cow).pages == pages
    assert set(model.read_cow(cow)[1]) == filled
    assert seen(cow) == before


@pytest.mark.parametrize("last_sectors", range(1, 8))
@pytest.mark.parametrize("short_bytes", [0, 1, 511])
def test_last_page_counts_only_the_sectors_it_has(tmp_path: Path, last_sectors: int, short_bytes: int) -> None:
    size = 4096 + last_sectors * 512 - short_bytes
    every = set(range(8, 8 + last_sectors))
    cow = make(tmp_path, every, size_bytes=size)
    assert align(cow).pages == 0
    cow = make(tmp_path, {8}, size_bytes=size)
    before = seen(cow)
    report = align(cow)
    assert report.filled_bytes == max(0, size - 4096 - 512)
    assert report.pages == (1 if last_sectors > 1 else 0)
    assert set(model.read_cow(cow)[1]) == every
    assert seen(cow) == before
    assert cow.stat().st_size == model.read_cow(cow)[0].geometry.file_bytes


@pytest.mark.parametrize("dialect", [d for d in Dialect if d.placement is Placement.V1_V2])
def test_pages_without_bits_are_counted_and_left(tmp_path: Path, dialect: Dialect) -> None:
    cow = make(tmp_path, {0}, size_bytes=4096 + 5 * 512, dialect=dialect)
    before = seen(cow)
    report = align(cow)
    assert (report.pages, report.unfixable_pages) == (1, 1)
    assert set(model.read_cow(cow, dialect)[1]) == set(range(8))
    assert seen(cow) == before


def test_sectors_come_from_a_cow_file_below(tmp_path: Path) -> None:
    lower = make(tmp_path, {1, 9})
    upper = tmp_path / "upper"
    model.write_cow(upper, lower, {0: b"U" * 512}, size_bytes=10 * 4096)
    before = seen(upper)
    assert align(upper).filled_bytes == 7 * 512
    assert model.read_cow(upper)[1][1] == b"C%07d" % 1 * 64
    assert seen(upper) == before
    assert set(model.read_cow(lower)[1]) == {1, 9}


def test_file_cut_after_its_bitmap_grows(tmp_path: Path) -> None:
    """The old dialects' files may end before the data of sectors that are unchanged."""
    cow = make(tmp_path, {0}, dialect=Dialect.V2)
    header = model.read_cow(cow, Dialect.V2)[0]
    with cow.open("r+b") as file:
        file.truncate(header.geometry.data_offset + 512)
    before = seen(cow)
    align(cow)
    assert seen(cow) == before
    assert cow.stat().st_size == header.geometry.data_offset + 4096


def test_huge_disk_is_done_where_its_bits_are(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with base.open("wb") as file:
        file.truncate(1024 * GIB)
    cow = tmp_path / "cow"
    header = model.write_cow(cow, base, {})
    with cow.open("r+b") as file:
        for byte in (0, 65535, 65536, header.geometry.bitmap_bytes - 1):
            file.seek(header.geometry.bitmap_offset + byte)
            file.write(b"\x10")
    report = align(cow)
    assert (report.pages, report.filled_bytes) == (4, 4 * 7 * 512)
    with CowFile.open(cow) as disk:
        assert [run.sectors for run in disk.runs()] == [8, 16, 8]
    assert model.room_of(cow) < 1 << 20


# -- rules ----------------------------------------------------------------------------------------


def test_dry_run_leaves_the_file_alone(tmp_path: Path) -> None:
    cow = make(tmp_path, {1, 9})
    before = cow.read_bytes(), cow.stat().st_mtime_ns
    cow.chmod(0o444)
    report = align(cow, dry_run=True)
    assert (report.pages, report.filled_bytes, report.dry_run) == (2, 2 * 7 * 512, True)
    assert (cow.read_bytes(), cow.stat().st_mtime_ns) == before


def test_touched_backing_is_refused_unless_ignored(tmp_path: Path) -> None:
    cow = make(tmp_path, {1})
    os.utime(tmp_path / "base", (1, 1))
    before = cow.read_bytes()
    with pytest.raises(DataError, match="changed after"):
        align(cow)
    assert cow.read_bytes() == before
    assert align(cow, access=Access(ignore_mtime=True)).pages == 1


def test_half_merged_cow_file_is_refused(tmp_path: Path) -> None:
    cow, base = make(tmp_path, {1}), tmp_path / "base"
    journal = MergeJournal(str(cow), base.stat().st_ino, 10 * 4096, 1, reset=False)
    write_journal(str(base), journal)
    before = cow.read_bytes()
    with pytest.raises(DataError, match="unfinished") as caught:
        align(cow)
    assert f"umldisk merge -d {cow}" in str(caught.value.hint)
    assert cow.read_bytes() == before


@pytest.mark.parametrize("exclusive", [True, False])
def test_cow_file_in_use_is_refused(tmp_path: Path, exclusive: bool) -> None:
    cow = make(tmp_path, {1})
    with files.open_disk(cow, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=exclusive)
        with pytest.raises(BusyError):
            align(cow, access=Access(lock=False))
    assert align(cow).pages == 1


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [Way.DEAD, Way.FULL, Way.TORN])
def test_stopped_anywhere_the_view_holds_and_the_same_call_completes_it(tmp_path: Path, way: Way) -> None:
    changed = {1, 4, 9, 30, 79}
    struck = 0
    for number in range(1000):
        cow = make(tmp_path, changed)
        before = seen(cow)
        with failing(number, way) as tally:
            try:
                align(cow)
            except (Died, StorageError):
                struck += 1
        assert seen(cow) == before
        align(cow)
        assert set(model.read_cow(cow)[1]) == model.filled(changed, 10 * 4096)
        assert seen(cow) == before
        if tally.struck is None:
            break
    assert struck >= 10


def test_bits_are_set_after_their_data_is_durable(tmp_path: Path) -> None:
    cow = make(tmp_path, {1, 9})
    with failing(None) as tally:
        align(cow)
    first, last = tally.calls.index("fsync"), len(tally.calls) - 1
    assert tally.calls[last] == "fsync"
    assert tally.calls[first + 1 : last].count("pwrite") >= 1
    assert first > 3
    with failing(None) as tally:
        align(make(tmp_path, {1, 9}), sync=False)
    assert "fsync" not in tally.calls
