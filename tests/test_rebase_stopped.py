"""A rebase that was stopped: the view holds at every moment, and the same call completes it."""

import contextlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import Died, Way, failing
from tests.kit.rebasing import NEW_MTIME, OLD_MTIME, Scene, seen
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access
from umldisk.cow.header import rewrite
from umldisk.cow.journal import HeaderJournal
from umldisk.cow.rebasing import rebase
from umldisk.errors import StorageError


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene.set_up(tmp_path)


def stopped(scene: Scene, number: int, way: Way, **options: bool) -> bool:
    """Run until the numbered call fails; tell whether it got that far."""
    with failing(number, way) as tally:
        try:
            rebase(scene.cow, scene.new, **options)  # type: ignore[arg-type]
        except (Died, StorageError):
            assert tally.struck
    return tally.struck is not None


@pytest.mark.parametrize(
    ("way", "dialect"),
    [*((way, Dialect.V3) for way in (Way.DEAD, Way.FULL, Way.TORN, Way.RAISE)), (Way.DEAD, Dialect.V1_BIG)],
)
def test_stopped_anywhere_the_same_call_completes_it(tmp_path: Path, dialect: Dialect, way: Way) -> None:
    for number in range(1000):
        scene = Scene.set_up(tmp_path, dialect)
        went_on = stopped(scene, number, way)
        assert seen(scene.cow) == scene.view
        rebase(scene.cow, scene.new)
        scene.assert_complete()
        if not went_on:
            break
    assert number >= 15
    assert sorted(os.listdir(tmp_path)) == ["cow", "new", "old"]


@pytest.mark.parametrize("header_only", [True, False])
def test_killed_twice_the_same_call_still_completes_it(tmp_path: Path, header_only: bool) -> None:
    """The header may be torn by the first and its journal be needed by the second."""
    calls = 40 if header_only else 60
    for number in range(calls):
        scene = Scene.set_up(tmp_path)
        if not stopped(scene, number, Way.DEAD, header_only=header_only):
            break
        torn = scene.cow.read_bytes(), journals.read(str(scene.cow))
        if torn[1] is None:
            continue
        for again in range(calls):
            scene.cow.write_bytes(torn[0])
            journals.write(str(scene.cow), torn[1])
            went_on = stopped(scene, again, Way.DEAD, header_only=header_only)
            rebase(scene.cow, scene.new, header_only=header_only)
            assert journals.read(str(scene.cow)) is None
            assert model.read_cow(scene.cow)[0].mtime == NEW_MTIME
            if not header_only:
                scene.assert_complete()
            if not went_on:
                break
    assert number >= 4


def test_stopped_run_is_completed_when_it_said_where_the_old_backing_is(tmp_path: Path) -> None:
    """Once the header names the new file, the old one fits no more and need not be there."""
    for number in range(1000):
        scene = Scene.set_up(tmp_path)
        access = Access(backing=scene.old.rename(tmp_path / "moved"))
        with failing(number, Way.DEAD) as tally, contextlib.suppress(Died):
            rebase(scene.cow, scene.new, access=access)
        rebase(scene.cow, scene.new, access=access)
        scene.assert_complete()
        if tally.struck is None:
            break
    assert number >= 15
    (tmp_path / "moved").unlink()
    for again in (access, replace(access, ignore_mtime=True)):
        assert rebase(scene.cow, scene.new, access=again).copied_bytes == 0
        scene.assert_complete()


@pytest.mark.parametrize("access", [Access(), Access(ignore_mtime=True)])
def test_old_backing_that_fits_is_believed_though_the_header_names_the_new(scene: Scene, access: Access) -> None:
    """The header was switched by hand, wrongly: with both files at hand the view can be had back."""
    rebase(scene.cow, scene.new, header_only=True)
    assert seen(scene.cow) != scene.view
    if not access.ignore_mtime:
        os.utime(scene.old, (NEW_MTIME, NEW_MTIME))
    rebase(scene.cow, scene.new, access=replace(access, backing=scene.old))
    scene.assert_complete()


@pytest.mark.parametrize("dialect", [Dialect.V1_POWERPC, Dialect.V2_64])
def test_completed_switch_of_a_look_alike_needs_no_old_backing(tmp_path: Path, dialect: Dialect) -> None:
    """A disk of 4096 bytes can also be read as an empty one with sectors of 4096 bytes."""
    old, new = (model.write_image(tmp_path / name, bytes(4096)) for name in ("old", "new"))
    model.write_cow(tmp_path / "cow", old, {}, dialect=dialect)
    access = Access(backing=old.rename(tmp_path / "moved"))
    for _again in range(2):
        assert rebase(tmp_path / "cow", new, access=access).dialect is dialect
    (tmp_path / "moved").unlink()
    assert rebase(tmp_path / "cow", new, access=access).backing == str(new)


def unfinished_switch(scene: Scene) -> None:
    """Leave the header torn between OLD and NEW, with its journal, and all pages kept."""
    rebase(scene.cow, scene.new)
    new = model.read_cow(scene.cow)[0].raw
    old = rewrite(model.read_cow(scene.cow)[0], backing_path=os.fsencode(scene.old), mtime=OLD_MTIME).raw
    journals.write(str(scene.cow), HeaderJournal(old=old.hex(), new=new.hex()))
    with scene.cow.open("r+b") as file:
        file.write(new[:10] + old[10:])


@pytest.mark.parametrize("header_only", [True, False])
def test_other_goal_after_an_unfinished_switch(scene: Scene, tmp_path: Path, header_only: bool) -> None:
    unfinished_switch(scene)
    third = tmp_path / "third"
    shutil.copyfile(scene.new, third)
    rebase(scene.cow, third, header_only=header_only)
    assert model.read_cow(scene.cow)[0].backing_path == os.fsencode(third)
    assert journals.read(str(scene.cow)) is None
    assert seen(scene.cow) == scene.view


@pytest.mark.parametrize("header_only", [True, False])
def test_dry_run_leaves_an_unfinished_switch_alone(scene: Scene, header_only: bool) -> None:
    unfinished_switch(scene)
    before = scene.cow.read_bytes()
    report = rebase(scene.cow, scene.new, header_only=header_only, dry_run=True)
    assert (report.copied_bytes, report.mtime) == (0, NEW_MTIME)
    assert scene.cow.read_bytes() == before
    assert journals.read(str(scene.cow)) is not None
