"""What is known of bases after a restore that was cut off: never more than is true, whoever wrote to them meanwhile.

A restore dies at every call that moves something. Then somebody writes to bases, wherever they lie, with or without
putting their times back; the next restore ends it, and what is recorded after that is what the guest sees.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.faults import Died, Way, failing
from tests.kit.put_back import PutBack
from tests.kit.resets import reset
from tests.kit.restorable import HOME, ROOT, VAR, Broken
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.exporting import export_named
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.restoring.planning import Wish
from umldisk.ops.restoring.restore import is_unfinished
from umldisk.ops.running.drives_at_start import finish_interrupted

pytestmark = pytest.mark.slow

_RECORDED = {"root": ROOT, "var": VAR, "home": HOME}
_CALLS = ("mkdir", "rename", "rmdir", "unlink")
_MOST_CALLS = 80
_STAYING = Wish()
"""Root's and home's bases stay, and root's is away for a while; var comes from its checkpoint."""
_REPLACED = Wish(drives=("root", "var", "home"))
"""All come from checkpoints."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> PutBack:
    return PutBack(tmp_path_factory.mktemp("scene"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing for real would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def _cut_off(scene: PutBack, wish: Wish | None) -> Iterator[int]:
    """Let a fresh restore, or without a wish a reset, die at one call after the other, once it is committed."""
    broken = scene.broken
    for after in range(_MOST_CALLS):
        scene.put_back()
        broken.take("root", "home")  # putting back changes how files look: here their bases become known again
        try:
            with failing(after, Way.DEAD, calls=_CALLS):
                if wish is None:
                    reset(broken, "root", "home", now=True, glance=True)
                else:
                    broken.restore(wish)
            return
        except Died:
            if is_unfinished(broken.guest):
                yield after
    pytest.fail("a restore makes more calls than that")


def _write(broken: Broken, drive: Drive, *, unnoticed: bool) -> None:
    """Write to the base that the drive will have, wherever that lies now."""
    coming = [path for path in broken.directory.glob(f".re*/new/{drive.file_name}") if path.exists()]
    (path,) = coming or [broken.directory / drive.file_name]
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(300 << 10)
        file.write(b"meanwhile")
    if unnoticed:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _take_all(broken: Broken, out: Path) -> dict[str, bool]:
    """Let the guest write to every drive and record them; return which were read as a whole.

    What is recorded must be what the guest sees.
    """
    seen = {name: broken.write(drive, 77, word="after") for name, drive in _RECORDED.items()}
    report = take_checkpoint(broken.site, broken.name, list(_RECORDED), clock=broken.clock)
    for taken in report.drives:
        export_named(broken.site, broken.name, str(taken.number), out)
        assert out.read_bytes() == seen[taken.drive], taken.drive
        out.unlink()
    return {taken.drive: taken.read_whole for taken in report.drives}


@pytest.mark.parametrize("unnoticed", [False, True])
@pytest.mark.parametrize("wish", [_STAYING, _REPLACED])
def test_whoever_writes_to_a_base_meanwhile_is_recorded(
    wish: Wish, unnoticed: bool, scene: PutBack, tmp_path: Path
) -> None:
    cuts = 0
    for _after in _cut_off(scene, wish):
        cuts += 1
        for drive in _RECORDED.values():
            _write(scene.broken, drive, unnoticed=unnoticed)
        report = scene.broken.restore(wish)
        assert report.resumed
        assert {note.split(":")[0] for note in report.notes} == _RECORDED.keys()
        assert _take_all(scene.broken, tmp_path / "out") == dict.fromkeys(_RECORDED, True)
    assert cuts > 10


def test_where_nobody_did_what_is_sure_stays_known(scene: PutBack, tmp_path: Path) -> None:
    """A base that an earlier run moved is not sure, until that run wrote down what it is."""
    read_whole = []
    for _after in _cut_off(scene, _STAYING):
        assert scene.broken.restore(_STAYING).resumed
        read_whole.append(_take_all(scene.broken, tmp_path / "out"))
    assert read_whole[0] == read_whole[-1] == dict.fromkeys(_RECORDED, False)
    assert not any(one["home"] for one in read_whole)  # it is never moved
    assert {one["var"] for one in read_whole} == {one["root"] for one in read_whole} == {False, True}


@pytest.mark.parametrize("unnoticed", [False, True])
def test_a_start_that_finishes_a_reset_does_not_vouch_for_more(unnoticed: bool, scene: PutBack, tmp_path: Path) -> None:
    cuts = 0
    for _after in _cut_off(scene, None):
        cuts += 1
        for drive in (ROOT, HOME):
            _write(scene.broken, drive, unnoticed=unnoticed)
        finish_interrupted(scene.broken.site, scene.broken.guest)
        assert not is_unfinished(scene.broken.guest)
        read_whole = _take_all(scene.broken, tmp_path / "out")
        assert (read_whole["root"], read_whole["home"]) == (True, True)
    assert cuts > 5
