"""Every finding that a check can make, earned by a file with that fault and no other."""

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given

from tests.kit import model
from tests.kit.faulty import MAKERS, SIZE, backing_loop, base, pair, patch
from tests.kit.guest import run_script
from tests.kit.model import Disk, write_cow, write_image
from tests.kit.peers import needs
from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.check_bitmap import count_mixed_pages
from umldisk.cow.checking import check
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, read_header
from umldisk.cow.findings import CODES, CheckReport, Finding, Severity
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.cow.layers import CowLayer
from umldisk.system.files import open_disk

Captured = pytest.CaptureFixture[str]

MADE_HERE = {"small-blocks", "locked", "backing-locked", "on-tmpfs"}
"""Findings whose files need more than a function of a directory."""


def codes(report: CheckReport) -> set[str]:
    """Return what was found, without what depends on where the tests run."""
    return {one.code for one in report.findings} - {"on-tmpfs"}


def only(report: CheckReport, code: str) -> Finding:
    """Return the one finding with this code."""
    (found,) = (one for one in report.findings if one.code == code)
    return found


# -- each finding -----------------------------------------------------------------------------------------------------


def test_every_code_is_made_by_some_test() -> None:
    assert set(MAKERS) | MADE_HERE == set(CODES)


@pytest.mark.parametrize("dialect", [Dialect.V3, Dialect.V3_64])
def test_a_sound_file_has_no_findings(tmp_path: Path, dialect: Dialect) -> None:
    cow, _backing, _header = pair(tmp_path, dialect)
    report = check(cow)
    assert codes(report) == set()
    assert report.ok


@pytest.mark.parametrize("code", MAKERS)
def test_a_fault_is_found_and_nothing_else(tmp_path: Path, code: str) -> None:
    make, besides = MAKERS[code]
    report = check(make(tmp_path))
    assert codes(report) == {code, *besides}
    found = only(report, code)
    assert found.severity is CODES[code].severity
    assert report.ok == all(one.severity is not Severity.ERROR for one in report.findings)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    for number, (make, _besides) in enumerate(MAKERS.values()):
        directory = tmp_path / str(number)
        directory.mkdir()
        cow = make(directory)
        before = {path.name: (path.stat(), path.stat().st_size) for path in directory.iterdir()}
        check(cow)
        assert {path.name for path in directory.iterdir()} == set(before)
        for path in directory.iterdir():
            status, _size = before[path.name]
            assert path.stat().st_mtime_ns == status.st_mtime_ns


@pytest.mark.parametrize(
    ("code", "sector", "count"),
    [("mixed-pages", 16, 1), ("data-cut", 58, None), ("bits-past-end", 2051, 2), ("tail-sectors", 2048, 7)],
)
def test_a_finding_says_where_and_how_many(tmp_path: Path, code: str, sector: int, count: int | None) -> None:
    found = only(check(MAKERS[code][0](tmp_path)), code)
    assert (found.sector, found.count) == (sector, count)


def test_a_file_without_its_bitmap_lacks_the_data_too_when_bits_are_left(tmp_path: Path) -> None:
    cow, _backing, header = pair(tmp_path)
    os.truncate(cow, header.geometry.bitmap_offset + 8)
    assert codes(check(cow)) == {"bitmap-cut", "data-cut"}


def test_a_version_3_file_may_not_be_short_but_older_ones_may(tmp_path: Path) -> None:
    cow, _backing, header = pair(tmp_path, Dialect.V2)
    os.truncate(cow, header.geometry.data_offset + 64 * 512)
    assert codes(check(cow)) == {"old-dialect", "alignment"}


def test_alignment_of_old_layouts_is_no_reproach(tmp_path: Path) -> None:
    assert only(check(pair(tmp_path, Dialect.V2)[0]), "alignment").severity is Severity.NOTE


