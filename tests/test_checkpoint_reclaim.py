"""Reclaiming: nothing that an index names ever goes, nothing that none names stays, whoever dies in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.kit.checkpoints import History, labelled
from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint import reclaim as reclaiming
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.index import Index, name_of, parse
from umldisk.checkpoint.reclaim import Reclaimed, reclaim
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.store import CHUNKS, Listed, base_key, chunk_key, index_key, record_key
from umldisk.errors import BusyError, DataError, HistoryError, StorageError

PLACES = 40
labels = st.dictionaries(st.integers(0, PLACES - 1), st.sampled_from("abcdefghij"), max_size=6)
GUESTS = ("ash", "birch", "cedar")


class Killed(BaseException):
    """The process ends here."""


class MortalStore(MemoryStore):
    """A store whose process is killed before the call with the number `life`."""

    life = -1

    def _live(self) -> None:
        if self.life == 0:
            raise Killed
        self.life -= 1

    def get(self, key: str) -> bytes:
        self._live()
        return super().get(key)

    def list(self, prefix: str) -> Iterator[Listed]:
        self._live()
        return super().list(prefix)

    def delete(self, keys: Any) -> None:
        for key in keys:
            self._live()
            super().delete([key])


def chunks_of(index: Index) -> set[str]:
    return {chunk_key(name) for name in index.names()}


def stored_chunks(store: MemoryStore) -> set[str]:
    return {key for key in store.data if key.startswith(CHUNKS)}


class Forest(RuleBasedStateMachine):
    """Three guests take, delete and reclaim in one store; a model knows which indexes must be whole."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MortalStore()
        self.histories = {guest: History(self.store, guest) for guest in GUESTS}
        self.alive: dict[tuple[str, int], Index] = {}
        self.bases: dict[tuple[str, str], Index] = {}

    @rule(guest=st.sampled_from(GUESTS), drive=st.sampled_from(["var", "home"]), places=labels, dies=st.booleans())
    def take(self, guest: str, drive: str, places: dict[int, str], dies: bool) -> None:
        history = self.histories[guest]
        index = labelled(self.store, places, PLACES)
        if dies:  # after the index, before the record
            self.store.put(index_key(guest, history.count + 1), index.build())
            return
        self.alive[guest, history.take(index, drive)] = index

    @rule(guest=st.sampled_from(GUESTS), places=labels)
    def merge(self, guest: str, places: dict[int, str]) -> None:
        index = labelled(self.store, places, PLACES)
        self.histories[guest].put_base(index)
        self.bases[guest, "var"] = index

    @rule(places=labels)
    def die_before_the_index(self, places: dict[int, str]) -> None:
        labelled(self.store, {place: label * 2 for place, label in places.items()}, PLACES)

    @rule(guest=st.sampled_from(GUESTS))
    def protect(self, guest: str) -> None:
        """Append a record, which may take the number of a dead take's index."""
        own = [number for name, number in self.alive if name == guest]
        if own:
            self.histories[guest].record(Kind.PROTECT, own[-1])

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        guest, number = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[guest, number]
        self.histories[guest].delete(number)

    @rule(life=st.integers(0, 60))
    def die_reclaiming(self, life: int) -> None:
        self.store.life = life
        try:
            reclaim(self.store, None)
        except Killed:
            pass
        finally:
            self.store.life = -1

    @rule()
    def reclaim(self) -> None:
        foreseen = reclaim(self.store, None, dry_run=True)
        before = dict(self.store.data)
        report = reclaim(self.store, None)
        unrecorded = self.unrecorded()
        wanted = [*self.alive.values(), *self.bases.values(), *unrecorded]
        assert stored_chunks(self.store) == set().union(*map(chunks_of, wanted))
        assert report.indexes_kept == len(wanted)
        gone = {key for key in before.keys() - self.store.data.keys() if key.startswith(CHUNKS)}
        assert report.chunks_removed == len(gone)
        assert report.bytes_removed == sum(len(before[key]) for key in gone)
        assert report.chunks_kept == len(stored_chunks(self.store))
        assert report.bytes_kept == sum(len(self.store.data[key]) for key in stored_chunks(self.store))
        assert report.missing_chunks == 0
        assert (foreseen.chunks_removed, foreseen.bytes_removed) == (report.chunks_removed, report.bytes_removed)
        assert (foreseen.indexes_removed, foreseen.dry_run) == (report.indexes_removed, True)
        assert reclaim(self.store, None).chunks_removed == 0

    def unrecorded(self) -> list[Index]:
        """Return the indexes that dying takes left behind the ends of histories."""
        keys = [index_key(guest, history.count + 1) for guest, history in self.histories.items()]
        return [parse(self.store.data[key]) for key in keys if key in self.store.data]

    @invariant()
    def all_that_is_alive_is_whole(self) -> None:
        for (guest, number), index in self.alive.items():
            assert self.store.data[index_key(guest, number)] == index.build()
            assert chunks_of(index) <= stored_chunks(self.store)
        for (guest, drive), index in self.bases.items():
            assert self.store.data[base_key(guest, drive)] == index.build()
            assert chunks_of(index) <= stored_chunks(self.store)

    @invariant()
    def no_record_ever_goes(self) -> None:
        for guest, history in self.histories.items():
            assert all(record_key(guest, number) in self.store.data for number in range(1, history.count + 1))


