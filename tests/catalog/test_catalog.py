"""The catalog: it says what the history says, at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.histories import FIRST_NIGHT, TAKEN, Keeper
from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint import history
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.catalog import Catalog, opening
from umldisk.checkpoint.record import WHOLE, Kind, Record, digest_of, verification
from umldisk.checkpoint.recording import settled
from umldisk.errors import DataError, HistoryError, NoInputError
from umldisk.system.files import open_disk

ROOT = Path(__file__).parents[2]


# -- what it says -----------------------------------------------------------------------------------------------------
@dataclass
class Model:
    """What one checkpoint must be, by the plainest rules."""

    drive: str
    tags: list[str] = field(default_factory=list)
    protected: bool = False
    verified: tuple[datetime, str] | None = None
    damage: str = ""
    deleted: datetime | None = None

    def apply(self, record: Record) -> None:
        if record.kind in (Kind.PROTECT, Kind.UNPROTECT):
            self.protected = record.kind is Kind.PROTECT
        elif record.kind is Kind.TAG and record.detail not in self.tags:
            self.tags.append(record.detail)
        elif record.kind is Kind.UNTAG and record.detail in self.tags:
            self.tags.remove(record.detail)
        elif record.kind is Kind.DELETE and self.deleted is None:
            self.deleted = record.time
        elif record.kind is Kind.VERIFY:
            how, found = [*record.detail.split(": "), ""][:2]
            self.verified = (record.time, how)
            if found or how == "all":
                self.damage = found


DETAILS = {
    Kind.TAG: st.sampled_from(["a", "b"]),
    Kind.UNTAG: st.sampled_from(["a", "b"]),
    Kind.VERIFY: st.sampled_from(["all", "10%", "all: chunk lost", "10%: chunk bad"]),
}
actions = st.lists(
    st.tuples(
        st.sampled_from(Kind), st.sampled_from(["web", "db"]), st.sets(st.integers(0, 20), min_size=1), st.data()
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(actions)
def test_it_says_what_the_history_says(tmp_path: Path, steps: list[tuple[Kind, str, set[int], st.DataObject]]) -> None:
    (tmp_path / "a.db").unlink(missing_ok=True)
    store, model = MemoryStore(), dict[tuple[str, int], Model]()
    with Catalog.open(tmp_path / "a.db", writable=True) as catalog:
        keeper = Keeper(store, catalog)
        for kind, guest, picks, data in steps:
            have = [number for name, number in model if name == guest]
            if kind is Kind.CHECKPOINT or not have:
                record = keeper.take(guest, data.draw(st.sampled_from(["var", "home"])), tags=("a",))
                assert record.taken is not None
                model[guest, record.number] = Model(record.taken.drive, ["a"])
                continue
            detail = data.draw(DETAILS.get(kind, st.just("")))
            record = keeper.say(kind, guest, *{have[pick % len(have)] for pick in picks}, detail=detail)
            for number in record.subjects:
                model[guest, number].apply(record)
        agrees(catalog, model)
        for guest in catalog.guests():
            assert catalog.records(guest) == history.load(store, guest)
        history.rebuild(store, catalog)
        agrees(catalog, model)


def agrees(catalog: Catalog, model: dict[tuple[str, int], Model]) -> None:
    """Assert that every question is answered as the model would."""
    found = catalog.checkpoints(deleted=True)
    assert [(one.guest, one.number) for one in found] == sorted(model)
    for one in found:
        expected = model[one.guest, one.number]
        verified = (one.verified_at, one.verified_how) if one.verified_at else None
        said = Model(one.drive, list(one.tags), one.protected, verified, one.damage, one.deleted_at)
        assert said == expected
        assert one.is_good == (not expected.damage and expected.deleted is None)
        assert catalog.checkpoint(one.guest, one.number) == one
    left = [one for one in found if one.deleted_at is None]
    assert catalog.checkpoints() == left
    for guest in ("web", "db"):
        for drive in ("var", "home"):
            mine = [one for one in left if (one.guest, one.drive) == (guest, drive)]
            assert catalog.checkpoints(guest, drive=drive) == mine


def test_a_sample_that_finds_nothing_does_not_clear_damage(keeper: Keeper) -> None:
    keeper.take()
    keeper.say(Kind.VERIFY, "web", 1, detail=verification(WHOLE, "chunk 3fa1 is missing"))
    keeper.say(Kind.VERIFY, "web", 1, detail=verification("10%"))
    assert not keeper.catalog.checkpoint("web", 1).is_good
    keeper.say(Kind.VERIFY, "web", 1, detail=verification(WHOLE))
    assert keeper.catalog.checkpoint("web", 1).is_good


@pytest.mark.parametrize("number", [0, -1, 2, 1 << 63, 10**30])
def test_what_is_not_there_is_missing(keeper: Keeper, number: int) -> None:
    keeper.take()
    with pytest.raises(NoInputError, match=f"web has no checkpoint {number}"):
        keeper.catalog.checkpoint("web", number)


def test_what_a_later_version_said_is_kept(catalog: Catalog) -> None:
    record = Record("web", 1, FIRST_NIGHT, Kind.CHECKPOINT, "", "host", "9.9", TAKEN, extra={"mood": ["good", 1.5]})
    catalog.add(record, digest_of(record.build()))
    assert catalog.checkpoints()[0].record == record


def test_a_record_that_does_not_follow_is_refused(keeper: Keeper) -> None:
    first = keeper.take()
    catalog = keeper.catalog
    last = catalog.last("web")
    assert last is not None
    for number, previous in ((1, ""), (2, "00" * 32), (3, last[1])):
        with pytest.raises(HistoryError, match=f"record {number} of web does not follow"):
            catalog.add(replace(first, number=number, previous=previous), "ab" * 32)
    assert catalog.last("web") == last


@pytest.mark.parametrize("subjects", [(2,), (1, 2)])
def test_a_record_is_added_with_all_that_it_changes_or_not_at_all(keeper: Keeper, subjects: tuple[int, ...]) -> None:
    first = keeper.take()
    last = keeper.catalog.last("web")
    assert last is not None
    record = replace(first, number=3, kind=Kind.PROTECT, previous=last[1], taken=None, subjects=subjects)
    with pytest.raises(HistoryError):
        keeper.catalog.add(replace(record, number=2), "ab" * 32)
    assert not keeper.catalog.checkpoint("web", 1).protected
    assert keeper.catalog.last("web") == last


def test_base_states_are_remembered_and_forgotten(catalog: Catalog, tmp_path: Path) -> None:
    backing = tmp_path / "var_fs"
    backing.write_bytes(b"contents")
    identity = BackingIdentity.of(backing.stat())
    assert identity is not None
    state = BaseState("web", "var", "ab" * 32, identity)
    catalog.set_base_state(replace(state, index_sha256="cd" * 32))
    catalog.set_base_state(state)
    catalog.set_base_state(replace(state, drive="home"))
    assert catalog.base_state("web", "var") == state
    assert state.holds_for(backing.stat())
    catalog.forget_base_state("web", "var")
    assert catalog.base_state("web", "var") is None
    assert catalog.base_state("web", "home") is not None
    catalog.clear()
    assert catalog.base_state("web", "home") is None


@pytest.mark.parametrize("number", [(1 << 64) - 1, 1 << 63, -1])
def test_identities_hold_whatever_a_file_system_says(catalog: Catalog, number: int) -> None:
    state = BaseState("web", "var", "ab" * 32, BackingIdentity(4096, number, number, number, number))
    catalog.set_base_state(state)
    assert catalog.base_state("web", "var") == state


def test_a_base_state_holds_until_the_file_changes_in_any_way(tmp_path: Path) -> None:
    backing, copy = tmp_path / "var_fs", tmp_path / "copy"
    backing.write_bytes(b"contents")
    shutil.copy2(backing, copy)
    with open_disk(backing) as disk:
        identity = settled(disk)  # what follows is in a later tick of the file system's clock
    assert identity is not None
    state = BaseState("web", "var", "ab" * 32, identity)
    assert state.holds_for(backing.stat())
    assert not state.holds_for(copy.stat())
    before = backing.stat()
    backing.write_bytes(b"Contents")
    os.utime(backing, ns=(before.st_atime_ns, before.st_mtime_ns))  # as who hides a change would
    assert backing.stat().st_mtime_ns == before.st_mtime_ns
    assert not state.holds_for(backing.stat())


def test_nothing_is_known_of_what_changes_unseen() -> None:
    assert BackingIdentity.of(os.stat("/dev/null")) is None
    assert BackingIdentity.of(os.stat("/")) is None


# -- speed ------------------------------------------------------------------------------------------------------------
LIST = """
import sys
from umldisk.checkpoint.catalog import Catalog
with Catalog.open(sys.argv[1], writable=False) as catalog:
    print(len(catalog.checkpoints()))
