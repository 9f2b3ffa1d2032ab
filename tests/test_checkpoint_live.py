"""Taking checkpoints of guests that run: what is recorded is one moment of what the guest itself has open.

The guest is a fake that writes as fast as it can, in a way that shows whether a copy is of one moment.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.fake_guest import RING, SECTOR, FakeGuest, assert_one_moment
from tests.kit.memory_store import MemoryStore
from tests.kit.nights import MERGE, contents
from tests.kit.peers import needs
from tests.kit.running_site import DISK_BYTES, RING_AT, RunningSite, make_file_system, ring_of
from tests.kit.runs import ended_process
from umldisk.checkpoint import history
from umldisk.checkpoint.basestate import BackingIdentity
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.record import Consistency
from umldisk.checkpoint.recording import Why
from umldisk.checkpoint.store import index_key
from umldisk.config.site import Site
from umldisk.errors import BusyError, DataError, StorageError, UmldiskError, UsageError
from umldisk.guest.state import write_state
from umldisk.guest.watchdog import THAW
from umldisk.ops.checkpoints.live import Live
from umldisk.ops.checkpoints.take_report import TakenDrive, TakeOptions, TakeReport
from umldisk.ops.checkpoints.taking import take_checkpoint

pytestmark = needs("mke2fs")


def only(report: TakeReport) -> TakenDrive:
    (taken,) = report.drives
    return taken


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def running(tmp_path: Path, resources: ExitStack) -> RunningSite:
    return RunningSite(tmp_path, resources, "-t ext4")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# -- what is recorded -------------------------------------------------------------------------------------------------


def test_night_after_night_one_moment_is_recorded(running: RunningSite, store: MemoryStore) -> None:
    before = running.base.read_bytes()
    counters = []
    for night in range(1, 4):
        written = running.guest.written()
        report = running.take(store)
        assert report.consistency is Consistency.JOURNAL
        assert report.pause_seconds is not None
        assert report.pause_seconds > 0
        taken = only(report)
        assert (taken.number, taken.read_whole) == (night, night == 1)
        image = running.recorded(store, night)
        counters.append(assert_one_moment(ring_of(image)))
        assert counters[-1] >= written
        assert image[:RING_AT] == before[:RING_AT]
        running.guest.wait_writing()
    assert counters == sorted(set(counters))
    assert running.guest.log() == ["sysrq s", "stop", "go"] * 3
    assert running.base.read_bytes() == before


def test_what_the_io_thread_still_writes_is_waited_for(
    tmp_path: Path, resources: ExitStack, store: MemoryStore
) -> None:
    running = RunningSite(tmp_path, resources, "-t ext4", drain_seconds=0.3)
    report = running.take(store)
    assert_one_moment(ring_of(running.recorded(store, 1)))
    assert report.pause_seconds is not None
    assert report.pause_seconds >= 0.3


def test_the_test_would_notice_a_copy_of_a_disk_that_is_written(running: RunningSite) -> None:
    """The control: read while the guest writes, the ring is of no moment, sooner or later."""

    def look() -> None:
        for _attempt in range(1000):
            raw = running.cow.read_bytes()
            assert_one_moment(raw[-DISK_BYTES + RING_AT :][: SECTOR * (RING + 1)])

    with pytest.raises(AssertionError, match="says"):
        look()


def test_the_backing_file_is_believed_only_while_it_is_the_same(running: RunningSite, store: MemoryStore) -> None:
    running.take(store)
    with Catalog.open(Path(running.site.directory) / CATALOG_NAME, writable=True) as catalog:
        state = catalog.base_state("g", "var")
    assert state is not None
    assert state.identity == BackingIdentity.of(running.base.stat())
    assert state.holds_for(running.base.stat())
    again = only(running.take(store))
    assert (again.why, again.read_whole) == (Why.KNOWN, False)
    seconds = int(running.base.stat().st_mtime)
    os.utime(running.base, ns=(0, seconds * 10**9))  # which UML takes for the same
    assert only(running.take(store)).why is Why.TOUCHED
    assert_one_moment(ring_of(running.recorded(store, 3)))


def test_a_plain_disk_is_read_from_a_copy_of_which_nothing_is_remembered(
    tmp_path: Path, resources: ExitStack, store: MemoryStore
) -> None:
    site = Site(str(tmp_path))
    disk = tmp_path / "guests" / "g" / "tmp_fs"
    disk.parent.mkdir(parents=True)
    make_file_system(disk, "-t ext4")
    guest = resources.enter_context(FakeGuest(disk, ring_at=RING_AT))
    guest.wait_writing()
    os.makedirs(site.run_directory("g"))
    write_state(site.run_directory("g"), guest.run_state(("tmp", disk, None)))
    for number in (1, 2):
        taken = only(take_checkpoint(site, "g", ["tmp"], store=store))
        assert taken.read_whole
        assert_one_moment(ring_of(contents(store, parse(store.get(index_key("g", number))))))
    with Catalog.open(tmp_path / CATALOG_NAME, writable=True) as catalog:
        assert catalog.base_state("g", "tmp") is None


def test_a_guest_whose_jail_was_killed_by_itself_is_recorded(running: RunningSite, store: MemoryStore) -> None:
    running.know(replace(running.run, leader=ended_process(), jailed=True))
    running.take(store)
    assert_one_moment(ring_of(running.recorded(store, 1)))
    assert running.guest.log() == ["sysrq s", "stop", "go"]


def test_nothing_is_left_beside_the_disks(running: RunningSite, store: MemoryStore) -> None:
    running.take(store)
    assert sorted(path.name for path in running.base.parent.iterdir()) == ["var_cow", "var_fs"]
    assert [path.name for path in (running.guest.directory).rglob(".mc-*")] == []


def test_a_rehearsal_does_not_touch_the_guest(running: RunningSite, store: MemoryStore) -> None:
    report = running.take(store, TakeOptions(dry_run=True))
    assert (report.consistency, report.pause_seconds) == (Consistency.JOURNAL, None)
    assert only(report).read_bytes >= SECTOR
    assert running.guest.log() == []
    assert not store.log


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(running: RunningSite, kind: type[UmldiskError], says: str, **options: object) -> None:
    """The take is refused, the guest was not touched, nothing recorded."""
    store = MemoryStore()
    with pytest.raises(kind, match=says):
        running.take(store, **options)  # type: ignore[arg-type]
    assert "stop" not in running.guest.log()
    assert not store.log
    running.guest.wait_writing()


def test_a_merge_is(running: RunningSite) -> None:
    refused(running, UsageError, "cannot be merged", options=MERGE)


def test_a_drive_that_the_run_has_not_is(running: RunningSite) -> None:
    refused(running, DataError, "started without this drive", drives=["home"])


def test_a_guest_that_others_started_is(running: RunningSite) -> None:
    os.unlink(f"{running.run_directory}/state.json")
    refused(running, BusyError, "in use")


@pytest.mark.parametrize("kind", ["-t ext2", "-t ext4 -O ^has_journal", ""])
def test_what_has_no_journal_is_without_an_agent(tmp_path: Path, resources: ExitStack, kind: str) -> None:
    running = RunningSite(tmp_path, resources, kind)
    refused(running, DataError, "var cannot be recorded while the guest runs.*no agent")


def test_a_freeze_is_without_an_agent(running: RunningSite) -> None:
    refused(running, DataError, "a freeze was asked for, and the guest has no agent", options=TakeOptions(freeze=True))


@pytest.mark.parametrize("name", ["cow", "base"])
def test_a_disk_that_was_replaced_under_the_guest_is(running: RunningSite, name: str) -> None:
    path: Path = getattr(running, name)
    copy = path.with_name("copy")
    subprocess.run(["cp", "--sparse=always", "--preserve=all", path, copy], check=True)
    os.rename(copy, path)
    refused(running, DataError, "does not have this disk open")


def test_a_link_in_the_disks_place_is(running: RunningSite) -> None:
    away = running.cow.with_name("away")
    os.rename(running.cow, away)
    running.cow.symlink_to(away)
    refused(running, UmldiskError, "cannot open")


def test_what_is_no_file_is(running: RunningSite) -> None:
    os.rename(running.cow, running.cow.with_name("away"))
    os.mkfifo(running.cow)
    refused(running, DataError, "not a disk that can be recorded while its guest runs")


def test_a_disk_without_room_for_its_copy_is(running: RunningSite, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        values = list(real(fd))
        values[4] = 1
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "fstatvfs", full)
    refused(running, StorageError, "too little room")


# -- freezing ---------------------------------------------------------------------------------------------------------


class Agent:
    """The guest's agent, which notes what it is asked into the mconsole's log."""

    def __init__(self, guest: FakeGuest) -> None:
        self._log = guest.directory / "log"

    def freeze(self, mount_points: Sequence[str], *, guard_seconds: int) -> None:
        self._note(f"freeze {' '.join(mount_points)}")

    def thaw(self) -> None:
        self._note("thaw")

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what}\n")


@pytest.mark.parametrize(("kind", "freeze"), [("-t ext2", False), ("-t ext4", True)])
def test_a_file_system_is_frozen_where_it_must_or_shall_be(
    tmp_path: Path, resources: ExitStack, store: MemoryStore, kind: str, freeze: bool
) -> None:
    running = RunningSite(tmp_path, resources, kind)
    run = replace(running.run, has_agent=True)
    opener = Live(run, running.run_directory, freeze, freezer=lambda _directory: nullcontext(Agent(running.guest)))
    report = take_checkpoint(running.site, "g", store=store, opener=opener)
    assert report.consistency is Consistency.FROZEN
    assert running.guest.log() == ["sysrq s", "freeze /var", "stop", "go", "thaw", THAW]
    assert_one_moment(ring_of(running.recorded(store, 1)))


# -- who is killed ----------------------------------------------------------------------------------------------------

_TAKING = """
import os, signal, sys
from umldisk.config.site import Site
from umldisk.checkpoint import history
from umldisk.guest import pausing
from umldisk.guest.mconsole.client import Mconsole
from umldisk.ops.checkpoints import live
from umldisk.ops.checkpoints.frozen import Room
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.system import transfer

