"""Whole drills with a made-up bench: what they bring back, what they leave, what they record."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.drills import Drilled, records_of
from tests.kit.histories import Keeper, filled
from tests.kit.memory_store import MemoryStore
from tests.kit.peers import needs
from tests.kit.restorable import HOME, ROOT, SWAP, TMP, VAR, Broken, SmallerSite, SmallSite, broken_guest
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.catalog.opening import migrate
from umldisk.checkpoint.catalog.schema import MIGRATIONS
from umldisk.checkpoint.record import Kind, drilling
from umldisk.cli.main import main
from umldisk.cow.file import CowFile
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError, StorageError
from umldisk.ops.checkpoints.storage import catalog_path, store_of
from umldisk.ops.drilling.drill import drill_guest
from umldisk.ops.drilling.scratch import ScratchSite
from umldisk.ops.drilling.steps import (
    failed,
)
from umldisk.ops.restoring.planning import Wish
from umldisk.system.files import open_disk
from umldisk.system.locks import lock

_whole = needs("linux", "bwrap", "mke2fs", "debugfs", "e2fsck")


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path)))


@_whole
@pytest.mark.parametrize("number", [None, 1])
def test_the_disks_of_a_drill_are_those_of_a_restore(broken: Broken, number: int | None) -> None:
    before = broken.files()
    seen: dict[str, bytes] = {}

    def look(site: ScratchSite) -> None:
        for drive in (ROOT, VAR, HOME):
            with open_disk(site.drilled.base_path(drive)) as disk:
                seen[drive.name] = disk.read_at(0, disk.size_bytes)
        assert os.stat(site.drilled.base_path(SWAP)).st_size == SWAP.size_bytes
        assert {"root_cow", "var_cow"}.isdisjoint(os.listdir(site.drilled.directory))

    drilled = Drilled(broken, look=look)
    report = drilled(Wish(number))
    wanted = number or max(broken.nights)
    assert seen == {"root": broken.bases["root"], "home": broken.bases["home"], "var": broken.nights[wanted]}
    assert broken.files() == before
    assert not drilled.place.exists()
    assert (report.passed, report.failure, report.checkpoints, report.ready_seconds) == (True, "", (wanted,), 2.5)
    assert drilled.checked == ["root", "var", "home"]
    assert records_of(broken)[-1] == (Kind.DRILL, (wanted,), "ready in 2.5 s, probed")
    assert report.record == len(records_of(broken))
    assert report.warnings == ("it is cold",)


@_whole
def test_a_failure_is_recorded_and_stands_with_the_checkpoint(broken: Broken, tmp_path: Path) -> None:
    drilled = Drilled(broken)
    drilled.bench.finds["units"] = failed("failed: x.service")
    metrics = tmp_path / "drill.prom"
    report = drilled(metrics=str(metrics))
    assert (report.passed, report.failure) == (False, "units: failed: x.service")
    with Catalog.open(catalog_path(broken.site), writable=False) as catalog:
        checkpoint = catalog.checkpoint(broken.name, max(broken.nights))
    assert checkpoint.drill_failure == "units: failed: x.service"
    assert checkpoint.drilled_how == "ready in 2.5 s, probed"
    assert checkpoint.is_good
    text = metrics.read_text()
    assert 'umldisk_drill_success{guest="blackdance"} 0.0\n' in text
    assert 'umldisk_drill_ready_seconds{guest="blackdance"} 2.5\n' in text
    assert f'umldisk_drill_timestamp_seconds{{guest="blackdance"}} {broken.clock.now.timestamp()!r}\n' in text
    drilled.bench.finds.clear()
    drilled.bench.ready_seconds = None
    assert drilled(metrics=str(metrics)).passed
    assert 'umldisk_drill_success{guest="blackdance"} 1.0\n' in metrics.read_text()
    assert "umldisk_drill_ready_seconds{" not in metrics.read_text()


@_whole
@pytest.mark.parametrize("dry_run", [False, True])
def test_metrics_that_have_no_place_are_refused_before_anything_boots(broken: Broken, *, dry_run: bool) -> None:
    drilled = Drilled(broken)
    before = records_of(broken)
    with pytest.raises(CannotCreateError):
        drilled(metrics=f"{broken.site.directory}/not there/drill.prom", dry_run=dry_run)
    assert drilled.bench.asked == []
    assert records_of(broken) == before


@_whole
def test_metrics_that_cannot_be_written_leave_the_record(broken: Broken, tmp_path: Path) -> None:
    place = tmp_path / "metrics"
    place.mkdir()
    with pytest.raises(CannotCreateError):
        Drilled(broken, look=lambda _site: place.rmdir())(metrics=str(place / "drill.prom"))
    assert records_of(broken)[-1] == (Kind.DRILL, (max(broken.nights),), "ready in 2.5 s, probed")


@_whole
def test_a_rehearsal_changes_nothing(broken: Broken) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(broken.site.directory).rglob("*") if path.is_file()}
    report = Drilled(broken)(dry_run=True)
    assert (report.passed, report.dry_run, report.record) == (None, True, None)
    assert f"var: var_fs from checkpoint {max(broken.nights)}" in "\n".join(report.plan)
    now = {path: path.stat().st_mtime_ns for path in Path(broken.site.directory).rglob("*") if path.is_file()}
    assert {path: time for path, time in now.items() if "catalog.db" not in path.name} == {
        path: time for path, time in before.items() if "catalog.db" not in path.name
    }


@_whole
@pytest.mark.parametrize("error", [StorageError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["check var", "boot", "power_off"])
def test_whatever_ends_a_drill_its_site_goes_away(broken: Broken, error: BaseException, at: str) -> None:
    drilled = Drilled(broken)
    drilled.bench.finds[at] = error
    before = len(records_of(broken))
    with pytest.raises(type(error)):
        drilled()
    assert not drilled.place.exists()
    assert len(records_of(broken)) == before


@_whole
def test_a_damaged_chunk_ends_a_drill_as_a_restore_and_is_recorded(broken: Broken, tmp_path: Path) -> None:
    newest = max(broken.nights)
    Path(broken.guest.base_path(VAR)).unlink()  # which would be a seed
    chunks = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and "chunks" in str(path)]
    for path in chunks:
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)
    metrics = tmp_path / "m.prom"
    drilled = Drilled(broken)
    with pytest.raises(DataError):
        drilled(metrics=str(metrics))
    kind, subjects, detail = records_of(broken)[-1]
    assert (kind, subjects) == (Kind.DRILL, (newest,))
    assert detail.startswith("not restored: restore: ")
    assert 'umldisk_drill_success{guest="blackdance"} 0.0\n' in metrics.read_text()
    assert not drilled.place.exists()


@_whole
def test_a_changed_base_ends_a_drill(broken: Broken) -> None:
    with open_disk(broken.guest.base_path(ROOT), writable=True) as disk:
        disk.write_at(4096, b"intruder")
    with pytest.raises(DataError, match="not the one that was built"):
        Drilled(broken)()


@_whole
def test_a_base_that_somebody_writes_to_is_busy_and_one_that_is_read_is_not(broken: Broken) -> None:
    with open_disk(broken.guest.base_path(ROOT), writable=True) as disk:
        lock(disk.fd, disk.path, exclusive=True)
        with pytest.raises(BusyError):
            Drilled(broken)()
    with CowFile.open(broken.guest.cow_path(ROOT) or ""):
        assert Drilled(broken)().passed


@_whole
def test_nobody_writes_to_the_bases_meanwhile(broken: Broken) -> None:
    def look(site: ScratchSite) -> None:
        with open_disk(broken.guest.base_path(HOME), writable=True) as disk, pytest.raises(BusyError):
            lock(disk.fd, disk.path, exclusive=True)

    assert Drilled(broken, look=look)().passed


@_whole
def test_a_store_in_use_leaves_a_drill_unrecorded(broken: Broken) -> None:
    with store_of(broken.site, broken.guest).writing(broken.name):
        report = Drilled(broken)()
    assert (report.passed, report.record) == (True, None)


@_whole
def test_a_drive_that_a_restore_would_leave_alone_is_new(tmp_path: Path) -> None:
    class Site(SmallSite):
        drives = (ROOT, VAR, replace(TMP, name="data", mount_point="/data"))

    broken = Broken(Site(str(tmp_path))).make()
    broken.night(1, 2)
    drilled = Drilled(broken, look=lambda site: found.append(Path(site.drilled.directory, "data_fs").stat().st_size))
    found: list[int] = []
    report = drilled()
    assert found == [TMP.size_bytes]
    assert report.plan[-1] == "data: a new, empty data_fs"
    assert drilled.checked == ["root", "var"]


@_whole
def test_a_missing_guest_and_a_missing_checkpoint(broken: Broken) -> None:
    with pytest.raises(NoInputError, match="no such guest"):
        drill_guest(broken.site, "nobody")
    with pytest.raises(NoInputError, match="no checkpoint 99"):
        Drilled(broken)(Wish(99))


# -- what the catalog and the lists make of it ------------------------------------------------------------------------


def test_a_catalog_from_before_drills_is_migrated_with_all_its_rows(tmp_path: Path) -> None:
    filled(tmp_path / "now.db")
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as old:
        migrate(old, MIGRATIONS[:1], path="old.db")
        old.execute("ATTACH ? AS now", (str(tmp_path / "now.db"),))
        for table in ("records", "checkpoints", "subjects", "base_states"):
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
            old.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM now.{table}")
    with (
        Catalog.open(tmp_path / "old.db", writable=True) as migrated,
        Catalog.open(tmp_path / "now.db", writable=False) as now,
    ):
        assert migrated.records("web") == now.records("web")
        assert migrated.checkpoints(deleted=True) == now.checkpoints(deleted=True)
        assert len(migrated.checkpoints()) == 5
    with closing(sqlite3.connect(tmp_path / "old.db")) as old, closing(sqlite3.connect(tmp_path / "now.db")) as made:
        assert tables(old) == tables(made)
        assert old.execute("PRAGMA foreign_key_check").fetchall() == []
        assert old.execute("PRAGMA foreign_key_list(subjects)").fetchall() == (
            made.execute("PRAGMA foreign_key_list(subjects)").fetchall()
        )


def tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_the_last_drill_stands_and_a_rebuilt_catalog_knows_it(tmp_path: Path) -> None:
    store = MemoryStore()
    with Catalog.open(tmp_path / "catalog.db", writable=True) as catalog:
        keeper = Keeper(store, catalog)
        numbers = [keeper.take().number for _night in range(2)]
        keeper.say(Kind.DRILL, "web", numbers[0], detail=drilling("not ready", "ready: x: y"))
        second = keeper.say(Kind.DRILL, "web", *numbers, detail=drilling("ready in 1.0 s"))
        third = keeper.say(Kind.DRILL, "web", numbers[1], detail=drilling("not booted", "check: var: z"))
        first, last = catalog.checkpoints("web")
        assert (first.drilled_at, first.drilled_how, first.drill_failure) == (second.time, "ready in 1.0 s", "")
        assert (last.drilled_at, last.drilled_how, last.drill_failure) == (third.time, "not booted", "check: var: z")
        assert first.is_good
        assert last.is_good
        history.rebuild(store, catalog)
        assert catalog.checkpoints("web") == [first, last]


@_whole
def test_show_and_list_tell_of_the_last_drill(broken: Broken, capsys: pytest.CaptureFixture[str]) -> None:
    drilled = Drilled(broken)

    def told(*words: str) -> str:
        assert main(["--site", broken.site.directory, "checkpoint", *words]) == 0
        return capsys.readouterr().out

    assert re.search(r"drilled +never", told("show", broken.name, "latest"))
    drilled()
    assert re.search(r"drilled +\S+ \S+ \(ready in 2\.5 s, probed\), passed\n", told("show", broken.name, "latest"))
    assert told("list", broken.name).splitlines()[-1].endswith("  drilled")
    drilled.bench.finds["mounts"] = failed("var: not there")
    drilled()
    shown = told("show", broken.name, "latest")
    assert "(ready in 2.5 s, probed), failed: mounts: var: not there\n" in shown
    assert told("list", broken.name).splitlines()[-1].endswith("  drill-failed")
