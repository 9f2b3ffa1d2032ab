"""A reset that dies at every call that changes something: no mixed disks, nothing half, and the next one ends it.

What holds at each moment, and is looked at after each death:

- where the root's base is, there are all old disks or all new ones, never some of both;
- var, which is not reset, is what it was;
- every old file is somewhere as a whole until the new state is complete, even when nothing will be kept of it;
- the next reset ends with fresh drives and nothing left over, and so does the next start.

Dying is half of a call and nothing after it, within the process; then a whole process that kills itself.
"""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.faults import Died, Way, failing
from tests.kit.put_back import PutBack
from tests.kit.restorable import HOME, ROOT, SWAP, VAR
from umldisk.errors import BusyError, UmldiskError
from umldisk.ops.restoring.reporting import RestoreReport
from umldisk.ops.restoring.restore import is_unfinished, restore_guest
from umldisk.ops.running.drives_at_start import finish_interrupted
from umldisk.ops.running.reset import rebuild, reset_guest

pytestmark = pytest.mark.slow

_CALLS = ("fchmod", "fchown", "fsync", "ftruncate", "link", "mkdir", "pwrite", "rename", "rmdir", "unlink")
_EXCHANGING = ("fchmod", "fchown", "fsync", "mkdir", "rename", "rmdir", "unlink")
_MOST_CALLS = 400
_LEAVING = ("root_cow", "home_cow", "swap_fs")
_STAYING = ("root_fs", "var_cow", "var_fs", "home_fs", "manifest.json")


class _Scene(PutBack):
    def reset(self, *drives: str, now: bool) -> RestoreReport:
        return reset_guest(self.broken.site, self.broken.name, drives, now=now, clock=self.broken.clock)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> _Scene:
    return _Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing for real would take most of the time; that it is called is what counts."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def _look_after_death(scene: _Scene) -> None:
    now = scene.present
    assert {name: now[name] for name in _STAYING if name in now and name != "root_fs"} == {
        name: scene.old[name] for name in _STAYING if name != "root_fs"
    }
    if "root_fs" in now:
        is_old = {now.get(name) == scene.old[name] for name in _LEAVING}
        assert len(is_old) == 1
        assert all(name in now for name in scene.old)
    if is_unfinished(scene.broken.guest):
        _require_nothing_lost(scene)


def _require_nothing_lost(scene: _Scene) -> None:
    directory = scene.broken.directory
    places = [directory, *directory.glob(".re*/evidence"), *directory.glob(".re*/new"), *scene.evidence]
    for name, data in scene.old.items():
        found = [place / name for place in places if (place / name).is_file()]
        assert any(path.read_bytes() == data for path in found), name


def _require_reset(scene: _Scene, *drives: str) -> None:
    broken = scene.broken
    assert {name: broken.files()[name] for name in _STAYING} == {name: scene.old[name] for name in _STAYING}
    assert broken.seen(ROOT) == broken.bases["root"]
    if not drives:
        assert broken.seen(HOME) == broken.bases["home"]
        assert b"intruder" not in broken.seen(SWAP)
    assert broken.names == scene.old.keys()
    assert not is_unfinished(broken.guest)


def _require_kept(scene: _Scene, now: bool) -> None:
    """Keep all old files in the first directory of evidence, or none anywhere."""
    if now:
        assert scene.evidence == []
        return
    kept = scene.evidence[0]
    assert {name: (kept / name).read_bytes() for name in _LEAVING} == {name: scene.old[name] for name in _LEAVING}
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=kept, check=False)
    assert done.returncode == 0
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o400}
    assert kept.stat().st_mode & 0o777 == 0o500


def _deaths(scene: _Scene, calls: tuple[str, ...], *, now: bool) -> Iterator[int]:
    """Let a fresh reset die at one call after the other; stop when one gets through."""
    for after in range(_MOST_CALLS):
        scene.put_back()
        try:
            with failing(after, Way.DEAD, calls=calls):
                scene.reset(now=now)
            return
        except Died:
            yield after
    pytest.fail("a reset makes more calls than that")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("now", [False, True])
def test_wherever_a_reset_dies_the_next_one_ends_it(now: bool, scene: _Scene) -> None:
    resumed = set()
    for _after in _deaths(scene, _CALLS, now=now):
        _look_after_death(scene)
        committed = is_unfinished(scene.broken.guest)
        report = scene.reset(now=now)
        assert report.resumed == committed
        resumed.add(committed)
        _require_reset(scene)
        _require_kept(scene, now)
        if committed:
            assert [file.name for file in (report.removed if now else report.kept)] == list(_LEAVING)
    assert resumed == {True, False}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("now", [False, True])
