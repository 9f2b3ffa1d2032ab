"""The catalog as a file: missing, foreign, damaged, in use, on a full disk, where nothing may be written."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kit.histories import TAKEN, Keeper, filled
from tests.kit.memory_store import MemoryStore
from tests.kit.peers import mounted, needs
from umldisk.checkpoint import history
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.record import Kind
from umldisk.errors import BusyError, DataError, NoInputError, StorageError, UmldiskError

ROOT = Path(__file__).parents[2]


# -- what happens to files --------------------------------------------------------------------------------------------
def test_a_reader_never_makes_a_catalog(path: Path) -> None:
    with pytest.raises(NoInputError, match="no catalog"):
        Catalog.open(path, writable=False)
    assert os.listdir(path.parent) == []
    path.touch()
    with pytest.raises(NoInputError, match="no catalog"):
        Catalog.open(path, writable=False)
    assert path.read_bytes() == b""
    with Catalog.open(path, writable=True) as catalog:
        assert catalog.guests() == []


@pytest.mark.parametrize("name", ["missing/catalog.db", "."])
@pytest.mark.parametrize("writable", [True, False])
def test_a_place_that_cannot_hold_one_is_refused(tmp_path: Path, name: str, writable: bool) -> None:
    with pytest.raises((StorageError, NoInputError)):
        Catalog.open(tmp_path / name, writable=writable)


def test_a_name_may_hold_what_a_uri_may_not(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/100% ?&#\xff"))
    directory.mkdir()
    filled(directory / "catalog.db")
    assert sorted(os.listdir(directory))[0] == "catalog.db"
    with Catalog.open(directory / "catalog.db", writable=False) as catalog:
        assert len(catalog.checkpoints()) == 5
    shutil.rmtree(os.fsencode(directory))  # a name that is no text would trouble whoever cleans up


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE people (name)")


def cut(path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size // 2)


def without_a_table(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("DROP TABLE subjects")


def with_nonsense(path: Path) -> None:
    filled(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE checkpoints SET consistency = 'never', tags = '{' WHERE number = 2")


def zeroed(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


UNUSABLE = {
    "text": lambda path: path.write_text("a catalog of stars\n" * 100),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "another program's": foreign,
    "cut": cut,
    "zeroed": zeroed,
    "without a table": without_a_table,
    "with nonsense": with_nonsense,
}


def ask_everything(path: Path, *, writable: bool) -> None:
    with Catalog.open(path, writable=writable) as catalog:
        catalog.checkpoints(deleted=True)
        catalog.records("web")
        catalog.base_state("web", "var")


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE.keys())
@pytest.mark.parametrize("writable", [True, False])
def test_what_cannot_be_used_is_refused_with_a_hint(path: Path, spoil: object, writable: bool) -> None:
    assert callable(spoil)
    spoil(path)
    with pytest.raises(DataError) as caught:
        ask_everything(path, writable=writable)
    assert "umldisk checkpoint rebuild" in (caught.value.hint or "")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_it_is_made_anew_from_the_store_whatever_was_there(path: Path, tmp_path: Path, spoil: object) -> None:
    store = filled(tmp_path / "good.db")
    assert callable(spoil)
    spoil(path)
    spoilt = path.read_bytes()
    with Catalog.open_anew(path) as catalog:
        history.rebuild(store, catalog)
        assert catalog.records("web") == history.load(store, "web")
    aside = Path(f"{path}.set-aside")
    if aside.exists():
        assert aside.read_bytes() == spoilt
    with Catalog.open(path, writable=False) as catalog:
        assert len(catalog.checkpoints()) == 5


def test_a_usable_catalog_is_not_set_aside(path: Path) -> None:
    filled(path)
    with Catalog.open_anew(path) as catalog:
        assert len(catalog.checkpoints()) == 5
    assert not Path(f"{path}.set-aside").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_random_damage_ends_in_an_error_that_says_so_or_harms_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    good, path = tmp_path / "good.db", tmp_path / "catalog.db"
    if not good.exists():
        filled(good)
    contents = bytearray(good.read_bytes())
    for _place in range(data.draw(st.integers(1, 8))):
        contents[data.draw(st.integers(0, len(contents) - 1))] = data.draw(st.integers(0, 255))
    for name in os.listdir(tmp_path):
        if name.startswith("catalog.db"):
            (tmp_path / name).unlink()
    path.write_bytes(contents)
    for writable in (False, True):
        with contextlib.suppress(UmldiskError):
            ask_everything(path, writable=writable)


# -- several at once --------------------------------------------------------------------------------------------------
WRITER = """
import sys
from tests.kit.histories import Keeper
from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint.catalog import Catalog
path, guest, mode = sys.argv[1:]
with Catalog.open(path, writable=True) as catalog:
    keeper = Keeper(MemoryStore(), catalog)
    keeper.take(guest)
    if mode == "hold":
        with catalog.transaction():
            keeper.take(guest)
            print("holding", flush=True)
            sys.stdin.read()
