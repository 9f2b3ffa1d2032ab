"""Histories that somebody tampered with: found, and the first bad record named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.histories import Keeper
from tests.kit.memory_store import MemoryStore
from tests.kit.tampering import WAYS, alter, key, last_of, tamper
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.record import Kind, digest_of
from umldisk.errors import HistoryError


# -- tampering that is found at once ----------------------------------------------------------------------------------
def swap(data: dict[str, bytes]) -> None:
    data[key(2)], data[key(3)] = data[key(3)], data[key(2)]


Damage = Callable[[dict[str, bytes]], object]


def insert(data: dict[str, bytes]) -> None:
    for number in (4, 3, 2):
        data[key(number + 1)] = data[key(number)]


def another_history(data: dict[str, bytes]) -> None:
    alter(data, 2, host="other")
    for number in (3, 4):
        alter(data, number, previous=digest_of(data[key(number - 1)]))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "the first is missing": (lambda data: data.pop(key(1)), "record 1 of web is missing"),
    "one is missing": (lambda data: data.pop(key(3)), "record 3 of web is missing"),
    "the last is missing": (lambda data: data.pop(key(4)), "record 4 of web is missing"),
    "all are missing": (lambda data: data.clear(), "record 1 of web is missing"),
    "two changed places": (swap, "record 2 of web was altered"),
    "one says something else": (lambda data: alter(data, 2, host="other"), "record 2 of web was altered"),
    "one follows another": (lambda data: alter(data, 3, previous="00" * 32), "record 3 of web was altered"),
    "the last says something else": (lambda data: alter(data, 4, host="other"), "record 4 of web was altered"),
    "one was written in between": (insert, "record 3 of web was altered"),
    "one is empty": (lambda data: data.update({key(3): b""}), "record 3 of web was altered"),
    "the history was written anew": (another_history, "record 2 of web was altered"),
    "one has two names": (
        lambda data: data.update({"guests/web/000000002.json": data[key(2)]}),
        "a record of web has a name that none can have (guests/web/000000002.json",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_what_differs_from_the_catalog_is_named(four: Keeper, memory: MemoryStore, damage: Damage, said: str) -> None:
    damage(memory.data)
    with pytest.raises(HistoryError) as caught:
        history.verify_chain(memory, four.catalog, "web")
    assert said in str(caught.value)
    assert caught.value.exit_code == 76


FOUND_ALONE = {
    "the first is missing": "record 1 of web is missing",
    "one is missing": "record 3 of web is missing",
    "two changed places": "record 2 of web is another one",
    "one says something else": "record 2 of web is not the one that record 3 was written after",
    "one follows another": "record 3 of web does not follow record 2",
    "one was written in between": "record 3 of web is another one",
    "one is empty": "record 3 of web cannot be read",
    "one has two names": "a record of web has a name that none can have (guests/web/000000002.json",
}


@pytest.mark.parametrize("name", FOUND_ALONE)
def test_what_does_not_fit_is_named_without_a_catalog(four: Keeper, memory: MemoryStore, name: str) -> None:
    DAMAGES[name][0](memory.data)
    with pytest.raises(HistoryError) as caught:
        history.verify_chain(memory, None, "web")
    assert FOUND_ALONE[name] in str(caught.value)


@pytest.mark.parametrize(
    "name", ["the last is missing", "all are missing", "the last says something else", "the history was written anew"]
)
def test_what_fits_by_itself_is_found_by_an_anchor(four: Keeper, memory: MemoryStore, name: str) -> None:
    anchor = history.anchor(memory, "web")
    DAMAGES[name][0](memory.data)
    history.verify_chain(memory, None, "web")
    with pytest.raises(HistoryError, match="record 4 of web"):
        history.verify_chain(memory, None, "web", anchor)


def test_an_anchored_record_is_not_the_one_that_is_blamed(four: Keeper, memory: MemoryStore) -> None:
    anchor = history.anchor(memory, "web")
    alter(memory.data, 3, host="other")
    with pytest.raises(HistoryError, match="record 3 of web is not the one that record 4 was written after"):
        history.verify_chain(memory, None, "web", anchor)


@pytest.mark.parametrize("name", ["the last is missing", "all are missing", "the last says something else"])
def test_nothing_is_appended_to_a_store_that_contradicts_the_catalog(
    four: Keeper, memory: MemoryStore, name: str
) -> None:
    DAMAGES[name][0](memory.data)
    before = dict(memory.data)
    with pytest.raises(HistoryError, match="record 4 of web"):
        four.take()
    assert memory.data == before


def test_a_catalog_is_not_brought_up_to_date_with_what_does_not_follow(four: Keeper, memory: MemoryStore) -> None:
    memory.data[key(5)] = memory.data[key(4)].replace(b'"number": 4', b'"number": 5')
    with pytest.raises(HistoryError, match="record 5 of web does not follow record 4"):
        history.sync(memory, four.catalog, "web")
    assert four.catalog.last("web") == (4, digest_of(memory.data[key(4)]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [("subject", {"subjects": [3], "kind": "protect", "taken": None}), ("parent", {"taken": {"parent": 3}})],
)
def test_a_record_about_what_is_no_checkpoint_is_named(
    four: Keeper, memory: MemoryStore, kind: str, values: dict[str, object]
) -> None:
    """Who alters one record and makes the chain fit again has not made sense of it yet."""
    four.say(Kind.PROTECT, "web", 1)
    row = json.loads(memory.data[key(4)])
    taken = None if kind == "subject" else row["taken"] | {"parent": 3}
    alter(memory.data, 3, kind="protect", taken=None, subjects=[1])
    alter(memory.data, 4, **(values | {"taken": taken, "previous": digest_of(memory.data[key(3)])}))
    alter(memory.data, 5, previous=digest_of(memory.data[key(4)]))
    with pytest.raises(HistoryError, match="record 4 of web is about checkpoint 3, which there is not"):
        history.verify_chain(memory, None, "web")


def test_a_parent_of_another_drive_is_named(keeper: Keeper, memory: MemoryStore) -> None:
    keeper.take(drive="home")
    row = json.loads(keeper.take(drive="var").build())
    alter(memory.data, 2, taken=row["taken"] | {"parent": 1})
    with pytest.raises(HistoryError, match="record 2 of web is about checkpoint 1"):
        history.verify_chain(memory, None, "web")


def test_a_record_that_the_catalog_vouches_for_is_not_blamed(four: Keeper, memory: MemoryStore) -> None:
    tamper(memory.data, "push in renumbered", 4, lambda _numbers: 1)
    with pytest.raises(HistoryError, match="record 5 of web does not follow record 4"):
        history.verify_chain(memory, four.catalog, "web")


def test_what_is_no_record_is_passed_over(four: Keeper, memory: MemoryStore) -> None:
    memory.data["guests/web/notes.json"] = b"by hand"
    memory.data["guests/web/base-var.caibx"] = b"an index"
    memory.data["guests/web-2/base-var.caibx"] = b"an index"
    assert len(history.verify_chain(memory, four.catalog, "web")) == 4
    assert history.guests(memory) == ["web"]


# -- random tampering -------------------------------------------------------------------------------------------------
KINDS = st.sampled_from([Kind.PROTECT, Kind.UNPROTECT, Kind.TAG, Kind.DELETE, Kind.VERIFY])


@st.composite
def told(draw: st.DrawFn, path: Path) -> MemoryStore:
    """Return a store with a random history of two to eight records."""
    path.unlink(missing_ok=True)
    with Catalog.open(path, writable=True) as catalog:
        keeper = Keeper(MemoryStore(), catalog)
        checkpoints = [keeper.take().number]
        for kind in draw(st.lists(st.none() | KINDS, min_size=1, max_size=7)):
            if kind is None:
                checkpoints.append(keeper.take(drive=draw(st.sampled_from(["var", "home"]))).number)
            else:
                keeper.say(kind, "web", draw(st.sampled_from(checkpoints)), detail="x")
    assert isinstance(keeper.store, MemoryStore)
    return keeper.store


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), way=st.sampled_from(WAYS), again=st.none() | st.sampled_from(["flip", "remove", "exchange"]))
def test_whatever_is_changed_before_the_anchor_is_found(
    tmp_path: Path, data: st.DataObject, way: str, again: str | None
) -> None:
    store = data.draw(told(tmp_path / "told.db"))
    whole = dict(store.data)
    anchored = data.draw(st.integers(1, last_of(whole)))
    anchor = f"umldisk-anchor web {anchored} {digest_of(whole[key(anchored)])}"
    history.verify_chain(store, None, "web", anchor)
    tamper(store.data, way, data.draw(st.integers(1, anchored)), data.draw)
    if again and store.data:
        tamper(store.data, again, data.draw(st.sampled_from(sorted(map(number_of, store.data)))), data.draw)
    before = [store.data.get(key(number)) == whole[key(number)] for number in range(1, anchored + 1)]
    if all(before):  # records changed places with themselves, or the second change undid the first
        return
    with pytest.raises(HistoryError) as caught:
        history.verify_chain(store, None, "web", anchor)
    assert caught.value.exit_code == 76


def number_of(name: str) -> int:
    return int(name.rpartition("/")[2].removesuffix(".json"))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), way=st.sampled_from(WAYS))
def test_the_first_bad_record_is_named_with_the_catalog(tmp_path: Path, data: st.DataObject, way: str) -> None:
    store = data.draw(told(tmp_path / "told.db"))
    whole = dict(store.data)
    tamper(store.data, way, data.draw(st.integers(1, last_of(whole))), data.draw)
    bad = [number for number in range(1, last_of(whole) + 1) if store.data.get(key(number)) != whole[key(number)]]
    with Catalog.open(tmp_path / "told.db", writable=False) as catalog:
        if not bad and last_of(store.data) == last_of(whole):
            assert len(history.verify_chain(store, catalog, "web")) == len(whole)
            return
        with pytest.raises(HistoryError) as caught:
            history.verify_chain(store, catalog, "web")
    first = bad[0] if bad else last_of(whole) + 1
    assert f"record {first} of web" in str(caught.value)
    assert key(first) in str(caught.value)
