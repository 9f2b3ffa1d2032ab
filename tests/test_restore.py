"""Getting a guest back: what it sees afterwards, what was kept, what is refused before anything changes."""

import os
import stat
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.memory_store import MemoryStore
from tests.kit.peers import needs
from tests.kit.restorable import (
    FIRST_NIGHT,
    HOME,
    ROOT,
    SWAP,
    TMP,
    VAR,
    Broken,
    SmallerSite,
    SmallSite,
    broken_guest,
    noise,
)
from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.cow.merging import merge
from umldisk.errors import BusyError, DataError
from umldisk.image.drives import drive_uuid
from umldisk.image.reader import DiskReader
from umldisk.image.swap import read_header
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.restoring import making, restore, stages
from umldisk.ops.restoring.planning import Way, Wish
from umldisk.system.files import open_disk
from umldisk.system.swapping import Standing


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path / "site")))


def _visible(broken: Broken) -> set[str]:
    return {name for name in os.listdir(broken.directory) if name != ".lock"}


# -- what comes back --------------------------------------------------------------------------------------------------


@needs("mke2fs", "debugfs", "e2fsck")
def test_everything_is_back_and_nothing_is_lost(tmp_path: Path) -> None:
    broken = broken_guest(SmallSite(str(tmp_path / "site")))
    before = broken.files()
    report = broken.restore()
    assert broken.seen(VAR) == broken.nights[2]
    assert broken.seen(ROOT) == broken.bases["root"]
    assert broken.seen(HOME) == broken.bases["home"]
    kept = {path.name: path.read_bytes() for path in Path(report.evidence).iterdir()}
    assert {name: kept[name] for name in before.keys() & kept.keys()} == {
        name: before[name] for name in ("root_cow", "var_cow", "var_fs", "home_cow", "tmp_fs", "swap_fs")
    }
    assert _visible(broken) == before.keys()
    assert [(drive.name, drive.way, drive.checkpoint) for drive in report.drives] == [
        ("root", Way.EMPTY_COW, None),
        ("var", Way.CHECKPOINT, 2),
        ("home", Way.EMPTY_COW, None),
        ("tmp", Way.NEW, None),
        ("swap", Way.NEW, None),
    ]
    assert report.boot_command.startswith("setarch -R linux ")


@needs("mke2fs", "debugfs", "e2fsck")
def test_tmp_and_swap_are_made_new_with_the_same_names(tmp_path: Path) -> None:
    broken = broken_guest(SmallSite(str(tmp_path / "site")))
    broken.restore(Wish(drives=("tmp", "swap")))
    with open_disk(broken.guest.base_path(SWAP)) as disk:
        header = read_header(DiskReader(disk))
    assert (header.uuid, header.label) == (drive_uuid("blackdance", SWAP), "swap")
    assert header.size_bytes == SWAP.size_bytes
    tmp = broken.guest.base_path(TMP)
    run = subprocess.run(["debugfs", "-R", "stat /", tmp], capture_output=True, text=True, check=True)
    assert "Mode:  01777" in run.stdout
    run = subprocess.run(["dumpe2fs", "-h", tmp], capture_output=True, text=True, check=True)
    assert str(drive_uuid("blackdance", TMP)) in run.stdout
    run = subprocess.run(["debugfs", "-R", "ls -p /", tmp], capture_output=True, text=True, check=True)
    assert [line.split("/")[5] for line in run.stdout.split()] == [".", "..", "lost+found"]
    assert stat.S_IMODE(os.stat(tmp).st_mode) == 0o600
    assert b"intruder" not in Path(tmp).read_bytes()
    assert broken.seen(VAR) != broken.nights[2]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("merge_nights", [False, True])
def test_any_night_comes_back(number: int, merge_nights: bool, tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=MemoryStore(), merge=merge_nights)
    report = broken.restore(Wish(number=number))
    assert broken.seen(VAR) == broken.nights[number]
    var = report.drives[1]
    assert var.assembled is not None
    is_base = merge_nights and number == 2
    assert var.assembled.reused_bytes > var.assembled.fetched_bytes
    assert (var.assembled.fetched_bytes == 0) == is_base
    assert report.evidence.endswith("evidence/blackdance-20261120T031500Z")


def test_the_night_before_a_time_comes_back(broken: Broken) -> None:
    report = broken.restore(Wish(at=FIRST_NIGHT + timedelta(hours=23)))
    assert report.drives[1].checkpoint == 1
    assert broken.seen(VAR) == broken.nights[1]


def test_one_drive_alone(broken: Broken) -> None:
    before = broken.files()
    report = broken.restore(Wish(drives=("var",)))
    after = broken.files()
    assert broken.seen(VAR) == broken.nights[2]
    assert {name for name in before if before[name] != after[name]} == {"var_cow", "var_fs"}
    assert [file.name for file in report.kept] == ["var_cow", "var_fs"]


def test_a_drive_that_never_ran_gets_its_cow_file(broken: Broken) -> None:
    os.unlink(broken.directory / "home_cow")
    report = broken.restore()
    assert "home_cow" not in {file.name for file in report.kept}
    assert broken.seen(HOME) == broken.bases["home"]


def test_what_was_seen_can_be_had_from_the_evidence(broken: Broken, tmp_path: Path) -> None:
    from umldisk.cow.file import Access

    seen = {drive.name: broken.seen(drive) for drive in (ROOT, VAR)}
    kept = Path(broken.restore().evidence)
    merge(kept / "var_cow", tmp_path / "var", access=Access(backing=kept / "var_fs"))
    merge(kept / "root_cow", tmp_path / "root")
    assert {name: (tmp_path / name).read_bytes() for name in seen} == seen