TestForest = Forest.TestCase
TestForest.settings = settings(max_examples=60, stateful_step_count=25)


def two_guests(store: MemoryStore) -> tuple[History, History]:
    """Make two guests that share some chunks: the first's night 1 is deleted, its night 2 and the other's 1 are not."""
    ash, birch = History(store, "ash"), History(store, "birch")
    ash.take(labelled(store, {1: "one", 2: "shared", 3: "old"}, PLACES))
    ash.take(labelled(store, {1: "two", 2: "x"}, PLACES))
    birch.take(labelled(store, {9: "shared"}, PLACES))
    ash.delete(1)
    return ash, birch


def test_killed_before_each_call_in_turn_it_loses_nothing_and_the_next_run_finishes() -> None:
    finished = MemoryStore()
    two_guests(finished)
    reclaim(finished, None)
    for life in range(1000):
        store = MortalStore()
        two_guests(store)
        store.life = life
        try:
            reclaim(store, None)
        except Killed:
            store.life = -1
            assert finished.data.items() <= store.data.items()
            reclaim(store, None)
            assert store.data == finished.data
        else:
            break
        assert life < 900
    assert life > 10
    assert store.data == finished.data


def test_indexes_go_before_chunks_and_nothing_goes_before_all_is_read() -> None:
    store = MemoryStore()
    two_guests(store)
    store.log.clear()
    reclaim(store, None)
    kinds = [kind for kind, _key in store.log]
    assert kinds == sorted(kinds, key=["get", "delete"].index)
    deleted = [key for kind, key in store.log if kind == "delete"]
    assert deleted[0] == index_key("ash", 1)
    assert all(key.startswith(CHUNKS) for key in deleted[1:])
    assert len(deleted) == 3  # "one" and "old"; "shared" is named elsewhere


def test_many_chunks_are_removed_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclaiming, "_AT_A_TIME", 3)
    for count in range(2, 9):
        store = MemoryStore()
        labelled(store, {place: f"{place}" for place in range(count)}, PLACES)
        total = len(stored_chunks(store))
        assert reclaim(store, None).chunks_removed == total
        assert stored_chunks(store) == set()


def test_other_files_among_the_chunks_stay() -> None:
    store = MemoryStore({"chunks/0000/notes.txt": b"x", "chunks/ab.cacnk": b"y"})
    two_guests(store)
    reclaim(store, None)
    assert {"chunks/0000/notes.txt", "chunks/ab.cacnk"} <= store.data.keys()


# -- refusals ---------------------------------------------------------------------------------------------------------


def refused(store: MemoryStore, error: type[Exception], catalog: Catalog | None = None) -> Any:
    before = dict(store.data)
    with pytest.raises(error) as caught:
        reclaim(store, catalog)
    assert store.data == before
    with store.collecting():  # the store was let go
        pass
    return caught.value


