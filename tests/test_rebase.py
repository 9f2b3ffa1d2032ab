"""Another backing file: the view stays, the layout stays, and a killed run is simply run again."""

import os
import shutil
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import READING_CALLS, failing
from tests.kit.rebasing import CHANGED, NEW_MTIME, OLD_MTIME, SIZE, Scene, patterned, seen
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile
from umldisk.cow.header import rewrite
from umldisk.cow.journal import MergeJournal
from umldisk.cow.layers import RawLayer
from umldisk.cow.rebasing import rebase
from umldisk.errors import BusyError, DataError, NoInputError
from umldisk.system import files, locks

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene.set_up(tmp_path)


# -- keeping what is seen -------------------------------------------------------------------------


@every_dialect
def test_pages_that_differ_are_kept(tmp_path: Path, dialect: Dialect) -> None:
    scene = Scene.set_up(tmp_path, dialect)
    report = rebase(scene.cow, scene.new)
    scene.assert_complete()
    assert report.copied_bytes == (len(scene.kept) - len(CHANGED)) * 512
    assert (report.old_backing, report.backing) == (str(scene.old), str(scene.new))
    assert (report.mtime, report.dialect, report.dry_run) == (NEW_MTIME, dialect, False)


@every_dialect
@pytest.mark.parametrize("header_only", [True, False])
def test_layout_stays_to_the_byte(tmp_path: Path, dialect: Dialect, header_only: bool) -> None:
    """Nothing outside path, mtime and what was copied up is different afterwards."""
    scene = Scene.set_up(tmp_path, dialect)
    shutil.copyfile(scene.old, scene.new)
    os.utime(scene.new, (NEW_MTIME, NEW_MTIME))
    before = scene.cow.read_bytes()
    header = model.read_cow(scene.cow, dialect)[0]
    rebase(scene.cow, scene.new, header_only=header_only)
    expected = rewrite(header, backing_path=os.fsencode(scene.new), mtime=NEW_MTIME).raw
    assert len(expected) == dialect.header_bytes
    assert scene.cow.read_bytes() == expected + before[len(expected) :]
    assert seen(scene.cow) == scene.view


def test_dry_run_says_the_same_and_writes_nothing(scene: Scene) -> None:
    before = scene.cow.read_bytes(), scene.cow.stat().st_mtime_ns
    planned = rebase(scene.cow, scene.new, dry_run=True)
    renamed = rebase(scene.cow, scene.new, dry_run=True, header_only=True)
    assert (scene.cow.read_bytes(), scene.cow.stat().st_mtime_ns) == before
    assert planned.dry_run
    assert renamed.dry_run
    assert renamed.copied_bytes == 0
    assert rebase(scene.cow, scene.new).copied_bytes == planned.copied_bytes


def test_old_backing_may_have_moved(scene: Scene, tmp_path: Path) -> None:
    moved = scene.old.rename(tmp_path / "moved")
    with pytest.raises(NoInputError):
        rebase(scene.cow, scene.new)
    report = rebase(scene.cow, scene.new, access=Access(backing=moved))
    assert report.old_backing == str(moved)
    scene.assert_complete()


@pytest.mark.parametrize("name", ["hard link", "symlink"])
def test_another_name_of_the_same_file(scene: Scene, name: str) -> None:
    alias = model.another_name(scene.old, name)
    with failing(None, calls=["preadv"]) as reads:
        report = rebase(scene.cow, alias)
    assert (report.copied_bytes, report.backing) == (0, str(alias))
    assert reads.calls == []
    assert scene.changed() == CHANGED
    assert seen(scene.cow) == scene.view