def test_restored_twice_there_are_two_sets_of_evidence(broken: Broken) -> None:
    first = broken.restore()
    second = broken.restore(Wish(number=1))
    assert sorted(os.listdir(f"{broken.site.directory}/evidence")) == [
        os.path.basename(report.evidence) for report in (first, second)
    ]
    assert broken.seen(VAR) == broken.nights[1]
    assert Path(second.evidence, "var_fs").read_bytes() == broken.nights[2]


# -- what is known afterwards -----------------------------------------------------------------------------------------


def test_the_next_night_reads_only_what_changes(broken: Broken) -> None:
    broken.restore()
    broken.write(VAR, 77, word="after")
    report = take_checkpoint(broken.site, broken.name, clock=broken.clock)
    assert not report.drives[0].read_whole
    assert report.drives[0].changed_bytes == 64 << 10
    broken.break_in()
    assert broken.restore().drives[1].checkpoint == report.drives[0].number
    assert broken.seen(VAR)[77 * 512 : 78 * 512] == noise("after 77", 512)


@pytest.mark.parametrize("wish", [Wish(), Wish(drives=("var",))])
def test_what_is_known_of_a_base_that_made_room_stays_known(wish: Wish, broken: Broken) -> None:
    """Moving the root's base away and back changes the time by which changes are noticed."""
    take_checkpoint(broken.site, broken.name, ["root"], clock=broken.clock)
    broken.restore(wish)
    broken.write(ROOT, 5, word="later")
    report = take_checkpoint(broken.site, broken.name, ["root"], clock=broken.clock)
    assert not report.drives[0].read_whole


# -- dry run ----------------------------------------------------------------------------------------------------------


def test_a_rehearsal_tells_the_plan_and_changes_nothing(broken: Broken) -> None:
    before = {path: path.stat() for path in sorted(Path(broken.site.directory).rglob("*"))}
    report = broken.restore(dry_run=True)
    assert report.dry_run
    assert report.steps[0].startswith("keep root_cow, var_cow, var_fs, home_cow, swap_fs in evidence/blackdance-2026")
    assert "var: var_fs from checkpoint 2 of 2026-11-19 03:15:00 UTC, with a fresh var_cow" in report.steps
    after = {path: path.stat() for path in sorted(Path(broken.site.directory).rglob("*"))}
    names = {CATALOG_NAME, f"{CATALOG_NAME}-wal", f"{CATALOG_NAME}-shm"}
    changed = {path.name for path in before.keys() | after.keys() if _look(before, path) != _look(after, path)}
    assert changed <= names | {"site"}


def _look(stats: dict[Path, os.stat_result], path: Path) -> tuple[int, ...] | None:
    status = stats.get(path)
    return status and (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)


def test_a_rehearsal_refuses_what_a_restore_refuses(broken: Broken) -> None:
    broken.spoil(ROOT)
    with pytest.raises(DataError):
        broken.restore(dry_run=True)


# -- owners and strangers ---------------------------------------------------------------------------------------------

_UID, _GID = 61_234, 61_235


@needs("root")
def test_everything_stands_as_a_build_leaves_it(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    from umldisk.build.ownership import plan_ownership

    def theirs(guest: object, **_options: object) -> object:
        planned = plan_ownership(broken.guest, is_root=True)
        return replace(
            planned,
            directory=Standing(0o711, _UID, _GID),
            base=Standing(0o440, _UID, _GID + 1),
            writable=Standing(0o600, _UID, _GID),
        )

    monkeypatch.setattr(restore, "plan_ownership", theirs)
    os.chown(broken.directory, _UID, _GID)
    os.chmod(broken.directory, 0o711)
    report = broken.restore()
    standings = {name: Standing.of(os.stat(broken.directory / name)) for name in _visible(broken)}
    assert standings["var_fs"] == Standing(0o440, _UID, _GID + 1)
    assert {standings[name] for name in ("root_cow", "var_cow", "home_cow", "swap_fs")} == {Standing(0o600, _UID, _GID)}
    assert Standing.of(os.stat(broken.directory)) == Standing(0o711, _UID, _GID)
    kept = Path(report.evidence)
    assert {Standing.of(path.stat()) for path in kept.iterdir()} == {Standing(0o400, 0, 0)}
    assert Standing.of(kept.stat()) == Standing(0o500, 0, 0)


@needs("root")
@pytest.mark.parametrize("name", [".restored", ".returning", ".restoring"])
def test_a_plan_that_the_guests_user_planted_is_not_followed(name: str, broken: Broken) -> None:
    planted = broken.directory / name
    (planted / "new").mkdir(parents=True)
    (planted / "new" / "root_cow").write_text("planted")
    (planted / "plan.json").write_text("{}")
    for path in (planted, *planted.rglob("*")):
        os.chown(path, _UID, _GID)
    report = broken.restore()
    assert not report.resumed
    assert broken.seen(ROOT) == broken.bases["root"]
    assert not planted.exists()


def test_the_present_disk_is_a_seed_only_if_it_can_be_read(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    with Catalog.open(f"{broken.site.directory}/{CATALOG_NAME}", writable=True) as catalog:
        assert isinstance(catalog.base_state("blackdance", "var"), BaseState)
    monkeypatch.setattr(making, "base_index", lambda *_arguments: None)
    report = broken.restore()
    assert report.drives[1].assembled is not None
    assert report.drives[1].assembled.reused_bytes == 0
    assert broken.seen(VAR) == broken.nights[2]


def test_nobody_restores_the_same_guest_twice_at_a_time(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = []
    real = stages.begin

    def begin(directory: str, plan: object) -> str:
        with pytest.raises(BusyError) as refused:
            broken.restore()
        refusals.append(refused.value)
        return real(directory, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "begin", begin)
    broken.restore()
    assert len(refusals) == 1
