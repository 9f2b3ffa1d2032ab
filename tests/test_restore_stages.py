"""A restore that dies at every call that changes something: nothing is lost, and the next one ends it.

What holds at each moment, and is looked at after each death:

- every old file is somewhere as a whole, in the guest's directory, among what leaves, or in the evidence;
- where the root's base is, there are all old disks or all new ones, never some of both;
- the next restore ends with the state that was asked for, one directory of evidence, and nothing left over.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.faults import Died, Way, failing
from tests.kit.put_back import PutBack
from tests.kit.restorable import HOME, ROOT, VAR
from umldisk.errors import UmldiskError
from umldisk.ops.restoring import restore
from umldisk.ops.restoring.planning import Wish
from umldisk.ops.restoring.reporting import RestoreReport
from umldisk.ops.restoring.restore import is_unfinished, restore_guest

_CALLS = ("fchmod", "fchown", "fsync", "ftruncate", "link", "mkdir", "pwrite", "rename", "rmdir", "unlink")
_EXCHANGING = ("fchmod", "fchown", "fsync", "mkdir", "rename", "rmdir", "unlink")
_MOST_CALLS = 400
_LEAVING = ("root_cow", "var_cow", "var_fs", "home_cow", "swap_fs")


class _Scene(PutBack):
    def restore(self, wish: Wish = Wish()) -> RestoreReport:  # noqa: B008
        return restore_guest(self.broken.site, self.broken.name, wish, clock=self.broken.clock)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> _Scene:
    return _Scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing for real would take most of the time; that it is called is what counts."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def _look_after_death(scene: _Scene) -> None:
    _require_nothing_lost(scene)
    now = scene.present
    if "root_fs" in now:
        is_old = {name: now.get(name) == scene.old[name] for name in _LEAVING}
        assert len(set(is_old.values())) == 1, is_old
        assert all(name in now for name in scene.old)


def _require_nothing_lost(scene: _Scene) -> None:
    places = [scene.broken.directory, scene.broken.directory / ".restored" / "evidence", *scene.evidence]
    for name, data in scene.old.items():
        found = [place / name for place in places if (place / name).is_file()]
        found += [p / name for p in scene.broken.directory.glob(".re*/new") if (p / name).is_file()]
        assert any(path.read_bytes() == data for path in found), name


def _require_restored(scene: _Scene, night: int = 2) -> None:
    broken = scene.broken
    assert broken.seen(VAR) == broken.nights[night]
    assert broken.seen(ROOT) == broken.bases["root"]
    assert broken.seen(HOME) == broken.bases["home"]
    assert broken.names == scene.old.keys()
    assert not is_unfinished(broken.guest)


def _require_evidence(kept: Path, old: dict[str, bytes]) -> None:
    assert {name: (kept / name).read_bytes() for name in _LEAVING} == {name: old[name] for name in _LEAVING}
    done = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=kept, check=False)
    assert done.returncode == 0
    assert sorted(os.listdir(kept)) == sorted([*_LEAVING, "evidence.json", "records.jsonl", "SHA256SUMS"])
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o400}
    assert kept.stat().st_mode & 0o777 == 0o500


@contextlib.contextmanager
def _dying(after: int, calls: tuple[str, ...]) -> Iterator[None]:
    with failing(after, Way.DEAD, calls=calls):
        yield


def _deaths(scene: _Scene, calls: tuple[str, ...], wish: Wish = Wish(), step: int = 1) -> Iterator[int]:  # noqa: B008
    """Let a fresh restore die at one call after the other; stop when one gets through."""
    for after in range(0, _MOST_CALLS, step):
        scene.put_back()
        try:
            with _dying(after, calls):
                scene.restore(wish)
            return
        except Died:
            yield after
    pytest.fail("a restore makes more calls than that")


@pytest.mark.slow
def test_wherever_a_restore_dies_the_next_one_ends_it(scene: _Scene) -> None:
    outcomes = set()
    for _after in _deaths(scene, _CALLS):
        _look_after_death(scene)
        committed = is_unfinished(scene.broken.guest)
        if not committed and "root_cow" in scene.present:
            unchanged = all(scene.present.get(name) == data for name, data in scene.old.items())
            outcomes.add("nothing happened" if unchanged else "done")
        report = scene.restore()
        assert report.resumed == committed
        outcomes |= {"taken up"} if committed else set()
        _require_restored(scene)
        _require_evidence(scene.evidence[0], scene.old)
    assert outcomes >= {"nothing happened", "taken up"}


def test_dying_again_and_again_ends_all_the_same(scene: _Scene) -> None:
    """Each run gets a few calls further than the one before, through the whole of the exchange."""
    scene.put_back()
    runs = 0
    for after in range(20, _MOST_CALLS):
        runs += 1
        try:
            with _dying(after, _EXCHANGING):
                report = scene.restore()
            break
        except Died:
            _look_after_death(scene)
    assert runs > 3
    _require_restored(scene)
    assert len(scene.evidence) == 1
    _require_evidence(scene.evidence[0], scene.old)
    assert report.guest == "blackdance"


def test_another_wish_follows_what_was_begun(scene: _Scene) -> None:
    commits = 0
    for _after in _deaths(scene, ("rename",)):
        if not is_unfinished(scene.broken.guest):
            continue
        commits += 1
        report = scene.restore(Wish(number=1))
        assert not report.resumed
        _require_restored(scene, night=1)
        first, second = scene.evidence
        _require_evidence(first, scene.old)
        assert (second / "var_fs").read_bytes() == scene.broken.nights[2]
    assert commits > 5


def test_a_rehearsal_tells_what_waits_and_leaves_it(scene: _Scene) -> None:
    for _after in _deaths(scene, ("rename",)):
        if is_unfinished(scene.broken.guest):
            break
    before = scene.broken.files()
    options = restore.RestoreOptions(dry_run=True)
    report = restore_guest(scene.broken.site, "blackdance", options=options)
    assert report.resumed
    assert report.dry_run
    assert [file.name for file in report.kept] == list(_LEAVING)
    assert scene.broken.files() == before
    scene.restore()
    _require_restored(scene)


@pytest.mark.slow
@pytest.mark.parametrize("way", [Way.RAISE, Way.FULL])
def test_a_call_that_fails_is_an_error_and_the_next_restore_goes_on(way: Way, scene: _Scene) -> None:
    failures = 0
    for after in range(0, _MOST_CALLS, 3):
        scene.put_back()
        error = None
        with failing(after, way, calls=_CALLS) as tally:
            try:
                scene.restore()
            except UmldiskError as raised:
                error = raised
        if tally.struck is None:
            break
        if error is None:  # a failure that does not matter, such as of a clean-up
            _require_restored(scene)
            continue
        failures += 1
        _require_nothing_lost(scene)
        scene.restore()
        _require_restored(scene)
        _require_evidence(scene.evidence[0], scene.old)
    assert failures > 20


def test_a_report_that_cannot_be_read_does_not_hold_up_the_end(scene: _Scene) -> None:
    for _after in _deaths(scene, ("rename",)):
        if is_unfinished(scene.broken.guest):
            break
    stage = next(scene.broken.directory.glob(".re*"))
    (stage / "made.json").write_text("[]")
    report = scene.restore()
    assert report.resumed
    assert report.kept == ()
    _require_restored(scene)


def test_checkpoints_that_are_gone_by_then_are_not_needed(scene: _Scene) -> None:
    for _after in _deaths(scene, ("rename",)):
        if is_unfinished(scene.broken.guest):
            break
    shutil.rmtree(Path(scene.broken.site.directory, "store", "chunks"))
    for index in Path(scene.broken.site.directory, "store", "guests", "blackdance").glob("*.caibx"):
        index.unlink()
    assert scene.restore().resumed
    _require_restored(scene)
