"""Histories: what is appended is chained, and what is lost is caught up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import umldisk
from tests.kit.histories import FIRST_NIGHT, TAKEN, Keeper
from tests.kit.memory_store import MemoryStore
from tests.kit.tampering import alter, key, rewrite_from
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.record import Kind, digest_of, parse
from umldisk.checkpoint.store import Store
from umldisk.errors import BusyError, HistoryError, NoInputError, StorageError, UsageError


# -- writing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_every_record_holds_the_digest_of_the_one_before(kind: str, tmp_path: Path, catalog: Catalog) -> None:
    store: Store = MemoryStore() if kind == "memory" else DirectoryStore(str(tmp_path / "store"))
    keeper = Keeper(store, catalog)
    keeper.take()
    keeper.take()
    keeper.say(Kind.PROTECT, "web", 2)
    keeper.take("db")
    previous = ""
    for number in (1, 2, 3):
        data = store.get(key(number))
        assert json.loads(data)["previous"] == previous
        previous = digest_of(data)
    assert json.loads(store.get(key(1, "db")))["previous"] == ""
    assert catalog.last("web") == (3, previous)
    assert history.load(store, "web") == catalog.records("web") == history.verify_chain(store, catalog, "web")
    assert history.guests(store) == catalog.guests() == ["db", "web"]


def test_a_record_says_who_wrote_it_and_when(keeper: Keeper) -> None:
    record = keeper.take()
    assert (record.guest, record.number, record.time) == ("web", 1, FIRST_NIGHT)
    assert (record.host, record.version) == ("host", umldisk.__version__)


def test_subjects_ascend_whatever_order_they_are_given_in(keeper: Keeper) -> None:
    for _night in range(3):
        keeper.take()
    assert keeper.say(Kind.DELETE, "web", 3, 1, 3).subjects == (1, 3)


@pytest.mark.parametrize("subject", [0, 2, 3, 7])
def test_what_is_no_checkpoint_is_no_subject(keeper: Keeper, memory: MemoryStore, subject: int) -> None:
    keeper.take()
    keeper.say(Kind.PROTECT, "web", 1)
    before = dict(memory.data)
    with pytest.raises(UsageError, match=f"web has no checkpoint {subject}"):
        keeper.say(Kind.DELETE, "web", 1, subject)
    assert memory.data == before


@pytest.mark.parametrize("reason", ["\udcff", "x" * (5 << 20)])
def test_what_could_not_be_read_again_is_not_recorded(keeper: Keeper, memory: MemoryStore, reason: str) -> None:
    with pytest.raises(UsageError, match="cannot be recorded"):
        keeper.say(Kind.CHECKPOINT, "web", taken=replace(TAKEN, reason=reason))
    assert memory.data == {}


def test_who_is_second_is_told_so(keeper: Keeper, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper.take()
    monkeypatch.setattr(memory, "exists", lambda _key: False)  # the other host writes right after we looked
    memory.data[key(2)] = b"the other host's"
    with pytest.raises(BusyError):
        keeper.say(Kind.PROTECT, "web", 1)
    assert memory.data[key(2)] == b"the other host's"
    assert keeper.catalog.last("web") == (1, digest_of(memory.data[key(1)]))


# -- catching up ------------------------------------------------------------------------------------------------------
def test_dying_between_store_and_catalog_loses_nothing(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper.take()

    def die(*_arguments: object) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "add", die)
        with pytest.raises(StorageError):
            keeper.take()
    assert [found.number for found in keeper.catalog.checkpoints()] == [1]
    assert history.verify_chain(keeper.store, keeper.catalog, "web")[-1][0].number == 2
    assert keeper.take().number == 3
    assert keeper.catalog.records("web") == history.load(keeper.store, "web")


def test_two_hosts_write_one_history(tmp_path: Path) -> None:
    store = MemoryStore()
    with (
        Catalog.open(tmp_path / "a.db", writable=True) as one,
        Catalog.open(tmp_path / "b.db", writable=True) as other,
    ):
        keepers = [Keeper(store, one, "one"), Keeper(store, other, "other")]
        for turn in (0, 1, 1, 0, 0, 1):
            keepers[turn].take()
        assert one.last("web") != other.last("web")
        assert history.sync(store, one, "web") == 1
        assert one.records("web") == other.records("web") == history.verify_chain(store, one, "web")
        assert [record.host for record, _digest in one.records("web")] == [
            "one",
            "other",
            "other",
            "one",
            "one",
            "other",
        ]


def test_an_old_catalog_put_back_catches_up(tmp_path: Path) -> None:
    store, path = MemoryStore(), tmp_path / "catalog.db"
    with Catalog.open(path, writable=True) as catalog:
        Keeper(store, catalog).take()
    shutil.copy(path, tmp_path / "old.db")
    with Catalog.open(path, writable=True) as catalog:
        keeper = Keeper(store, catalog)
        keeper.take()
        keeper.say(Kind.DELETE, "web", 1)
    shutil.copy(tmp_path / "old.db", path)
    with Catalog.open(path, writable=True) as catalog:
        assert catalog.last("web") == (1, digest_of(store.data[key(1)]))
        history.verify_chain(store, catalog, "web")
        assert history.sync(store, catalog, "web") == 2
        assert [found.number for found in catalog.checkpoints()] == [2]


def test_two_who_catch_up_at_once_add_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    with Catalog.open(tmp_path / "a.db", writable=True) as one, Catalog.open(tmp_path / "b.db", writable=True) as other:
        Keeper(store, one).take()
        history.sync(store, other, "web")
        for _night in range(2):
            Keeper(store, one).take()
        with Catalog.open(tmp_path / "b.db", writable=True) as quicker:
            asked = store.exists

            def while_the_other_looks(key: str) -> bool:
                monkeypatch.setattr(store, "exists", asked)
                history.sync(store, quicker, "web")
                return asked(key)

            monkeypatch.setattr(store, "exists", while_the_other_looks)
            assert history.sync(store, other, "web") == 2
        assert other.records("web") == one.records("web")


def test_catching_up_with_nothing_reads_one_record(keeper: Keeper, memory: MemoryStore) -> None:
    for _night in range(5):
        keeper.take()
    memory.log.clear()
    assert history.sync(memory, keeper.catalog, "web") == 0
    assert memory.log == [("get", key(5))]


def test_a_history_of_a_guest_without_records_is_empty(keeper: Keeper) -> None:
    assert history.sync(keeper.store, keeper.catalog, "web") == 0
    assert history.verify_chain(keeper.store, keeper.catalog, "web") == []
    assert history.load(keeper.store, "web") == []
    with pytest.raises(NoInputError, match="web has no checkpoints"):
        history.anchor(keeper.store, "web")


# -- anchors ----------------------------------------------------------------------------------------------------------
def test_an_anchor_holds_while_the_history_grows(four: Keeper, memory: MemoryStore) -> None:
    anchor = history.anchor(memory, "web")
    assert anchor == f"umldisk-anchor web 4 {digest_of(memory.data[key(4)])}"
    four.take()
    assert len(history.verify_chain(memory, four.catalog, "web", f" {anchor}\n")) == 5


def test_what_comes_after_the_anchor_is_not_proven_by_it(four: Keeper, memory: MemoryStore) -> None:
    anchor = history.anchor(memory, "web")
    four.take()
    rewrite_from(memory.data, 5)
    assert len(history.verify_chain(memory, None, "web", anchor)) == 5


def test_a_broken_history_has_no_anchor(four: Keeper, memory: MemoryStore) -> None:
    del memory.data[key(2)]
    with pytest.raises(HistoryError, match="record 2 of web is missing"):
        history.anchor(memory, "web")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "umldisk-anchor web 4",
        f"umldisk-anchor web 0 {'ab' * 32}",
        f"umldisk-anchor web four {'ab' * 32}",
        f"umldisk-anchor web \uff14 {'ab' * 32}",
        f"umldisk-anchor web 4 {'AB' * 32}",
        f"umldisk-anchor web 4 {'ab' * 32} more",
        f"anchor web 4 {'ab' * 32}",
    ],
)
def test_what_is_no_anchor_is_refused(four: Keeper, line: str) -> None:
    with pytest.raises(UsageError, match="not an anchor"):
        history.verify_chain(four.store, four.catalog, "web", line)


def test_another_guests_anchor_is_refused(four: Keeper) -> None:
    four.take("db")
    with pytest.raises(UsageError, match="another guest's"):
        history.verify_chain(four.store, four.catalog, "web", history.anchor(four.store, "db"))


# -- making the catalog anew ------------------------------------------------------------------------------------------
def test_the_catalog_comes_anew_from_the_store_alone(four: Keeper, tmp_path: Path) -> None:
    four.say(Kind.TAG, "web", 2, 3, detail="good")
    four.say(Kind.DELETE, "web", 1)
    four.take("db")
    with Catalog.open(tmp_path / "new.db", writable=True) as anew:
        Keeper(MemoryStore(), anew).take("stranger")
        assert history.rebuild(four.store, anew) == history.Rebuilt({"db": 1, "web": 6}, ())
        assert anew.guests() == ["db", "web"]
        for guest in anew.guests():
            assert anew.records(guest) == four.catalog.records(guest)
        assert anew.checkpoints(deleted=True) == four.catalog.checkpoints(deleted=True)


def test_of_a_broken_history_comes_what_precedes_the_break(four: Keeper, memory: MemoryStore) -> None:
    four.take("db")
    alter(memory.data, 2, host="other")
    done = history.rebuild(memory, four.catalog)
    assert done.records == {"db": 1, "web": 2}
    assert ["record 2 of web" in str(error) for error in done.broken] == [True]
    with pytest.raises(HistoryError, match="record 3 of web does not follow"):
        four.take()


def test_of_a_history_that_makes_no_sense_comes_what_precedes_it(four: Keeper, memory: MemoryStore) -> None:
    row = json.loads(memory.data[key(3)])
    alter(memory.data, 3, taken=row["taken"] | {"drive": "home"})
    alter(memory.data, 4, previous=digest_of(memory.data[key(3)]))
    assert parse(memory.data[key(3)]).taken is not None
    done = history.rebuild(memory, four.catalog)
    assert done.records == {"web": 2}
    assert "record 3 of web is about checkpoint 2" in str(done.broken[0])
