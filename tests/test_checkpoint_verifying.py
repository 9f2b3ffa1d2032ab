"""Verification finds every damage, names all whom it hurts and no one else, and samples as it says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.checkpoints import History, put_disk
from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint import verifying
from umldisk.checkpoint.chunks import pack
from umldisk.checkpoint.index import CHUNK_BYTES, Index
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.store import CHUNKS, base_key, chunk_key, chunk_name, index_key
from umldisk.checkpoint.verifying import Condition, Hurt, Sample, Verified, verify
from umldisk.errors import HistoryError, StorageError, UsageError

COUNT = 20


def disk(changes: dict[int, int], *, count: int = COUNT) -> bytes:
    """Return a disk whose place n holds the byte `changes[n]`, or n + 1."""
    return b"".join(bytes([changes.get(place, place + 1)]) * CHUNK_BYTES for place in range(count))


class Scene:
    """Two guests in one store: ash with three nights and a base, birch with one night that is like ash's second."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ash, self.birch = History(self.store, "ash"), History(self.store, "birch")
        images = [disk({}), disk({3: 100}), disk({3: 100, 7: 101})]
        self.indexes = [put_disk(self.store, image) for image in images]
        for index in self.indexes:
            self.ash.take(index)
        self.birch.take(self.indexes[1], "home")
        self.ash.put_base(self.indexes[2])

    def key(self, night: int, place: int) -> str:
        """Return the key of a chunk of one of ash's nights."""
        return chunk_key(self.indexes[night].chunk(place).name)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def ash(number: int | None) -> Hurt:
    return Hurt("ash", "var", number)


BIRCH = Hurt("birch", "home", 1)


def found(report: Verified) -> dict[str, tuple[Condition, set[Hurt]]]:
    assert len({damage.key for damage in report.damages}) == len(report.damages)
    return {damage.key: (damage.condition, set(damage.hurt)) for damage in report.damages}


def test_a_sound_store_is_read_whole_and_each_chunk_once(scene: Scene) -> None:
    scene.store.log.clear()
    report = verify(scene.store)
    assert report.is_sound
    assert (report.how, report.indexes) == ("all", 5)
    assert report.checkpoints == (ash(1), ash(2), ash(3), BIRCH)
    names = set().union(*(index.names() for index in scene.indexes))
    assert report.chunks == report.chunks_read == len(names)
    read = sorted(key for kind, key in scene.store.log if kind == "get" and key.startswith(CHUNKS))
    assert read == sorted(map(chunk_key, names))
    assert report.bytes_read == sum(len(scene.store.data[key]) for key in read)
    assert {kind for kind, _key in scene.store.log} == {"get"}
    assert report.details() == {"ash": {"all": [1, 2, 3]}, "birch": {"all": [1]}}


def test_every_kind_of_damage_is_found_with_all_it_hurts(scene: Scene) -> None:
    data = scene.store.data
    gone, flipped, other, cut = scene.key(0, 3), scene.key(1, 3), scene.key(2, 7), scene.key(0, 0)
    del data[gone]
    data[flipped] = data[flipped][:-2] + bytes([data[flipped][-2] ^ 1]) + data[flipped][-1:]
    data[other] = pack(b"something else")
    data[cut] = b""
    report = verify(scene.store)
    assert found(report) == {
        gone: (Condition.MISSING, {ash(1)}),
        flipped: (Condition.DAMAGED, {ash(2), ash(3), ash(None), BIRCH}),
        other: (Condition.DAMAGED, {ash(3), ash(None)}),
        cut: (Condition.DAMAGED, {ash(1), ash(2), ash(3), ash(None), BIRCH}),
    }
    assert not report.is_sound
    assert report.damage_of("ash", 3).endswith("is damaged and 2 more")
    assert report.damage_of("ash", 9) == ""


def test_one_guests_damage_is_told_of_the_other_too(scene: Scene) -> None:
    del scene.store.data[scene.key(1, 3)]
    report = verify(scene.store, wanted=lambda root: root.guest == "birch")
    assert (report.indexes, report.checkpoints) == (1, (BIRCH,))
    name = scene.key(1, 3).rpartition("/")[2]
    assert report.details() == {"ash": {f"all: {name} is missing": [2, 3]}, "birch": {f"all: {name} is missing": [1]}}


def test_what_only_others_need_is_not_looked_at(scene: Scene) -> None:
    del scene.store.data[scene.key(2, 7)]
    assert verify(scene.store, wanted=lambda root: root.guest == "birch").is_sound
    assert verify(scene.store, wanted=lambda root: root.number == 1).is_sound


def test_indexes_are_held_against_their_records(scene: Scene) -> None:
    data = scene.store.data
    data[index_key("ash", 1)] = data[index_key("ash", 2)]
    del data[index_key("ash", 3)]
    data[base_key("ash", "var")] = data[base_key("ash", "var")][:-1]
    report = verify(scene.store)
    assert found(report) == {
        index_key("ash", 1): (Condition.DAMAGED, {ash(1)}),
        index_key("ash", 3): (Condition.MISSING, {ash(3)}),
        base_key("ash", "var"): (Condition.DAMAGED, {ash(None)}),
    }
    assert report.damage_of("ash", 1) == "00000001.caibx is damaged"
    assert report.damage_of("ash", 2) == ""


def test_deleted_checkpoints_need_nothing(scene: Scene) -> None:
    scene.ash.delete(1)
    del scene.store.data[scene.key(0, 3)]
    report = verify(scene.store)
    assert report.is_sound
    assert ash(1) not in report.checkpoints


def test_records_that_cannot_be_read_end_it(scene: Scene) -> None:
    scene.store.data["guests/ash/00000002.json"] = b"{}"
    with pytest.raises(HistoryError):
        verify(scene.store)