def test_chain_is_flattened_onto_an_image(scene: Scene, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    model.write_cow(upper, scene.cow, {0: b"U" * 512}, size_bytes=SIZE)
    before = seen(upper)
    rebase(upper, scene.old)
    assert seen(upper) == before
    with CowFile.open(upper) as opened:
        assert isinstance(opened.backing, RawLayer)
    assert set(model.read_cow(upper)[1]) == {0} | model.sectors_of({1, 2, 5}, SIZE)


def test_common_holes_are_not_read(tmp_path: Path) -> None:
    size, place = 1 << 40, 700 << 30
    for name in ("old", "new"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
            file.seek(place)
            file.write(name.encode() * 100)
    model.write_cow(tmp_path / "cow", tmp_path / "old", {5: b"x" * 512})
    with failing(None, calls=READING_CALLS) as reads:
        assert rebase(tmp_path / "cow", tmp_path / "new").copied_bytes == 4096
    assert len(reads.calls) < 200
    with CowFile.open(tmp_path / "cow") as opened:
        assert opened.read(place, 6) == b"oldold"


# -- the header alone -----------------------------------------------------------------------------


def test_header_alone_needs_no_old_backing(scene: Scene) -> None:
    shutil.copyfile(scene.old, scene.new)
    os.utime(scene.new, (NEW_MTIME, NEW_MTIME))
    scene.old.unlink()
    report = rebase(scene.cow, scene.new, header_only=True)
    assert (report.old_backing, report.copied_bytes, report.mtime) == (str(scene.old), 0, NEW_MTIME)
    assert scene.changed() == CHANGED
    assert seen(scene.cow) == scene.view


def test_header_alone_makes_a_touched_backing_fit(scene: Scene) -> None:
    os.utime(scene.old, (5, 5))
    with pytest.raises(DataError):
        seen(scene.cow)
    rebase(scene.cow, scene.old, header_only=True)
    assert seen(scene.cow) == scene.view


@pytest.mark.parametrize("dialect", [Dialect.V1_POWERPC, Dialect.V2_64])
def test_size_of_the_new_backing_tells_look_alikes_apart(tmp_path: Path, dialect: Dialect) -> None:
    """A disk of 4096 bytes can also be read as an empty one with sectors of 4096 bytes."""
    old = model.write_image(tmp_path / "old", bytes(4096))
    cow, new = tmp_path / "cow", tmp_path / "new"
    model.write_cow(cow, old, {1: b"x" * 512}, dialect=dialect)
    old.rename(new)
    with pytest.raises(DataError, match="several ways"):
        seen(cow)
    assert rebase(cow, new, header_only=True).dialect is dialect
    assert seen(cow)[512:1024] == b"x" * 512


def test_header_alone_may_name_a_chain(scene: Scene, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    model.write_cow(upper, scene.old, {0: b"U" * 512})
    with pytest.raises(DataError, match="COW file itself"):
        rebase(upper, scene.cow)
    rebase(upper, scene.cow, header_only=True)
    assert seen(upper) == b"U" * 512 + scene.view[512:]


def test_look_alike_may_name_a_chain(tmp_path: Path) -> None:
    old = model.write_image(tmp_path / "old", b"o" * 4096)
    model.write_cow(tmp_path / "lower", old, {0: b"L" * 512})
    model.write_cow(tmp_path / "upper", old, {1: b"U" * 512}, dialect=Dialect.V2_64)
    report = rebase(tmp_path / "upper", tmp_path / "lower", header_only=True)
    assert report.dialect is Dialect.V2_64
    view = seen(tmp_path / "upper", Access(dialect=Dialect.V2_64))
    assert view == b"L" * 512 + b"U" * 512 + b"o" * 3072


def test_chain_must_stand_itself(scene: Scene, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    model.write_cow(upper, scene.old, {})
    with files.open_disk(scene.old, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=True)
        with pytest.raises(BusyError):
            rebase(upper, scene.cow, header_only=True)
    os.utime(scene.old, (5, 5))
    with pytest.raises(DataError, match="changed after"):
        rebase(upper, scene.cow, header_only=True)
    rebase(upper, scene.cow, header_only=True, access=Access(ignore_mtime=True))


@pytest.mark.parametrize("header_only", [True, False])
def test_other_size_is_refused(scene: Scene, header_only: bool) -> None:
    before = scene.cow.read_bytes()
    with scene.new.open("r+b") as file:
        file.truncate(SIZE - 1)
    with pytest.raises(DataError, match="another size") as caught:
        rebase(scene.cow, scene.new, header_only=header_only)
    assert f"expected {SIZE}, found {SIZE - 1}" in caught.value.line()
    assert scene.cow.read_bytes() == before


@pytest.mark.parametrize("header_only", [True, False])
@pytest.mark.parametrize("name", model.NAMES)
def test_itself_is_refused(scene: Scene, name: str, header_only: bool) -> None:
    scene.old.unlink()
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="its own backing"):
        rebase(scene.cow, model.another_name(scene.cow, name), header_only=header_only)
    assert scene.cow.read_bytes() == before


def test_loop_is_refused(scene: Scene, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    model.write_cow(upper, scene.cow, {}, size_bytes=SIZE)
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="its own backing"):
        rebase(scene.cow, upper, header_only=True)
    assert scene.cow.read_bytes() == before


@pytest.mark.parametrize("header_only", [True, False])
def test_path_that_does_not_fit_is_refused_first(tmp_path: Path, header_only: bool) -> None:
    scene = Scene.set_up(tmp_path, Dialect.V1_LITTLE)
    directory = tmp_path / ("d" * 250)
    directory.mkdir()
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="too long"):
        rebase(scene.cow, scene.new.rename(directory / "new"), header_only=header_only)
    assert scene.cow.read_bytes() == before


# -- rules ----------------------------------------------------------------------------------------


def test_touched_old_backing_is_refused_unless_ignored(scene: Scene) -> None:
    os.utime(scene.old, (5, 5))
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="changed after"):
        rebase(scene.cow, scene.new)
    assert scene.cow.read_bytes() == before
    rebase(scene.cow, scene.new, access=Access(ignore_mtime=True))
    scene.assert_complete()


@pytest.mark.parametrize("mtime", [OLD_MTIME, NEW_MTIME])
def test_old_backing_that_does_not_fit_is_not_passed_over(scene: Scene, tmp_path: Path, mtime: int) -> None:
    """The one that the header names is there and fits, but is not the one that was asked for."""
    other = model.write_image(tmp_path / "other", patterned(b"any"))
    os.utime(other, (5, 5))
    os.utime(scene.new, (mtime, mtime))
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="changed after") as caught:
        rebase(scene.cow, scene.new, access=Access(backing=other))
    assert caught.value.where == str(other)
    assert scene.cow.read_bytes() == before