def test_dying_again_and_again_ends_all_the_same(now: bool, scene: _Scene) -> None:
    """Each run gets a few calls further than the one before, through the whole of the exchange."""
    scene.put_back()
    runs = 0
    for after in range(12, _MOST_CALLS):
        runs += 1
        try:
            with failing(after, Way.DEAD, calls=_EXCHANGING):
                scene.reset(now=now)
            break
        except Died:
            _look_after_death(scene)
    assert runs > 3
    _require_reset(scene)
    _require_kept(scene, now)


@pytest.mark.usefixtures("quick")
def test_a_start_ends_it_too(scene: _Scene) -> None:
    """Also one whose own rebuilding was cut off."""
    finished = 0
    for after in range(_MOST_CALLS):
        scene.put_back()
        try:
            with failing(after, Way.DEAD, calls=("rename", "mkdir", "unlink")):
                rebuild(scene.broken.site, scene.broken.guest, ("root",))
            break
        except Died:
            finished += is_unfinished(scene.broken.guest)
        finish_interrupted(scene.broken.site, scene.broken.guest)
        rebuild(scene.broken.site, scene.broken.guest, ("root",))
        _require_reset(scene, "root")
        assert scene.evidence == []
    assert finished > 3


@pytest.mark.usefixtures("quick")
def test_a_start_leaves_a_restore_to_whoever_wanted_it(scene: _Scene) -> None:
    for after in range(_MOST_CALLS):
        scene.put_back()
        try:
            with failing(after, Way.DEAD, calls=("rename",)):
                scene.broken.restore()
        except Died:
            if is_unfinished(scene.broken.guest):
                break
    before = scene.broken.files()
    with pytest.raises(BusyError, match="a restore of this guest was not finished"):
        finish_interrupted(scene.broken.site, scene.broken.guest)
    with pytest.raises(BusyError):
        rebuild(scene.broken.site, scene.broken.guest, ("root",))
    assert scene.broken.files() == before
    report = scene.reset(now=True)  # which has the store, and finishes what was begun first
    assert not report.resumed
    assert scene.broken.seen(VAR) == scene.broken.nights[2]
    assert scene.broken.seen(ROOT) == scene.broken.bases["root"]


@pytest.mark.usefixtures("quick")
def test_a_restore_ends_a_reset_and_goes_on(scene: _Scene) -> None:
    for _after in _deaths(scene, ("rename",), now=True):
        if is_unfinished(scene.broken.guest):
            break
    report = restore_guest(scene.broken.site, "blackdance", clock=scene.broken.clock)
    assert not report.resumed
    assert scene.broken.seen(VAR) == scene.broken.nights[2]
    assert scene.broken.seen(ROOT) == scene.broken.bases["root"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("way", [Way.RAISE, Way.FULL])
def test_a_call_that_fails_is_an_error_and_the_next_reset_goes_on(way: Way, now: bool, scene: _Scene) -> None:
    failures = 0
    for after in range(0, _MOST_CALLS, 3):
        scene.put_back()
        error = None
        with failing(after, way, error=errno.ENOSPC, calls=_CALLS) as tally:
            try:
                scene.reset(now=now)
            except UmldiskError as raised:
                error = raised
        if tally.struck is None:
            break
        if error is None:  # a failure that does not matter, such as of a clean-up
            _require_reset(scene)
            continue
        failures += 1
        _look_after_death(scene)
        scene.reset(now=now)
        _require_reset(scene)
        _require_kept(scene, now)
    assert failures > 10


# -- killed for real --------------------------------------------------------------------------------------------------

_RESET = """
import sys
from tests.kit import restorable
from tests.kit.deadly import die_at
from umldisk.ops.running.reset import reset_guest

die_at(int(sys.argv[2]), "rename", "mkdir", "rmdir")
site = restorable.SmallerSite(sys.argv[1])
reset_guest(site, "blackdance", now=sys.argv[3] == "now", clock=restorable.Clock())
"""
_CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("now", [False, True])
def test_killed_at_any_move_the_next_reset_ends_it(now: bool, scene: _Scene, bare_environment: dict[str, str]) -> None:
    resumed = set()
    for kill_at in range(1, _MOST_CALLS):
        scene.put_back()
        words = [sys.executable, "-c", _RESET, scene.broken.site.directory, str(kill_at), "now" if now else "keep"]
        environment = bare_environment | {"PYTHONPATH": str(_CHECKOUT)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        _look_after_death(scene)
        resumed.add(scene.reset(now=now).resumed)
        _require_reset(scene)
        _require_kept(scene, now)
    assert done.returncode == 0
    assert resumed == {True, False}
