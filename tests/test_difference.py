"""From two images back to a COW file: the smallest one, and nothing read or written for nothing."""

import os
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import READING_CALLS, Died, Way, failing
from tests.kit.oracle import moo
from tests.kit.peers import needs
from umldisk.cow.compare import Comparer, Tally, joined
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.differencing import difference
from umldisk.cow.file import CowFile
from umldisk.cow.journal import MergeJournal
from umldisk.cow.journal import write as write_journal
from umldisk.cow.layers import RawLayer
from umldisk.cow.merging import merge
from umldisk.errors import BusyError, CannotCreateError, DataError, StorageError
from umldisk.progress import SILENT
from umldisk.system import files, locks

CHUNK = 256 * 1024
GIB = 1 << 30

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


def patterned(size_bytes: int) -> bytes:
    """Make contents in which no two sectors are the same, and none is zeros."""
    sectors = -(-size_bytes // 512)
    return b"".join((b"%08d" % n) * 64 for n in range(sectors))[:size_bytes]


def with_bytes(image: bytes, *places: int) -> bytes:
    """Return the image with single bytes made different."""
    changed = bytearray(image)
    for place in places:
        changed[place] ^= 0xFF
    return bytes(changed)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model.write_image(tmp_path / "base", patterned(3 * CHUNK + 1000))


def image_of(tmp_path: Path, contents: bytes) -> Path:
    return model.write_image(tmp_path / "image", contents)


@pytest.mark.parametrize(
    ("places", "pages", "runs"),
    [
        ([], set(), 0),
        ([0], {0}, 1),
        ([4095, 4096], {0, 1}, 1),
        ([CHUNK - 1, CHUNK], {63, 64}, 1),
        ([CHUNK - 1, CHUNK + 4096], {63, 65}, 2),
        ([0, 600, 5 * 4096], {0, 5}, 2),
        ([3 * CHUNK + 999], {192}, 1),
    ],
)
def test_whole_pages_are_taken(tmp_path: Path, base: Path, places: list[int], pages: set[int], runs: int) -> None:
    contents = with_bytes(base.read_bytes(), *places)
    image, cow = image_of(tmp_path, contents), tmp_path / "cow"
    report = difference(base, image, cow)
    expected = model.sectors_of(pages, len(contents))
    assert set(model.read_cow(cow)[1]) == expected
    assert report.changed_bytes == model.length_of(expected, len(contents))
    assert (report.runs, report.size_bytes) == (runs, len(contents))
    assert (report.base, report.image, report.cow) == (str(base), str(image), str(cow))


def test_by_sector_takes_single_sectors(tmp_path: Path, base: Path) -> None:
    contents = with_bytes(base.read_bytes(), 511, 1024, 1535, 3 * CHUNK + 999)
    image, cow = image_of(tmp_path, contents), tmp_path / "cow"
    report = difference(base, image, cow, by_sector=True)
    last = (3 * CHUNK + 999) // 512
    header, changes = model.read_cow(cow)
    assert set(changes) == {0, 2, last}
    assert (report.runs, report.changed_bytes) == (3, 512 + 512 + 1000 % 512)
    data = cow.read_bytes()[header.geometry.data_offset :]
    assert data[512:1024] == bytes(512)


@every_dialect
def test_every_dialect_round_trips(tmp_path: Path, dialect: Dialect) -> None:
    """Merging what difference made gives the image, detected without help."""
    contents = patterned(64 * 512)
    base = model.write_image(tmp_path / "base", contents)
    image = image_of(tmp_path, with_bytes(contents, 5000, 20_000, 32_767))
    cow = tmp_path / "cow"
    assert difference(base, image, cow, dialect=dialect).dialect is dialect
    merge(cow, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == image.read_bytes()


@needs("uml_moo")
@pytest.mark.parametrize("by_sector", [False, True])
def test_uml_moo_merges_it_to_the_image(tmp_path: Path, by_sector: bool) -> None:
    contents = patterned(3 * CHUNK)
    base = model.write_image(tmp_path / "base", contents)
    altered = with_bytes(contents, 0, 7000, CHUNK, 3 * CHUNK - 1)
    image = image_of(tmp_path, altered[:8192] + bytes(4096) + altered[12288:])
    difference(base, image, tmp_path / "cow", by_sector=by_sector)
    moo(tmp_path / "cow", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == image.read_bytes()


# -- holes, room, reading -------------------------------------------------------------------------


def test_page_of_zeros_is_a_bit_and_no_room(tmp_path: Path, base: Path) -> None:
    contents = bytearray(base.read_bytes())
    contents[CHUNK : 2 * CHUNK] = bytes(CHUNK)
    contents[0] ^= 1
    image, cow = image_of(tmp_path, bytes(contents)), tmp_path / "cow"
    report = difference(base, image, cow)
    assert (report.runs, report.changed_bytes) == (2, 4096 + CHUNK)
    room_without_data = 2 * 4096 + 4096
    assert model.room_of(cow) == room_without_data + 4096
    with CowFile.open(cow) as opened:
        assert opened.read(0, len(contents)) == contents


def test_zeros_written_out_are_no_difference_from_a_hole(tmp_path: Path) -> None:
    base, image = tmp_path / "base", tmp_path / "image"
    base.write_bytes(bytes(CHUNK))
    model.write_image(image, bytes(CHUNK))
    assert model.room_of(image) < CHUNK
    assert difference(base, image, tmp_path / "one").changed_bytes == 0
    assert difference(image, base, tmp_path / "two").changed_bytes == 0


def test_common_holes_are_not_read(tmp_path: Path) -> None:
    """Two disks of a tebibyte with a page each: the time goes with the data."""
    for name, place in (("base", 7 * GIB), ("image", 900 * GIB)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1024 * GIB)
            file.seek(place)
            file.write(b"x" * 4096)
    with failing(None, calls=READING_CALLS) as reads:
        report = difference(tmp_path / "base", tmp_path / "image", tmp_path / "cow")
    assert (report.runs, report.changed_bytes) == (2, 8192)
    assert len(reads.calls) < 100
    with CowFile.open(tmp_path / "cow") as cow:
        assert [(run.start * 512 // GIB, run.sectors) for run in cow.runs()] == [(7, 8), (900, 8)]


def test_cow_file_on_the_same_base_is_read_only_where_it_changed_something(tmp_path: Path, base: Path) -> None:
    """What was changed to what it was before is dropped, the rest is never compared."""
    contents = base.read_bytes()
    changes = {8: contents[4096:4608], 9: b"new".ljust(512)}
    image, cow = tmp_path / "image", tmp_path / "cow"
    model.write_cow(image, base, {**changes, 800: contents[800 * 512 :][:512]})
    with failing(None, calls=["preadv"]) as reads:
        report = difference(base, image, cow, by_sector=True)
    assert set(model.read_cow(cow)[1]) == {9}
    assert report.changed_bytes == 512
    assert len(reads.calls) <= 8


def test_image_may_be_a_chain(tmp_path: Path, base: Path) -> None:
    size = base.stat().st_size
    model.write_cow(tmp_path / "lower", base, {9: b"lower".ljust(512)})
    model.write_cow(tmp_path / "upper", tmp_path / "lower", {10: b"upper".ljust(512)}, size_bytes=size)
    difference(base, tmp_path / "upper", tmp_path / "cow")
    with CowFile.open(tmp_path / "upper") as chain, CowFile.open(tmp_path / "cow") as flat:
        assert flat.read(0, size) == chain.read(0, size)
        assert isinstance(flat.backing, RawLayer)


# -- what is refused ------------------------------------------------------------------------------


def test_base_may_not_be_a_cow_file(tmp_path: Path, base: Path) -> None:
    model.write_cow(tmp_path / "lower", base, {})
    with pytest.raises(DataError, match="COW file itself"):
        difference(tmp_path / "lower", base, tmp_path / "cow")
    assert not (tmp_path / "cow").exists()


@pytest.mark.parametrize("more", [-1, 1, 512])
def test_sizes_must_be_the_same(tmp_path: Path, base: Path, more: int) -> None:
    size = base.stat().st_size
    image = image_of(tmp_path, patterned(size + more))
    with pytest.raises(DataError, match="size") as caught:
        difference(base, image, tmp_path / "cow")
    assert f"expected {size}, found {size + more}" in caught.value.line()
    assert not (tmp_path / "cow").exists()


@pytest.mark.parametrize("dialect", [d for d in Dialect if d.placement is Placement.V1_V2])
def test_change_where_no_bit_is_is_refused(tmp_path: Path, dialect: Dialect) -> None:
    contents = patterned(13 * 512)
    base = model.write_image(tmp_path / "base", contents)
    image = image_of(tmp_path, with_bytes(contents, 9 * 512))
    with pytest.raises(DataError, match="no bits") as caught:
        difference(base, image, tmp_path / "cow", dialect=dialect)
    assert f"byte {9 * 512}" in caught.value.line()
    assert not (tmp_path / "cow").exists()
    image_of(tmp_path, with_bytes(contents, 7 * 512))
    assert difference(base, image, tmp_path / "cow", dialect=dialect).changed_bytes == 4096


@pytest.mark.parametrize("name", model.NAMES)
def test_output_may_not_be_an_input(tmp_path: Path, base: Path, name: str) -> None:
    lower = tmp_path / "lower"
    model.write_cow(lower, base, {9: bytes(512)})
    for victim in (base, lower):
        before = victim.read_bytes()
        with pytest.raises(DataError):
            difference(base, lower, model.another_name(victim, name), replace=True)
        assert victim.read_bytes() == before


@pytest.mark.parametrize("dry_run", [True, False])
def test_existing_output_stays(tmp_path: Path, base: Path, dry_run: bool) -> None:
    cow = model.write_image(tmp_path / "cow", b"precious")
    with pytest.raises(CannotCreateError):
        difference(base, base, cow, dry_run=dry_run)
    assert cow.read_bytes() == b"precious"
    difference(base, base, cow, dry_run=dry_run, replace=True)
    assert (cow.read_bytes() == b"precious") is dry_run


@pytest.mark.parametrize("name", ["base", "image"])
def test_inputs_in_use_are_refused(tmp_path: Path, base: Path, name: str) -> None:
    image_of(tmp_path, base.read_bytes())
    with files.open_disk(tmp_path / name, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=True)
        with pytest.raises(BusyError):
            difference(base, tmp_path / "image", tmp_path / "cow")


@pytest.mark.parametrize("name", ["base", "image"])
def test_half_merged_inputs_are_refused(tmp_path: Path, base: Path, name: str) -> None:
    image = image_of(tmp_path, base.read_bytes())
    half = tmp_path / name
    write_journal(str(half), MergeJournal("/some/cow", half.stat().st_ino, 1, 1, reset=False))
    with pytest.raises(DataError, match="unfinished"):
        difference(base, image, tmp_path / "cow")


# -- how it is put in place -----------------------------------------------------------------------


def test_dry_run_counts_and_writes_nothing(tmp_path: Path, base: Path) -> None:
    image = image_of(tmp_path, with_bytes(base.read_bytes(), 0, CHUNK))
    planned = difference(base, image, tmp_path / "cow", dry_run=True)
    assert sorted(os.listdir(tmp_path)) == ["base", "image"]
    done = difference(base, image, tmp_path / "cow")
    assert planned.dry_run
    assert (planned.runs, planned.changed_bytes) == (done.runs, done.changed_bytes) == (2, 8192)


@pytest.mark.parametrize("way", [Way.FULL, Way.DEAD])
def test_failing_disk_leaves_nothing_or_the_whole(tmp_path: Path, base: Path, way: Way) -> None:
    """The whole only when what fails comes after it has got its name."""
    image = image_of(tmp_path, with_bytes(base.read_bytes(), 0, CHUNK))
    with failing(None) as calls:
        difference(base, image, tmp_path / "counted")
    left = []
    for number in range(len(calls.calls)):
        with failing(number, way), pytest.raises((StorageError, Died)):
            difference(base, image, tmp_path / "cow")
        if (tmp_path / "cow").exists():
            left.append(number)
            assert set(model.read_cow(tmp_path / "cow")[1]) == {*range(8), *range(512, 520)}
            (tmp_path / "cow").unlink()
    assert len(calls.calls) >= 8
    assert calls.calls[-2:] == ["link", "fsync"]
    assert left == [len(calls.calls) - 1]


def test_unreadable_input_is_named(tmp_path: Path, base: Path) -> None:
    image = image_of(tmp_path, base.read_bytes())
    with failing(1, Way.RAISE, calls=["preadv"]), pytest.raises(StorageError) as caught:
        difference(base, image, tmp_path / "cow")
    assert caught.value.where == str(image)
    assert not (tmp_path / "cow").exists()


# -- the comparing itself -------------------------------------------------------------------------


def test_parts_of_disks_are_compared(tmp_path: Path, base: Path) -> None:
    """From any page to any byte, also across chunks and in the middle of one."""
    contents = base.read_bytes()
    image = image_of(tmp_path, with_bytes(contents, 4096, CHUNK - 1, CHUNK, 2 * CHUNK))
    with files.open_disk(base) as left, files.open_disk(image) as right:
        comparer = Comparer(RawLayer(left), RawLayer(right), task=SILENT.task("compare"))
        assert list(comparer.differing(8192, 2 * CHUNK)) == [(CHUNK - 4096, CHUNK + 4096)]
        assert list(comparer.differing(4096, 4097)) == [(4096, 4097)]
        assert list(comparer.differing(0, 4096)) == []
        assert list(comparer.differing(CHUNK, CHUNK)) == []


def test_ranges_that_touch_are_joined() -> None:
    assert list(joined([])) == []
    assert list(joined([(0, 1), (1, 2), (3, 4), (4, 9)])) == [(0, 2), (3, 9)]


def test_tally_counts_each_page_once() -> None:
    tally = Tally()
    ranges = [(0, 512), (1024, 4096), (4096, 4608), (8191, 12289), (12290, 12300)]
    assert list(tally.count(ranges)) == ranges
    assert (tally.ranges, tally.bytes, tally.pages) == (5, 512 + 3072 + 512 + 4098 + 10, 4)
