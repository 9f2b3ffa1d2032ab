"""What a start makes of the drives: the table as data, then the files themselves."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.model import merged
from tests.kit.peers import mounted, needs
from tests.kit.resets import shown, start, started_guest
from tests.kit.restorable import HOME, ROOT, TMP, VAR, Broken, SmallerSite, SmallSite, noise
from umldisk.config.guest import Guest
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile, read_header
from umldisk.errors import BusyError, NoInputError, StorageError, UsageError
from umldisk.guest.at_start import Step, plan_start_policies
from umldisk.guest.state import RunDisk
from umldisk.image.drives import AtStart, Drive
from umldisk.system import locks
from umldisk.system.files import open_disk

# -- the table --------------------------------------------------------------------------------------------------------

_REFERENCE = {
    # policy, runs copy-on-write, has its COW file
    (AtStart.KEEP, True, True): Step.NOTHING,
    (AtStart.KEEP, True, False): Step.EMPTY_COW,
    (AtStart.KEEP, False, False): Step.NOTHING,
    (AtStart.DISCARD, True, True): Step.THROW_AWAY,
    (AtStart.DISCARD, True, False): Step.THROW_AWAY,
    (AtStart.DISCARD, False, False): Step.THROW_AWAY,
    (AtStart.REBUILD, True, True): Step.REBUILD,
    (AtStart.REBUILD, True, False): Step.REBUILD,
    (AtStart.REBUILD, False, False): Step.REBUILD,
}


@st.composite
def _guests(draw: st.DrawFn) -> Guest:
    letters = draw(st.lists(st.sampled_from("abcdef"), min_size=1, unique=True))
    drives = [
        Drive(name, ubd, f"/{name}", copy_on_write=draw(st.booleans()), at_start=draw(st.sampled_from(AtStart)))
        for ubd, name in enumerate(letters)
    ]
    return Guest("blackdance", "/nowhere", tuple(draw(st.permutations(drives))))


@given(_guests(), st.data())
def test_the_plan_is_the_table(guest: Guest, data: st.DataObject) -> None:
    cows = [drive.cow_name for drive in guest.drives if drive.cow_name]
    present = data.draw(st.sets(st.sampled_from(cows))) if cows else set()
    discard = data.draw(st.sets(st.sampled_from([drive.name for drive in guest.drives])))
    plan = plan_start_policies(guest, [*present, "manifest.json"], discard=sorted(discard))
    assert [one.drive.ubd for one in plan] == list(range(len(guest.drives)))
    for drive, step in ((one.drive, one.step) for one in plan):
        policy = AtStart.DISCARD if drive.name in discard else drive.at_start
        assert step is _REFERENCE[policy, drive.copy_on_write, drive.cow_name in present]


def test_a_drive_that_there_is_not_cannot_be_discarded() -> None:
    with pytest.raises(UsageError, match="no such drive"):
        plan_start_policies(Guest("blackdance", "/nowhere"), [], discard=["etc"])


# -- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return started_guest(str(tmp_path / "site"))


def test_kept_drives_are_left_alone_and_get_the_cow_file_that_they_lack(broken: Broken) -> None:
    before = {name: os.stat(broken.directory / name) for name in broken.names}
    disks = start(broken)
    directory = str(broken.directory)
    assert disks["root"] == RunDisk("root", 0, f"{directory}/root_cow", f"{directory}/root_fs")
    assert disks["swap"] == RunDisk("swap", 4, f"{directory}/swap_fs", None)
    assert broken.names == before.keys() | {"var_cow"}
    assert {name: os.stat(broken.directory / name).st_ino for name in before} == {
        n: s.st_ino for n, s in before.items()
    }
    assert shown(disks["var"].path) == broken.bases["var"]


def test_a_new_cow_file_is_the_one_that_create_makes(broken: Broken, tmp_path: Path) -> None:
    disks = start(broken)
    create(tmp_path / "var_cow", broken.guest.base_path(VAR))
    assert Path(disks["var"].path).read_bytes() == (tmp_path / "var_cow").read_bytes()
    with open_disk(disks["var"].path) as cow:
        header = read_header(cow)
    assert header.dialect is Dialect.V3
    assert os.fsdecode(header.backing_path) == disks["var"].backing


def test_paths_are_without_symlinks_as_in_the_header(broken: Broken, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "site")
    linked = Broken(SmallerSite(str(tmp_path / "link")))
    disks = start(linked)
    assert disks["var"].path == str(broken.directory / "var_cow")
    with open_disk(disks["var"].path) as cow:
        assert os.fsdecode(read_header(cow).backing_path) == disks["var"].backing


def test_all_again_changes_nothing(broken: Broken) -> None:
    first = start(broken)
    before = broken.files()
    assert start(broken) == first
    assert broken.files() == before


def test_what_is_discarded_shows_the_drive_and_keeps_no_change(broken: Broken) -> None:
    before, seen = broken.files(), broken.seen(ROOT)
    disks = start(broken, "root", home=AtStart.DISCARD, var=AtStart.DISCARD)
    assert [disks[name].thrown_away for name in ("root", "var", "home", "swap")] == [True, True, True, False]
    assert disks["root"].path == str(broken.directory / ".root_cow.discard")
    assert shown(disks["root"].path) == seen
    assert shown(disks["var"].path) == broken.bases["var"]
    with open(disks["root"].path, "r+b") as file:
        file.write(b"\xff" * 100_000)
    after = broken.files()
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {".root_cow.discard", ".var_cow.discard", ".home_cow.discard"}


def test_a_copy_is_what_the_guest_saw(broken: Broken) -> None:
    path = start(broken, "root")["root"].path
    changes = {sector: noise(f"work {sector}", 512) for sector in (1, 2, 900)}
    with CowFile.open(path, access=Access(lock=False)) as cow:
        assert cow.read(0, cow.size_bytes) == merged(broken.bases["root"], changes)
        assert sum(run.sectors for run in cow.runs()) == 3


def test_a_disk_without_a_cow_file_gets_one_to_be_discarded(broken: Broken) -> None:
    disks = start(broken, "swap")
    assert disks["swap"] == RunDisk(
        "swap", 4, str(broken.directory / ".swap_cow.discard"), str(broken.directory / "swap_fs"), thrown_away=True
    )
    assert shown(disks["swap"].path) == broken.bases["swap"]


def test_the_next_start_sees_nothing_of_what_was_discarded(broken: Broken) -> None:
    seen = broken.seen(ROOT)
    path = start(broken, "root")["root"].path
    with CowFile.open(path) as cow:
        offset = cow.geometry.data_offset
    with open(path, "r+b") as file:
        file.seek(offset + 512)
        file.write(b"intruder")
    assert shown(path) != seen
    assert shown(start(broken, "root")["root"].path) == seen


def test_what_an_earlier_run_left_is_removed(broken: Broken) -> None:
    start(broken, "root", "swap")
    start(broken)
    assert not [name for name in broken.names if name.startswith(".")]


def test_discarding_is_stronger_than_rebuilding(broken: Broken) -> None:
    before, seen = broken.files(), broken.seen(ROOT)
    disks = start(broken, "root", root=AtStart.REBUILD)
    assert shown(disks["root"].path) == seen
    assert broken.files()["root_cow"] == before["root_cow"]


def test_rebuilt_drives_start_anew_and_nothing_is_kept(broken: Broken) -> None:
    home = broken.seen(HOME)
    disks = start(broken, root=AtStart.REBUILD, swap=AtStart.REBUILD)
    assert disks["root"] == RunDisk("root", 0, f"{broken.directory}/root_cow", f"{broken.directory}/root_fs")
    assert shown(disks["root"].path) == broken.bases["root"]
    assert broken.seen(HOME) == home
    assert Path(disks["swap"].path).read_bytes() != broken.bases["swap"]
    assert sorted(os.listdir(broken.site.directory)) == ["guests"]


@needs("mke2fs", "debugfs", "e2fsck")
def test_a_rebuilt_tmp_is_empty(tmp_path: Path) -> None:
    broken = Broken(SmallSite(str(tmp_path / "site"))).make()
    disks = start(broken, tmp=AtStart.REBUILD)
    assert disks["tmp"] == RunDisk("tmp", TMP.ubd, f"{broken.directory}/tmp_fs", None)
    assert Path(disks["tmp"].path).read_bytes() != broken.bases["tmp"]


def test_holes_stay_holes(broken: Broken) -> None:
    os.truncate(broken.guest.base_path(HOME), 1 << 30)
    broken.write(HOME, 1, 2_000_000, word="far apart")
    path = start(broken, "home")["home"].path
    assert Path(path).stat().st_size > 1 << 30
    assert Path(path).stat().st_blocks <= 2 * (broken.directory / "home_cow").stat().st_blocks
    with CowFile.open(path) as cow:
        assert cow.read(2_000_000 * 512, 512) == noise("far apart 2000000", 512)


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discard", [(), ("var",)])
def test_without_a_base_there_is_nothing_to_start(discard: tuple[str, ...], broken: Broken) -> None:
    os.unlink(broken.directory / "var_fs")
    before = broken.files()
    with pytest.raises(NoInputError):
        start(broken, *discard)
    assert broken.files() == before


def test_a_cow_file_that_is_written_is_not_copied(broken: Broken) -> None:
    before = broken.files()
    with open(broken.directory / "root_cow", "r+b") as user:
        assert locks.try_lock(user.fileno(), exclusive=True)
        with pytest.raises(BusyError):
            start(broken, "root")
    assert broken.files() == before


def test_a_guest_that_is_being_built_is_not_started(broken: Broken) -> None:
    with open(broken.directory / ".lock", "w") as lock:
        assert locks.try_lock(lock.fileno(), exclusive=True)
        with pytest.raises(BusyError):
            start(broken)


def test_an_unfinished_restore_is_not_started(broken: Broken) -> None:
    (broken.directory / ".restored").mkdir()
    with pytest.raises(BusyError, match="not finished"):
        start(broken)


@needs("tmpfs")
def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=8 << 20) as point:
        broken = Broken(SmallerSite(str(point / "site"))).make()
        seen = broken.write(HOME, *range(8, 2000), word="all")
        with open(point / "filler", "wb") as filler:
            room = os.statvfs(point)
            filler.write(bytes(room.f_bavail * room.f_frsize - (256 << 10)))
        before = broken.files()
        with pytest.raises(StorageError, match="No space left"):
            start(broken, "home")
        assert {name: data for name, data in broken.files().items() if name in before} == before
        assert broken.names <= before.keys() | {"var_cow", "root_cow"}
        os.unlink(point / "filler")
        assert shown(start(broken, "home")["home"].path) == seen
