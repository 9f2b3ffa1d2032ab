"""A take that is stopped anywhere: nothing that was recorded is lost, and nothing untrue is believed afterwards."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.faults import Died, Way, failing
from tests.kit.memory_store import MemoryStore
from tests.kit.nights import BASE, MERGE, REGION, Scene, sector, take
from umldisk.checkpoint import history
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.recording import Why
from umldisk.cow.inplace import merge_into_backing
from umldisk.errors import StorageError, UmldiskError
from umldisk.ops.checkpoints.take_report import TakeOptions


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, BASE)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("way", [Way.DEAD, Way.RAISE])
def test_stopped_anywhere_nothing_that_was_recorded_is_lost(tmp_path: Path, way: Way, merge: bool) -> None:
    """At each write of the process in turn, those of a merge included; then the user runs it again."""
    for number in range(1000):
        scene = Scene(tmp_path / str(number), BASE)
        place = str(scene.directory / "store")
        take(scene, DirectoryStore(place), MERGE)
        scene.write_night(sector(3) | sector(REGION // 512 + 9) | {4: None})
        first, second = BASE, scene.view
        went_on = stopped(scene, place, number, way, merge=merge)
        store = DirectoryStore(place)
        chain = history.verify_chain(store, None, "g")
        assert len(chain) in (1, 2)
        assert scene.as_files_are() == second
        scene.assert_base_state_is_true(store)
        again = take(scene, store, TakeOptions(merge=merge))
        assert again.number == len(chain) + 1
        for recorded, image in enumerate([first, *[second] * len(chain)], start=1):
            scene.assert_recorded(store, recorded, image)
        assert scene.assert_base_state_is_true(store)
        assert scene.as_files_are() == second
        if not went_on:
            break
    assert number >= 20


def stopped(scene: Scene, place: str, number: int, way: Way, *, merge: bool) -> bool:
    """Take until the numbered call fails; tell whether it got that far."""
    store = DirectoryStore(place)  # which lives on after the fault: what it cleans up at its end does not count
    with failing(number, way) as tally:
        try:
            take(scene, store, TakeOptions(merge=merge))
        except (Died, UmldiskError):
            assert tally.struck
    return tally.struck is not None


def test_an_interrupted_merge_that_the_user_finishes_is_seen_as_a_change(scene: Scene, store: MemoryStore) -> None:
    take(scene, store)
    scene.write_night(dict.fromkeys(range(100, 400), b"z" * 512))
    for number in range(100):
        with failing(number, Way.DEAD) as tally, pytest.raises(Died):
            merge_into_backing(scene.cow)
        if os.path.exists(f"{scene.backing}.umldisk-journal") and "pwrite" in str(tally.struck):
            break
    half = take(scene, store)
    assert half.why is Why.TOUCHED
    assert scene.assert_base_state_is_true(store)
    merge_into_backing(scene.cow)
    assert not scene.assert_base_state_is_true(store)
    last = take(scene, store)
    assert last.why is Why.TOUCHED
    for number in (2, 3):
        scene.assert_recorded(store, number, scene.view)
    assert scene.assert_base_state_is_true(store)


@pytest.mark.parametrize("merge", [False, True])
def test_a_store_that_fails_at_any_request_leaves_a_history_that_goes_on(tmp_path: Path, merge: bool) -> None:
    for number in range(1000):
        scene = Scene(tmp_path / str(number), BASE)
        store = Failing()
        take(scene, store, MERGE)
        scene.write_night(sector(3) | sector(900))
        store.left = number
        with suppress(StorageError):
            take(scene, store, TakeOptions(merge=merge))
        went_on, store.left = store.left < 0, None
        view = scene.view
        taken = take(scene, store, TakeOptions(merge=merge))
        scene.assert_recorded(store, taken.number or 0, view)
        assert scene.assert_base_state_is_true(store)
        if not went_on:
            break
    assert number >= 8


class Failing(MemoryStore):
    """A store whose connection breaks at a request."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self._counting = threading.Lock()

    def _count(self) -> None:
        with self._counting:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise StorageError("the connection broke")

    def get(self, key: str) -> bytes:
        self._count()
        return super().get(key)

    def exists(self, key: str) -> bool:
        self._count()
        return super().exists(key)

    def put(self, key: str, data: bytes) -> None:
        self._count()
        super().put(key, data)

    def put_new(self, key: str, data: bytes) -> None:
        self._count()
        super().put_new(key, data)

    def flush(self) -> None:
        self._count()