"""


def test_ten_thousand_checkpoints_are_listed_at_once(path: Path, bare_environment: dict[str, str]) -> None:
    """Half a second, of which the processor's time is measured: other tests take the rest of the clock's."""
    with Catalog.open(path, writable=True) as catalog, catalog.transaction():
        previous = ""
        for number in range(1, 10_001):
            taken = replace(TAKEN, parent=number - 1 or None)
            night = FIRST_NIGHT + timedelta(days=number)
            record = Record("web", number, night, Kind.CHECKPOINT, previous, "host", "0.1", taken)
            previous = digest_of(record.build())
            catalog.add(record, previous)
    took = []
    for _again in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", LIST, str(path)]
        done = subprocess.run(command, cwd=ROOT, env=bare_environment, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout == "10000\n"
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.5


def test_it_is_imported_without_what_only_stores_need(bare_environment: dict[str, str]) -> None:
    code = "import sys, umldisk.checkpoint.history, umldisk.checkpoint.catalog; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", f"import json; {code}"]
    done = subprocess.run(command, cwd=ROOT, env=bare_environment, capture_output=True, text=True, check=True)
    assert not {"construct", "zstandard", "obstore", "subprocess"} & set(json.loads(done.stdout))


def test_sqlites_errors_have_a_meaning(path: Path) -> None:
    """A bug of ours, such as a wrong question, is not taken for a damaged file without saying what SQLite said."""
    with pytest.raises(DataError, match="no such table: nowhere"), opening.explained(str(path)):
        sqlite3.connect(":memory:").execute("SELECT * FROM nowhere")
