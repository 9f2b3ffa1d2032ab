"""What stands before a COW file may be opened: its backing file, its length, its ancestors."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit import model
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.file import Access, CowFile
from umldisk.cow.layers import CowLayer
from umldisk.errors import DataError, NoInputError, UmldiskError

BASE = b"".join(bytes([65 + n % 26]) * 512 for n in range(24))
CHANGES: dict[int, bytes | None] = {1: b"one" * 200, 9: None, 23: b"end" * 200}


def pair(
    directory: Path,
    *,
    dialect: Dialect = Dialect.V3,
    size_bytes: int = len(BASE),
    changes: dict[int, bytes | None] = CHANGES,
) -> tuple[Path, Path]:
    """Write a COW file and its backing file."""
    backing = model.write_image(directory / "base", BASE[:size_bytes])
    cow = directory / "cow"
    model.write_cow(cow, backing, changes, dialect=dialect)
    return cow, backing


VIEW = model.merged(BASE, CHANGES)


def test_opening_and_what_is_open(tmp_path: Path) -> None:
    cow, backing = pair(tmp_path)
    with CowFile.open(cow) as file:
        assert (file.path, file.backing.disk.path) == (str(cow), str(backing))
        assert file.header.dialect is Dialect.V3
        assert file.geometry.size_bytes == len(BASE)
        assert file.read(0, len(BASE)) == VIEW


def test_a_failed_opening_leaves_nothing_open(tmp_path: Path) -> None:
    cow, backing = pair(tmp_path)
    os.utime(backing, (1, 1))
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(DataError):
            CowFile.open(cow)
    assert os.listdir("/proc/self/fd") == before


def test_a_missing_backing_file_is_no_input(tmp_path: Path) -> None:
    cow, backing = pair(tmp_path)
    backing.unlink()
    with pytest.raises(NoInputError) as caught:
        CowFile.open(cow)
    assert (caught.value.exit_code, caught.value.where) == (66, str(backing))


@pytest.mark.parametrize("size_bytes", [0, len(BASE) - 1, len(BASE) + 1])
@pytest.mark.parametrize("ignore_mtime", [False, True])
def test_a_backing_file_of_another_size_is_always_refused(tmp_path: Path, size_bytes: int, ignore_mtime: bool) -> None:
    cow, backing = pair(tmp_path)
    status = backing.stat()
    os.truncate(backing, size_bytes)
    os.utime(backing, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="another size") as caught:
        CowFile.open(cow, access=Access(ignore_mtime=ignore_mtime))
    assert (caught.value.expected, caught.value.found) == (len(BASE), size_bytes)


def test_an_mtime_counts_in_whole_seconds_of_32_bits(tmp_path: Path) -> None:
    cow, backing = pair(tmp_path)
    seconds = backing.stat().st_mtime_ns // 1_000_000_000
    for nanoseconds in (0, 999_999_999):
        os.utime(backing, ns=(0, seconds * 1_000_000_000 + nanoseconds))
        CowFile.open(cow).close()
    os.utime(backing, (0, seconds + 1))
    with pytest.raises(DataError, match="changed after") as caught:
        CowFile.open(cow)
    assert (caught.value.expected, caught.value.found) == (f"mtime {seconds}", f"mtime {seconds + 1}")
    assert "rebase -u" in str(caught.value.hint)
    with CowFile.open(cow, access=Access(ignore_mtime=True)) as file:
        assert file.read(0, len(BASE)) == VIEW


def test_another_place_of_the_backing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cow, backing = pair(tmp_path)
    (tmp_path / "moved").mkdir()
    backing.rename(tmp_path / "moved" / "base")
    monkeypatch.chdir(tmp_path / "moved")
    with CowFile.open(cow, "base") as file:
        assert file.read(0, len(BASE)) == VIEW


def test_a_relative_path_in_the_header_is_seen_from_the_cow_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cow, backing = pair(tmp_path)
    with cow.open("r+b") as file:
        file.seek(32)
        file.write(b"base\0")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to("../cow")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with CowFile.open("link") as opened_file:
        assert opened_file.backing.disk.identity.inode == backing.stat().st_ino


def cut(cow: Path, length: int) -> None:
    os.truncate(cow, length)


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("place", ["bitmap", "data"])
def test_a_cut_file_is_refused_and_on_request_read_as_uml_does(tmp_path: Path, dialect: Dialect, place: str) -> None:
    mapped = 24 if dialect.placement is not Placement.V1_V2 else 24 - 24 % 8
    cow, _backing = pair(tmp_path, dialect=dialect)
    with CowFile.open(cow) as file:
        geometry = file.geometry
    assert geometry.mapped_sectors == mapped
    lost_sectors = (9, 23) if place == "bitmap" else (23,)
    cut(cow, geometry.bitmap_offset + 1 if place == "bitmap" else geometry.data_offset + 10 * 512 + 7)
    kept = {sector: data for sector, data in CHANGES.items() if sector not in lost_sectors}
    if place == "bitmap":
        kept[1] = None  # the bit is there, the data is not
    else:
        kept[23] = None
    with pytest.raises(DataError, match="cut off") as caught:
        CowFile.open(cow)
    assert caught.value.exit_code == 65
    assert "--accept-truncated" in str(caught.value.hint)
    with CowFile.open(cow, access=Access(accept_truncated=True)) as file:
        assert file.read(0, len(BASE)) == model.merged(BASE, kept)


@pytest.mark.parametrize("dialect", [Dialect.V1_LITTLE, Dialect.V2, Dialect.QEMU_32, Dialect.V3])
def test_a_file_that_ends_after_its_last_changed_sector_is_whole(tmp_path: Path, dialect: Dialect) -> None:
    cow, _backing = pair(tmp_path, dialect=dialect, changes={1: b"x" * 512})
    with CowFile.open(cow) as file:
        end = file.geometry.data_offset + 1024
    cut(cow, end)
    with CowFile.open(cow) as file:
        assert file.read(0, len(BASE)) == model.merged(BASE, {1: b"x" * 512})
    cut(cow, end - 1)
    with pytest.raises(DataError, match="before the data of a changed sector") as caught:
        CowFile.open(cow)
    assert caught.value.expected == "data of sector 1"


def test_bits_past_the_end_of_the_disk_count_for_nothing(tmp_path: Path) -> None:
    cow, _backing = pair(tmp_path, size_bytes=11 * 512 - 100, changes={10: b"x" * 512})
    with cow.open("r+b") as file:
        file.seek(8192 + 1)
        assert file.read(1) == b"\x04"
        file.seek(8192 + 1)
        file.write(b"\xfc")
    with CowFile.open(cow) as opened_file:
        assert [tuple(run) for run in opened_file.runs()] == [(10, 1)]
        assert opened_file.layer.changed_sectors() == 1
        assert opened_file.read(0, 1 << 20) == model.merged(BASE[: 11 * 512 - 100], {10: b"x" * 512})


def test_bytes_after_the_end_of_the_data_count_for_nothing(tmp_path: Path) -> None:
    cow, _backing = pair(tmp_path)
    with cow.open("ab") as file:
        file.write(b"the kernel writes the last sector whole")
    with CowFile.open(cow) as opened_file:
        assert opened_file.read(0, 1 << 20) == VIEW


def test_without_its_backing_file_a_layer_still_knows_its_bitmap(tmp_path: Path) -> None:
    cow, _backing = pair(tmp_path)
    with ExitStack() as resources, CowFile.open(cow) as file:
        layer = CowLayer(file.layer.disk, file.header, None)
        resources.callback(file.close)
        assert layer.changed_sectors() == 3
        with pytest.raises(UmldiskError, match="not open"):
            layer.read_into(0, memoryview(bytearray(512)))


def test_the_view_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    cow, _backing = pair(tmp_path)
    with CowFile.open(cow) as file:
        with pytest.raises(ValueError, match="whence"):
            file.raw().seek(0, 5)
        for offset, length in [(-1, 1), (0, -1)]:
            with pytest.raises(ValueError, match="negative"):
                file.read(offset, length)


def test_a_chain_deeper_than_any_sane_one_is_refused(tmp_path: Path) -> None:
    below = model.write_image(tmp_path / "base", b"x" * 4096)
    for level in range(65):
        cow = tmp_path / f"{level}.cow"
        model.write_cow(cow, below, {}, size_bytes=4096)
        below = cow
    with pytest.raises(DataError, match="too many COW files"):
        CowFile.open(below)


def make_loop(directory: Path, length: int) -> Path:
    """Let so many COW files stand on each other in a ring."""
    backing = model.write_image(directory / "base", b"x" * 4096)
    cows = [directory / f"{number}.cow" for number in range(length)]
    for number, cow in enumerate(cows):
        model.write_cow(cow, backing, {})
        header, _changes = model.read_cow(cow)
        path = os.fsencode(cows[(number + 1) % length])
        with cow.open("r+b") as file:
            file.seek(32)
            file.write(path.ljust(len(header.backing_path) + 1, b"\0"))
    return cows[0]


@pytest.mark.timeout(5)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_ring_of_cow_files_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(DataError, match="its own backing file"):
        CowFile.open(make_loop(tmp_path, length))


@pytest.mark.timeout(5)
@pytest.mark.parametrize("how", ["symlink", "hardlink"])
def test_a_cow_file_on_itself_by_another_name_is_refused(tmp_path: Path, how: str) -> None:
    cow, _backing = pair(tmp_path)
    other = tmp_path / "other"
    if how == "symlink":
        other.symlink_to(cow.name)
    else:
        other.hardlink_to(cow)
    with pytest.raises(DataError, match="its own backing file"):
        CowFile.open(cow, other)