def test_a_missing_index_is_refused() -> None:
    store = MemoryStore()
    two_guests(store)
    del store.data[index_key("ash", 2)]
    assert refused(store, DataError).where == index_key("ash", 2)


@pytest.mark.parametrize("key", [index_key("birch", 1), base_key("ash", "var"), index_key("ash", 5)])
def test_an_index_that_cannot_be_read_is_refused(key: str) -> None:
    store = MemoryStore()
    ash, _birch = two_guests(store)
    ash.put_base(labelled(store, {1: "two"}, PLACES))
    store.put(index_key("ash", 5), store.get(base_key("ash", "var")))
    store.data[key] = store.data[key][:-1]
    assert refused(store, DataError).where == key


def test_an_index_that_is_not_the_recorded_one_is_refused() -> None:
    store = MemoryStore()
    two_guests(store)
    store.data[index_key("birch", 1)] = labelled(store, {1: "two"}, PLACES).build()
    assert refused(store, DataError).where == index_key("birch", 1)


def test_an_unreadable_index_of_a_deleted_checkpoint_just_goes() -> None:
    store = MemoryStore()
    two_guests(store)
    store.data[index_key("ash", 1)] = b"nothing"
    reclaim(store, None)
    assert index_key("ash", 1) not in store.data


@pytest.mark.parametrize("guest", ["ash", "birch"])
def test_a_broken_history_of_any_guest_is_refused(guest: str) -> None:
    store = MemoryStore()
    two_guests(store)
    birch = store.data[record_key("birch", 1)]
    if guest == "ash":
        store.data[record_key("ash", 2)] = store.data[record_key("ash", 2)].replace(b"host", b"tosh")
    else:
        store.data[record_key("birch", 1)] = birch[:-9]
    assert refused(store, HistoryError).where == record_key(guest, 2 if guest == "ash" else 1)


def test_what_the_catalog_knows_and_the_store_lacks_is_refused(tmp_path: Any) -> None:
    from umldisk.checkpoint import history

    store = MemoryStore()
    two_guests(store)
    with Catalog.open(tmp_path / "catalog.db", writable=True) as catalog:
        history.sync(store, catalog, "ash")
        history.sync(store, catalog, "birch")
        assert reclaim(store.copy(), catalog).indexes_removed == 1
        tail = store.copy()
        del tail.data[record_key("ash", 3)]
        assert refused(tail, HistoryError, catalog).where == record_key("ash", 3)
        assert reclaim(tail, None).indexes_removed == 0
        for key in [key for key in store.data if key.startswith("guests/birch/")]:
            del store.data[key]
        assert refused(store, HistoryError, catalog).where == record_key("birch", 1)


def test_a_removed_record_leaves_its_index_alone() -> None:
    """Without a catalog nobody can tell it from a dying take's, and it may be all that is left."""
    store = MemoryStore()
    two_guests(store)
    del store.data[record_key("birch", 1)]
    shared = chunks_of(parse(store.data[index_key("birch", 1)]))
    reclaim(store, None)
    assert index_key("birch", 1) in store.data
    assert shared <= store.data.keys()


def test_a_store_in_use_is_busy() -> None:
    store = MemoryStore()
    two_guests(store)
    with store.writing("birch"), pytest.raises(BusyError):
        reclaim(store, None)


def test_a_listing_out_of_order_is_refused() -> None:
    class Unordered(MemoryStore):
        def list(self, prefix: str) -> Iterator[Listed]:
            return reversed(list(super().list(prefix))) if prefix == CHUNKS else super().list(prefix)

    store = Unordered()
    two_guests(store)
    refused(store, StorageError)


def test_missing_chunks_are_counted_once() -> None:
    store = MemoryStore()
    ash, _birch = two_guests(store)
    ash.take(labelled(store, {1: "two", 7: "two", 8: "y"}, PLACES))
    for label in ("two", "y"):
        del store.data[chunk_key(name_of(label.encode()))]
    report = reclaim(store, None)
    assert report.missing_chunks == 2
    assert isinstance(report, Reclaimed)