left = int(sys.argv[2])

def step(name):
    global left
    left -= 1
    if left < 0:
        os.write(1, name.encode())
        os.kill(os.getpid(), signal.SIGKILL)

def watched(home, name):
    real = getattr(home, name)
    def stand_in(*arguments, **options):
        step("before " + name)
        try:
            return real(*arguments, **options)
        finally:
            step("after " + name)
    setattr(home, name, stand_in)

watched(Mconsole, "send")
watched(pausing.Watchdog, "dismiss")
watched(live, "wait_until_drained")
watched(Room, "fill")
watched(transfer, "copy")
watched(history, "append")
take_checkpoint(Site(sys.argv[1]), "g")
"""


@pytest.mark.slow
def test_killed_anywhere_the_guest_goes_on_and_the_history_too(running: RunningSite) -> None:
    store = DirectoryStore(f"{running.site.directory}/store")
    died: list[str] = []
    for number in range(200):
        command = [sys.executable, "-c", _TAKING, running.site.directory, str(number)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        stops = running.guest.obeyed().count("stop")
        running.guest.wait_obeyed("go", stops)
        running.guest.wait_writing()
        for record in range(1, len(history.verify_chain(store, None, "g")) + 1):
            assert_one_moment(ring_of(running.recorded(store, record)))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        died.append(done.stdout)
    assert done.returncode == 0
    assert {"before copy", "after copy", "after fill", "before dismiss", "before append"} <= set(died)
    assert died.count("before send") == 3
    assert running.guest.obeyed().count("stop") == running.guest.obeyed().count("go") > 5
