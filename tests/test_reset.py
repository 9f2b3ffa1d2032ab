"""Giving drives a new start: what the guest sees afterwards, what is kept or removed, who vouches for the bases."""

import dataclasses
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.kit.memory_store import MemoryStore
from tests.kit.peers import needs
from tests.kit.resets import reset
from tests.kit.restorable import HOME, ROOT, SWAP, TMP, VAR, Broken, SmallerSite, SmallSite, broken_guest
from umldisk.errors import BusyError, DataError, HistoryError
from umldisk.image.drives import Content, Drive
from umldisk.image.reader import DiskReader
from umldisk.image.swap import read_header
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.restoring.planning import Way
from umldisk.ops.restoring.removed import RemovedFile
from umldisk.ops.running.reset import rebuild
from umldisk.system.files import open_disk

SRV = Drive("srv", 5, "/srv", 1 << 20, Content.EXT2, copy_on_write=False)
_DEFAULTS = ("root_cow", "home_cow", "swap_fs")


class _SiteWithSrv(SmallSite):
    """A site whose guests write one more disk themselves."""

    drives = (ROOT, VAR, HOME, SWAP, SRV)


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path / "site")))


# -- what comes back --------------------------------------------------------------------------------------------------


@needs("mke2fs", "debugfs", "e2fsck")
def test_root_and_home_are_as_built_tmp_and_swap_new_and_var_stays(tmp_path: Path) -> None:
    broken = broken_guest(SmallSite(str(tmp_path / "site")))
    before, var = broken.files(), broken.seen(VAR)
    report = reset(broken)
    after = broken.files()
    assert broken.seen(ROOT) == broken.bases["root"]
    assert broken.seen(HOME) == broken.bases["home"]
    assert broken.seen(VAR) == var != broken.bases["var"]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"root_cow", "home_cow", "tmp_fs", "swap_fs"}
    assert after.keys() == before.keys()
    assert b"intruder" not in after["tmp_fs"]
    check = subprocess.run(["e2fsck", "-fn", broken.guest.base_path(TMP)], capture_output=True, check=False)
    assert check.returncode == 0
    with open_disk(broken.guest.base_path(SWAP)) as disk:
        assert read_header(DiskReader(disk)).size_bytes == SWAP.size_bytes
    assert [(drive.name, drive.way) for drive in report.drives] == [
        ("root", Way.EMPTY_COW),
        ("home", Way.EMPTY_COW),
        ("tmp", Way.NEW),
        ("swap", Way.NEW),
    ]


def test_what_was_there_is_evidence_that_can_be_checked(broken: Broken) -> None:
    before = broken.files()
    report = reset(broken)
    (kept,) = broken.evidence
    assert report.evidence == str(kept)
    assert {name: (kept / name).read_bytes() for name in _DEFAULTS} == {name: before[name] for name in _DEFAULTS}
    assert sorted(os.listdir(kept)) == sorted([*_DEFAULTS, "evidence.json", "records.jsonl", "SHA256SUMS"])
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=kept, check=True)
    assert len((kept / "records.jsonl").read_text().splitlines()) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()} == {0o400}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o500


def test_one_drive_alone_also_var(broken: Broken) -> None:
    before = broken.files()
    report = reset(broken, "var")
    assert broken.seen(VAR) == broken.bases["var"]
    after = broken.files()
    assert {name for name in before if before[name] != after[name]} == {"var_cow"}
    assert [file.name for file in report.kept] == ["var_cow"]


def test_a_disk_that_the_guest_writes_itself_is_reset_only_by_name(tmp_path: Path) -> None:
    broken = broken_guest(_SiteWithSrv(str(tmp_path / "site")))
    srv = broken.files()["srv_fs"]
    assert "srv" not in {drive.name for drive in reset(broken).drives}
    assert broken.files()["srv_fs"] == srv


@needs("mke2fs", "debugfs", "e2fsck")
def test_by_name_such_a_disk_is_made_anew_and_kept(tmp_path: Path) -> None:
    broken = broken_guest(_SiteWithSrv(str(tmp_path / "site")))
    srv = broken.files()["srv_fs"]
    report = reset(broken, "srv")
    assert Path(report.evidence, "srv_fs").read_bytes() == srv
    check = subprocess.run(["e2fsck", "-fn", broken.guest.base_path(SRV)], capture_output=True, check=False)
    assert check.returncode == 0


def test_a_drive_that_never_ran_gets_its_cow_file_and_there_is_no_evidence(broken: Broken) -> None:
    os.unlink(broken.directory / "home_cow")
    report = reset(broken, "home")
    assert broken.seen(HOME) == broken.bases["home"]
    assert (report.evidence, report.kept, broken.evidence) == ("", (), [])


def test_twice_is_as_once(broken: Broken) -> None:
    reset(broken)
    first = broken.files()
    again = reset(broken)
    assert broken.files() == first
    assert len(broken.evidence) == 2
    assert not again.resumed


def test_a_base_that_a_merge_made_is_what_its_checkpoint_says(broken: Broken) -> None:
    seen = broken.write(HOME, 40, 41, word="work")
    number = broken.take("home", merge=True)
    broken.break_in()
    report = reset(broken, "home")
    assert broken.seen(HOME) == seen
    assert report.drives[0].reference == f"checkpoint {number}"


