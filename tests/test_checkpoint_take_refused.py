"""Taking checkpoints of disks that somebody uses or holds still, and only saying what one would do."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.memory_store import MemoryStore
from tests.kit.nights import BASE, MERGE, PLACE, REGION, Scene, sector, take
from umldisk.checkpoint.catalog import CATALOG_NAME
from umldisk.checkpoint.record import Consistency
from umldisk.checkpoint.recording import Why
from umldisk.checkpoint.store import CHUNKS
from umldisk.config.guest import Guest
from umldisk.cow.file import Access, CowFile
from umldisk.cow.inplace import SiblingPolicy
from umldisk.errors import BusyError, DataError, NoInputError, UmldiskError, UsageError
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.drives import OpenDrive, Still
from umldisk.ops.checkpoints.take_report import TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, BASE)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


_GUEST = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(fd, getattr(fcntl, sys.argv[2]) | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(path: Path, kind: str = "LOCK_EX") -> Iterator[int]:
    """Hold a file as a guest that runs does."""
    command = [sys.executable, "-c", _GUEST, str(path), kind, "umid=blackdance"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child.pid
        child.stdin.close()


@pytest.mark.parametrize("options", [TakeOptions(), MERGE, TakeOptions(dry_run=True)])
def test_a_running_guest_is_named_and_nothing_is_recorded(
    scene: Scene, store: MemoryStore, options: TakeOptions
) -> None:
    with running(scene.cow) as pid, pytest.raises(BusyError) as caught:
        take(scene, store, options)
    assert (caught.value.exit_code, caught.value.pid, caught.value.umid) == (75, pid, "blackdance")
    assert not store.log
    assert not (scene.directory / CATALOG_NAME).exists()


def test_one_busy_drive_keeps_all_from_being_recorded(scene: Scene, store: MemoryStore) -> None:
    home = scene.backing.with_name("home_fs")
    home.write_bytes(b"h" * 512)
    with running(home), pytest.raises(BusyError):
        take_checkpoint(scene.site, "g", ["var", "home"], store=store)
    assert not store.log
    report = take_checkpoint(scene.site, "g", ["var", "home", "var"], store=store)
    assert [(taken.drive, taken.number) for taken in report.drives] == [("var", 1), ("home", 2)]


def test_a_reader_of_the_backing_file_is_in_the_way_of_a_merge_alone(scene: Scene, store: MemoryStore) -> None:
    with running(scene.backing, "LOCK_SH"):
        assert take(scene, store).number == 1
        with pytest.raises(BusyError):
            take(scene, store, MERGE)
    assert take(scene, store, MERGE).number == 2


def test_a_disk_that_is_written_without_a_lock_meanwhile_is_not_recorded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MemoryStore):
        def flush(self) -> None:
            with scene.backing.open("r+b") as file:
                file.write(b"?")

    store = Slow()
    with pytest.raises(BusyError, match="written to while it was read"):
        take(scene, store)
    assert not [key for key in store.data if not key.startswith(CHUNKS)]
    assert scene.base_state() is None


def test_a_second_writer_of_the_guest_is_refused(scene: Scene, store: MemoryStore) -> None:
    with store.writing("g"), pytest.raises(BusyError):
        take(scene, store)
    with store.collecting(), pytest.raises(BusyError):
        take(scene, store)
    assert take(scene, store).number == 1


def test_the_drives_are_locked_until_all_is_done(scene: Scene) -> None:
    """A guest that starts between recording and merging would be merged unrecorded."""
    tried: list[str] = []

    class Curious(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if key.endswith(".caibx"):
                code = _GUEST.replace('print("held", flush=True)\nsys.stdin.read()\n', "")
                tries = (
                    subprocess.run([sys.executable, "-c", code, str(path), "LOCK_EX"], check=False, capture_output=True)
                    for path in (scene.cow, scene.backing)
                )
                tried.append(" ".join("free" if found.returncode == 0 else "locked" for found in tries))

    scene.write_night(sector(3))
    take(scene, Curious(), MERGE)
    assert tried == ["locked locked", "free locked"]  # at the second the COW file is a new one, the backing not free


@pytest.mark.parametrize(
    ("drives", "kind", "says"),
    [(["nosuch"], UsageError, "no such drive"), (["home"], NoInputError, "home_fs")],
)
def test_what_is_not_there_is_named(
    scene: Scene, store: MemoryStore, drives: list[str], kind: type[UmldiskError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        take_checkpoint(scene.site, "g", drives, store=store)


def test_siblings_are_refused_before_anything_is_recorded(scene: Scene, store: MemoryStore) -> None:
    scene.write_night(sector(3))
    sibling = scene.cow.with_name("other_cow")
    model.write_cow(sibling, scene.backing, sector(8))
    with pytest.raises(DataError, match="other COW files"):
        take(scene, store, MERGE)
    assert not store.log
    assert take(scene, store, TakeOptions(merge=True, siblings=SiblingPolicy.ORPHAN)).merged


# -- openers and rehearsal --------------------------------------------------------------------------------------------


def test_whoever_holds_the_guest_still_answers_for_the_disks(scene: Scene, store: MemoryStore) -> None:
    asked: list[object] = []

    @contextmanager
    def frozen(guest: Guest, drives: Sequence[Drive], /, *, to_merge: bool, rehearsing: bool) -> Iterator[Still]:
        asked.append((guest.name, [drive.name for drive in drives], rehearsing))
        access = Access(lock=False)
        with CowFile.open(scene.cow, scene.backing, access=access) as cow:
            yield Still((OpenDrive(drives[0], cow.layer, cow, cow.backing),), Consistency.FROZEN, 0.25)
        asked.append("thawed")

    scene.write_night(sector(3))
    with running(scene.cow):
        report = take_checkpoint(scene.site, "g", store=store, opener=frozen)
        with pytest.raises(UsageError, match="cannot be merged"):
            take_checkpoint(scene.site, "g", (), MERGE, store=store, opener=frozen)
    assert (report.consistency, report.pause_seconds) == (Consistency.FROZEN, 0.25)
    assert asked[:2] == [("g", ["var"], False), "thawed"]
    scene.assert_recorded(store, 1, scene.view)


def test_a_rehearsal_says_what_would_be_read_and_writes_nothing(scene: Scene, store: MemoryStore) -> None:
    scene.write_night(sector(3))
    rehearse = TakeOptions(dry_run=True, merge=True)
    first = take(scene, store, rehearse)
    assert (first.number, first.why, first.read_bytes) == (None, Why.NEW, REGION + PLACE)
    assert not (scene.directory / CATALOG_NAME).exists()
    take(scene, store)
    files = {path: path.read_bytes() for path in scene.directory.rglob("*") if path.is_file()}
    before = store.copy().data
    second = take(scene, store, rehearse)
    assert (second.number, second.why, second.read_bytes, second.merged) == (None, Why.KNOWN, PLACE, False)
    assert store.data == before
    assert {path: path.read_bytes() for path in files if path.suffix != ".db-shm"} == files