def test_a_tail_beside_the_data_damages_the_first_sector(tmp_path: Path) -> None:
    # 4120 bytes of header and 488 of bitmap end where a sector begins
    cow, _backing, _header = pair(tmp_path, Dialect.V2, size_bytes=(488 * 8 + 1) * 512)
    assert "sector 0" in only(check(cow), "tail-sectors").message
    cow, _backing, _header = pair(tmp_path, Dialect.V2, size_bytes=(487 * 8 + 1) * 512)
    assert "sector 0" not in only(check(cow), "tail-sectors").message


def test_a_merged_file_that_was_written_to_is_not_called_merged(tmp_path: Path) -> None:
    cow = MAKERS["merged"][0](tmp_path)
    os.utime(cow)
    assert codes(check(cow)) == set()


# -- mixed pages ------------------------------------------------------------------------------------------------------


def mixed_by_the_model(disk: Disk) -> set[int]:
    """Return the pages of which some sectors are changed and some that have a bit are not."""
    changed = set(disk.changes)
    missing = model.filled(changed, len(disk.base), disk.sector_bytes) - changed
    return {sector * disk.sector_bytes // model.PAGE_BYTES for sector in missing}


@given(disk=model.disks())
def test_mixed_pages_are_those_of_the_model(tmp_path_factory: pytest.TempPathFactory, disk: Disk) -> None:
    cow, _backing = disk.write(tmp_path_factory.mktemp("disk"))
    with open_disk(cow) as file:
        layer = CowLayer(file, read_header(file, dialect=disk.dialect), None)
        pages, first = count_mixed_pages(layer)
    expected = mixed_by_the_model(disk)
    assert pages == len(expected)
    assert first == (min(expected) * model.PAGE_BYTES // disk.sector_bytes if expected else None)


def test_a_tebibyte_is_looked_over_in_little_memory(tmp_path: Path) -> None:
    backing = tmp_path / "root_fs"
    backing.touch()
    os.truncate(backing, 1 << 40)
    cow = tmp_path / "root_cow"
    header = headers.build(
        Dialect.V3,
        backing_path=os.fsencode(backing),
        mtime=backing.stat().st_mtime_ns // 1_000_000_000,
        size_bytes=1 << 40,
    )
    cow.write_bytes(header.raw)
    os.truncate(cow, header.geometry.file_bytes)
    for byte in range(1 << 12, header.geometry.bitmap_bytes, 1 << 20):
        patch(cow, header.geometry.bitmap_offset + byte, b"\xff\xfe")
    check(cow)
    tracemalloc.start()
    report = check(cow)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (only(report, "mixed-pages").sector, only(report, "mixed-pages").count) == (((1 << 12) + 1) * 8, 256)
    assert peak < 2 << 20


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        ("a,b", Severity.ERROR),
        ("a:b", Severity.ERROR),
        ('a"b', Severity.ERROR),
        ("a b", Severity.WARNING),
        ("a\tb", Severity.WARNING),
        ("à", Severity.WARNING),
        ("plain-1_2.é", None),
    ],
)
def test_names_that_the_ubd_option_cannot_carry(tmp_path: Path, name: str, severity: Severity | None) -> None:
    cow, backing, header = pair(tmp_path)
    renamed = cow.rename(tmp_path / name)
    found = [one for one in check(renamed).findings if one.code == "ubd-path"]
    assert [one.severity for one in found] == ([severity] if severity else [])
    # the backing file is found through the header, so that its name alone stops nobody
    other = backing.rename(tmp_path / f"fs {name}")
    headed = headers.rewrite(header, backing_path=os.fsencode(other))
    patch(renamed, 0, headed.raw)
    renamed.rename(cow)
    found = [one for one in check(cow).findings if one.code == "ubd-path"]
    assert [(one.severity, one.where) for one in found] == [(Severity.WARNING, str(other))]


def test_paths_too_long_for_the_command_line(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 10)
    deep.mkdir(parents=True)
    cow, _backing, _header = pair(deep)
    (found,) = check(cow).findings
    assert (found.code, found.severity) == ("ubd-path", Severity.WARNING)