"""


def writer(path: Path, guest: str, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), guest, mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has added a checkpoint of web and is in the middle of adding another one."""
    with writer(path, "web", "hold") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holding\n"
        yield process
        process.kill()


def test_readers_go_on_while_somebody_writes(path: Path, holder: subprocess.Popen[str]) -> None:
    with Catalog.open(path, writable=False, wait_seconds=0) as catalog:
        assert len(catalog.checkpoints()) == 1
        holder.communicate("")
        assert holder.returncode == 0
        assert len(catalog.checkpoints()) == 2


def test_a_second_writer_waits_and_then_says_so(path: Path, holder: subprocess.Popen[str]) -> None:
    with Catalog.open(path, writable=True, wait_seconds=0.1) as catalog:
        with pytest.raises(BusyError, match="the catalog is in use"):
            Keeper(MemoryStore(), catalog).take("db")
        assert len(catalog.checkpoints()) == 1
        holder.communicate("")
        Keeper(MemoryStore(), catalog).take("db")
        assert len(catalog.checkpoints()) == 3


def test_a_writer_that_is_killed_leaves_what_was_acknowledged(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    for writable in (False, True):
        with Catalog.open(path, writable=writable) as catalog:
            assert [one.number for one in catalog.checkpoints()] == [1]
            assert catalog._rows("PRAGMA integrity_check") == [("ok",)]


def test_all_who_make_it_at_once_get_the_same_one(path: Path) -> None:
    guests = [f"web{number}" for number in range(5)]
    started = [writer(path, guest, "once") for guest in guests]
    for process in started:
        _out, errors = process.communicate()
        assert process.returncode == 0, errors
    with Catalog.open(path, writable=False) as catalog:
        assert catalog.guests() == guests


def test_who_comes_while_another_one_makes_it_waits(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError):
            Catalog.open(path, writable=True, wait_seconds=0.1)
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        with Catalog.open(path, writable=True) as catalog:
            assert catalog.guests() == []
        release.join()


def test_a_transaction_is_given_up_when_its_block_fails(keeper: Keeper) -> None:
    def take_and_fail() -> None:
        with keeper.catalog.transaction():
            keeper.take()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        take_and_fail()
    assert keeper.catalog.guests() == []
    keeper.catalog.set_base_state(BaseState("web", "var", "ab" * 32, BackingIdentity(1, 2, 3, 4, 5)))


# -- places that refuse -----------------------------------------------------------------------------------------------
@needs("tmpfs")
@pytest.mark.parametrize("leftovers", [False, True])
def test_it_is_read_where_nothing_can_be_written(tmp_path: Path, leftovers: bool) -> None:
    with mounted("tmpfs", tmp_path) as point:
        path = point / "catalog.db"
        store = filled(path)
        if leftovers:  # what a killed writer leaves: rows that are in the -wal file alone
            with Catalog.open(path, writable=True) as catalog:
                Keeper(store, catalog).take("db")
                for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
                    shutil.copy(point / name, point / f"killed-{name}")
            path = point / "killed-catalog.db"
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        with Catalog.open(path, writable=False) as catalog:
            assert catalog.guests() == (["db", "web"] if leftovers else ["web"])
            assert len(catalog.checkpoints("web")) == 5
        with pytest.raises(StorageError):
            Catalog.open(path, writable=True)
        assert path.exists()


@needs("tmpfs")
def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=512 << 10) as point:
        acknowledged = list[int]()
        with Catalog.open(point / "catalog.db", writable=True) as catalog:
            keeper, long = Keeper(MemoryStore(), catalog), replace(TAKEN, reason="x" * 1000)
            with pytest.raises(StorageError):
                acknowledged.extend(keeper.say(Kind.CHECKPOINT, "web", taken=long).number for _night in range(5000))
        assert len(acknowledged) > 10
        with Catalog.open(point / "catalog.db", writable=False) as catalog:
            assert [one.number for one in catalog.checkpoints()] == acknowledged