@pytest.mark.parametrize("header_only", [True, False])
@pytest.mark.parametrize("name", ["cow", "new", "old"])
def test_files_in_use_are_refused(scene: Scene, tmp_path: Path, name: str, header_only: bool) -> None:
    with files.open_disk(tmp_path / name, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=True)
        if header_only and name == "old":
            rebase(scene.cow, scene.new, header_only=True)
            return
        with pytest.raises(BusyError):
            rebase(scene.cow, scene.new, access=Access(lock=False), header_only=header_only)
    assert scene.changed() == CHANGED


@pytest.mark.parametrize("header_only", [True, False])
@pytest.mark.parametrize("name", ["new", "old"])
def test_unfinished_merges_come_first(scene: Scene, tmp_path: Path, name: str, header_only: bool) -> None:
    half = tmp_path / name
    journal = MergeJournal(str(scene.cow), half.stat().st_ino, SIZE, 1, reset=False)
    journals.write(str(half), journal)
    before = scene.cow.read_bytes()
    with pytest.raises(DataError, match="unfinished") as caught:
        rebase(scene.cow, scene.new, header_only=header_only)
    assert f"umldisk merge -d {scene.cow}" in str(caught.value.hint)
    assert scene.cow.read_bytes() == before


def test_adopted_sibling_waits_for_the_merge(scene: Scene) -> None:
    """When that merge is finished, it writes this COW file's header too."""
    inode = scene.old.stat().st_ino
    journal = MergeJournal("/other/cow", inode, SIZE, 1, reset=False, adopted=(str(scene.cow),))
    journals.write(str(scene.old), journal)
    with pytest.raises(DataError, match="unfinished"):
        rebase(scene.cow, scene.new, header_only=True)
    stranger = MergeJournal("/other/cow", inode, SIZE, 1, reset=False)
    journals.write(str(scene.old), stranger)
    rebase(scene.cow, scene.new, header_only=True)