@needs("linux")
def test_the_kernel_trips_over_the_names_that_are_found(tmp_path: Path) -> None:
    names = ["plain", "é", "a,b", "a:b", "à", "a b"]
    disks = [str(write_image(tmp_path / f"{name}_fs", b"x" * SIZE)) for name in names] + [f'"{tmp_path}/a b_fs"']
    run = run_script("for letter in a b c d e f g; do [ -b /dev/ubd$letter ] && echo $letter; done; true", disks)
    # the blank is carried by quotes; nothing else that was found is carried at all
    assert run.output.split() == ["a", "b", "g"]


# -- the stack --------------------------------------------------------------------------------------------------------


def test_what_is_wrong_further_down_is_found_there(tmp_path: Path) -> None:
    top = MAKERS["stacked"][0](tmp_path)
    backing = tmp_path / "root_fs"
    backing.unlink()
    report = check(top)
    assert codes(report) == {"stacked", "backing-missing"}
    assert only(report, "backing-missing").where == str(backing)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink(path, path)])
def test_a_backing_file_that_is_no_file(tmp_path: Path, make: object) -> None:
    cow, backing, _header = pair(tmp_path)
    backing.unlink()
    assert callable(make)
    make(backing)
    assert codes(check(cow)) == {"backing-missing"}


def test_another_backing_file_takes_the_place_of_a_missing_one(tmp_path: Path) -> None:
    cow = MAKERS["backing-missing"][0](tmp_path)
    other = base(tmp_path, name="elsewhere")
    with open_disk(cow) as disk:
        mtime = read_header(disk).mtime
    os.utime(other, (mtime, mtime))
    assert codes(check(cow, access=Access(backing=other))) == set()


def test_a_touched_backing_file_can_be_accepted(tmp_path: Path) -> None:
    cow = MAKERS["backing-mtime"][0](tmp_path)
    assert codes(check(cow, access=Access(ignore_mtime=True))) == set()


def test_two_files_that_stand_on_each_other(tmp_path: Path) -> None:
    cow = backing_loop(tmp_path)
    other = tmp_path / "other_cow"
    header = write_cow(other, cow, {}, size_bytes=SIZE)
    patch(cow, 0, headers.rewrite(header, backing_path=os.fsencode(other)).raw)
    assert "backing-loop" in codes(check(cow))


def test_an_unfinished_merge_of_another_file(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    journals.write(str(backing), MergeJournal(str(tmp_path / "gone"), 1, SIZE, 5, reset=False))
    found = only(check(cow), "unfinished-merge")
    assert found.hint is not None
    assert f"merge -d {tmp_path / 'gone'}" in found.hint
    assert f"remove {journals.path_for(str(backing))}" in found.hint


def test_a_torn_header_is_read_through_its_journal(tmp_path: Path) -> None:
    cow, _backing, header = pair(tmp_path)
    new = headers.rewrite(header, backing_path=os.fsencode(tmp_path / ("long" * 60)))
    journals.write(str(cow), HeaderJournal(header.raw.hex(), new.raw.hex()))
    patch(cow, 0, new.raw[:100])
    report = check(cow)
    assert codes(report) == {"unfinished-header", "backing-missing"}
    assert only(report, "backing-missing").where == os.fsdecode(new.backing_path)


def test_journals_of_the_wrong_kind(tmp_path: Path) -> None:
    cow, backing, header = pair(tmp_path)
    journals.write(str(backing), HeaderJournal(header.raw.hex(), header.raw.hex()))
    assert codes(check(cow)) == {"foreign-journal"}
    journals.remove(str(backing))
    journals.write(str(cow), MergeJournal(str(tmp_path / "gone"), 1, SIZE, 5, reset=False))
    assert codes(check(cow)) == {"foreign-journal"}
    journals.write(str(cow), HeaderJournal((b"A" * 4128).hex(), (b"B" * 4128).hex()))
    assert codes(check(cow)) == {"foreign-journal"}