def test_the_next_night_reads_only_what_changes(broken: Broken) -> None:
    """Moving the root's base away and back changes the time by which changes are noticed."""
    take_checkpoint(broken.site, broken.name, ["root"], clock=broken.clock)
    broken.clock.tick()
    reset(broken, now=True, glance=True)
    broken.write(ROOT, 5, word="later")
    report = take_checkpoint(broken.site, broken.name, ["root"], clock=broken.clock)
    assert not report.drives[0].read_whole


# -- removing ---------------------------------------------------------------------------------------------------------


def test_now_keeps_nothing_and_says_how_much_that_was(broken: Broken) -> None:
    swap_bytes = os.stat(broken.directory / "swap_fs").st_blocks * 512
    report = reset(broken, now=True)
    assert broken.seen(ROOT) == broken.bases["root"]
    assert broken.seen(HOME) == broken.bases["home"]
    assert report.removed == (
        RemovedFile("root_cow", 4 * 512),
        RemovedFile("home_cow", 4 * 512),
        RemovedFile("swap_fs", swap_bytes),
    )
    assert (report.evidence, report.kept) == ("", ())
    assert not os.path.exists(f"{broken.site.directory}/evidence")
    assert not [name for name in broken.names if name.startswith(".")]


def test_a_damaged_cow_file_is_removed_like_any_other(broken: Broken) -> None:
    (broken.directory / "root_cow").write_bytes(b"OOOM" * 2048)
    report = reset(broken, "root", now=True, glance=True)
    assert broken.seen(ROOT) == broken.bases["root"]
    assert report.removed[0].changed_bytes >= 8192


def test_removing_a_file_with_another_name_leaves_that_one(broken: Broken, tmp_path: Path) -> None:
    os.link(broken.directory / "root_cow", tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    with pytest.raises(DataError, match="as evidence"):
        reset(broken, "root")
    reset(broken, "root", now=True)
    assert (tmp_path / "elsewhere").read_bytes() == before
    assert broken.seen(ROOT) == broken.bases["root"]


# -- the bases --------------------------------------------------------------------------------------------------------


def test_a_changed_base_is_refused(broken: Broken) -> None:
    broken.spoil(HOME)
    before = broken.files()
    with pytest.raises(DataError, match="drive home is not the one that was built"):
        reset(broken)
    assert broken.files() == before
    reset(broken, "root", "swap")


def test_a_glance_reads_no_base(broken: Broken) -> None:
    broken.spoil(ROOT)
    report = reset(broken, "root", glance=True)
    assert (report.drives[0].digest, report.drives[0].reference) == (None, "")
    assert "root: a fresh root_cow over root_fs, which was not read" in report.steps


@pytest.mark.parametrize("change", ["touched", "longer"])
def test_a_glance_sees_a_base_that_was_changed_since(change: str, broken: Broken) -> None:
    path = broken.guest.base_path(ROOT)
    status = os.stat(path)
    if change == "longer":
        with open(path, "ab") as file:
            file.write(bytes(512))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, (1, 1))
    before = broken.files()
    with pytest.raises(DataError, match="changed since its COW file was made") as refused:
        reset(broken, "root", glance=True)
    assert str(refused.value.hint).startswith("umldisk reset blackdance root ")
    assert broken.files() == before


def test_a_base_that_was_only_touched_gets_a_cow_file_that_fits(broken: Broken) -> None:
    os.utime(broken.guest.base_path(ROOT), (1, 1))
    reset(broken, "root")
    assert broken.seen(ROOT) == broken.bases["root"]


@pytest.mark.parametrize("glance", [False, True])
def test_a_base_that_is_a_cow_file_is_refused(glance: bool, broken: Broken) -> None:
    (broken.directory / "home_fs").write_bytes((broken.directory / "home_cow").read_bytes())
    with pytest.raises(DataError, match="COW file itself"):
        reset(broken, "home", glance=glance)


# -- the store --------------------------------------------------------------------------------------------------------


def test_a_start_needs_no_store(broken: Broken) -> None:
    guest = dataclasses.replace(broken.guest, store="s3://no-such-bucket/nowhere")
    rebuild(broken.site, guest, ("root", "swap"))
    assert broken.seen(ROOT) == broken.bases["root"]


def test_where_nothing_was_recorded_no_store_is_made(tmp_path: Path) -> None:
    bare = Broken(SmallerSite(str(tmp_path / "site"))).make()
    bare.break_in()
    report = reset(bare)
    assert bare.seen(ROOT) == bare.bases["root"]
    assert Path(report.evidence, "records.jsonl").read_bytes() == b""
    assert sorted(os.listdir(tmp_path / "site")) == ["evidence", "guests", "run"]


def test_a_lost_store_is_noticed(broken: Broken) -> None:
    os.rename(f"{broken.site.directory}/store", f"{broken.site.directory}/away")
    before = broken.files()
    with pytest.raises(HistoryError):
        reset(broken)
    assert broken.files() == before
    reset(broken, now=True, glance=True)


def test_a_store_that_is_written_is_busy(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=MemoryStore())
    assert broken.store is not None
    with broken.store.writing("blackdance"), pytest.raises(BusyError):
        reset(broken)