def test_what_is_reclaimed_meanwhile_is_no_damage(scene: Scene) -> None:
    """A checkpoint is deleted and reclaimed between the reading of its index and of its chunks."""

    class Changing(MemoryStore):
        def get(self, key: str) -> bytes:
            if key.startswith(CHUNKS) and index_key("ash", 1) in self.data:
                del self.data[index_key("ash", 1)], self.data[scene.key(0, 3)]
                history.record(Kind.DELETE, 1)
            return super().get(key)

    store = Changing(scene.store.data)
    history = scene.ash
    history.store = store
    report = verify(store)
    assert report.is_sound
    assert index_key("ash", 1) not in store.data


class Failing(MemoryStore):
    """A store that cannot read some of its chunks."""

    bad: frozenset[str] = frozenset()

    def get(self, key: str) -> bytes:
        if key in self.bad:
            raise StorageError("cannot read: Input/output error", where=key)
        return super().get(key)


def test_unreadable_chunks_are_named(scene: Scene) -> None:
    store = Failing(scene.store.data)
    store.bad = frozenset({scene.key(0, 3)})
    report = verify(store)
    assert found(report) == {scene.key(0, 3): (Condition.UNREADABLE, {ash(1)})}
    assert "Input/output error" in report.damages[0].explanation


def test_a_store_that_fails_all_the_time_ends_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_MOST_UNREADABLE", 5)
    store = Failing(scene.store.data)
    store.bad = frozenset(key for key in store.data if key.startswith(CHUNKS))
    with pytest.raises(StorageError):
        verify(store)
    store.bad = frozenset(sorted(store.bad)[:5])
    assert len(verify(store).damages) == 5


# -- samples ----------------------------------------------------------------------------------------------------------


def chunks_read(store: MemoryStore, sample: Sample) -> set[str]:
    store.log.clear()
    report = verify(store, sample=sample)
    read = [key for kind, key in store.log if kind == "get" and key.startswith(CHUNKS)]
    assert len(read) == len(set(read)) == report.chunks_read
    return set(read)


def test_a_sample_is_that_of_its_seed_and_grows_with_its_share(scene: Scene) -> None:
    samples = [chunks_read(scene.store, Sample(percent, "night 1")) for percent in (10, 30, 60, 100)]
    assert all(one <= other for one, other in itertools.pairwise(samples))
    assert samples[-1] == {key for key in scene.store.data if key.startswith(CHUNKS)}
    assert chunks_read(scene.store, Sample(30, "night 1")) == samples[1]
    others = [chunks_read(scene.store, Sample(30, f"night {night}")) for night in range(2, 8)]
    assert any(other != samples[1] for other in others)
    assert set().union(*others) > others[0]


def test_a_sample_says_so_and_is_never_empty(scene: Scene) -> None:
    report = verify(scene.store, sample=Sample(0.001, "x"))
    assert (report.how, report.chunks_read, report.chunks) == ("0.001%", 1, 22)
    assert report.details()["ash"] == {"0.001%": [1, 2, 3]}


def test_a_sample_misses_damage_outside_of_it_but_nothing_that_is_gone(scene: Scene) -> None:
    sample = Sample(40, "x")
    read = chunks_read(scene.store, sample)
    outside = next(key for key in sorted(scene.store.data) if key.startswith(CHUNKS) and key not in read)
    packed = scene.store.data[outside]
    scene.store.data[outside] = b"?"
    assert verify(scene.store, sample=sample).is_sound
    assert not verify(scene.store).is_sound
    del scene.store.data[outside]
    assert not verify(scene.store, sample=sample).is_sound
    scene.store.data[outside] = packed
    scene.store.data[min(read)] = b"?"
    assert not verify(scene.store, sample=sample).is_sound


@given(st.floats(0.5, 100), st.text(max_size=9))
def test_about_as_many_are_chosen_as_asked_for(percent: float, seed: str) -> None:
    chosen = sum(Sample(percent, seed).has(number.to_bytes(32, "big")) for number in range(4000))
    spread = (4000 * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(chosen - 4000 * percent / 100) <= 7 * spread + 1


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan"), float("inf")])
def test_impossible_samples_are_refused(percent: float) -> None:
    with pytest.raises(UsageError):
        Sample(percent)


# -- any damage -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data())
def test_any_changed_byte_of_any_chunk_or_index_is_found(data: st.DataObject) -> None:
    """Unless the frame still unpacks to the same: zstd has bits that mean nothing."""
    scene = Scene()
    keys = sorted(key for key in scene.store.data if not key.endswith(".json") and key != base_key("ash", "var"))
    key = data.draw(st.sampled_from(keys))
    stored = bytearray(scene.store.data[key])
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    scene.store.data[key] = bytes(stored)
    report = verify(scene.store)
    assert set(found(report)) == ({key} if not _is_still_right(scene, key) else set())


def _is_still_right(scene: Scene, key: str) -> bool:
    import zstandard

    from umldisk.checkpoint.index import name_of

    if not key.startswith(CHUNKS):
        return False
    try:
        return name_of(zstandard.ZstdDecompressor().decompress(scene.store.data[key], 1 << 20)) == chunk_name(key)
    except zstandard.ZstdError:
        return False


def test_the_hurt_of_a_guest_without_damage_stay_unnamed(scene: Scene) -> None:
    other: Index = put_disk(scene.store, disk({5: 200}))
    History(scene.store, "cedar").take(other)
    del scene.store.data[scene.key(0, 5)]
    report = verify(scene.store)
    assert "cedar" not in {hurt.guest for damage in report.damages for hurt in damage.hurt}
    assert str(ash(3)) == "ash var 3"
    assert str(ash(None)) == "ash var base"
