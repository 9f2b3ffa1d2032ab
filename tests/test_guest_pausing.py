"""A guest that is paused goes on, whoever dies, hangs or is silent; and nobody believes that it stood still if not."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.fake_guest import RING, SECTOR, FakeGuest
from umldisk.errors import BusyError, StorageError
from umldisk.guest import pausing
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.mconsole.client import NoAnswerError
from umldisk.guest.pausing import Hold, Watchdog, held, orders_for, wait_until_drained
from umldisk.guest.state import RunState, write_state
from umldisk.guest.watchdog import GO, THAW
from umldisk.system.pids import ProcessId
from umldisk.system.processes import all_processes, family_of

_LONG_SECONDS = 120.0
Start = Callable[..., FakeGuest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return what starts a guest, whose disk is a plain one."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SECTOR * (RING + 1)))
    with ExitStack() as guests:

        def started(**options: object) -> FakeGuest:
            guest = guests.enter_context(FakeGuest(disk, ring_at=0, **options))  # type: ignore[arg-type]
            guest.wait_writing()
            return guest

        yield started


def run_of(guest: FakeGuest) -> RunState:
    return guest.run_state(("tmp", guest.path, None))


def hold(guest: FakeGuest, *, limit_seconds: float = _LONG_SECONDS, freezes: bool = False) -> Hold:
    return held(run_of(guest), limit_seconds=limit_seconds, freezes=freezes)


def pids_of(guest: FakeGuest) -> list[int]:
    return [process.pid for process in family_of(all_processes(), run_of(guest).leader)]


class Agent:
    """A guest's agent that notes into the mconsole's log what it is asked, or fails."""

    def __init__(self, guest: FakeGuest, *, failing: str = "") -> None:
        self._log = guest.directory / "log"
        self._failing = failing

    def freeze(self, mount_points: Sequence[str], *, guard_seconds: int) -> None:
        self._note("freeze")

    def thaw(self) -> None:
        self._note("thaw")

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what}\n")
        if what == self._failing:
            raise StorageError(f"cannot {what}")


# -- when all goes well -----------------------------------------------------------------------------------------------


def test_it_stands_still_within_the_block_and_nowhere_else(start: Start) -> None:
    guest = start()
    with hold(guest) as holding:
        guest.wait_writing()
        with holding.paused():
            wait_until_drained(pids_of(guest), [], holding.check)
            assert guest.is_still()
        guest.wait_writing()
    assert guest.log() == ["stop", "go"]
    assert holding.pause_seconds is not None
    assert 0.02 <= holding.pause_seconds < _LONG_SECONDS


def test_what_was_handed_to_the_io_thread_is_written_before_the_copy(start: Start) -> None:
    guest = start(drain_seconds=0.3)
    with guest.path.open("rb") as disk, hold(guest) as holding, holding.paused():
        wait_until_drained(pids_of(guest), [disk.fileno()], holding.check)
        assert guest.is_still()


def test_without_a_view_of_its_processes_the_disk_tells(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pausing, "_LOOKS_UNSEEN", 1000)  # the writer is a thread here, which may have to wait its turn
    guest = start(drain_seconds=0.3)
    with guest.path.open("rb") as disk, hold(guest) as holding, holding.paused():
        wait_until_drained([], [disk.fileno()], holding.check)
        assert guest.is_still()


def test_a_writer_that_never_ends_is_given_up(start: Start) -> None:
    guest = start(drain_seconds=_LONG_SECONDS)
    with (
        pytest.raises(BusyError, match=r"longer than 0\.5 s"),
        guest.path.open("rb") as disk,
        hold(guest, limit_seconds=0.5) as holding,
        holding.paused(),
    ):
        wait_until_drained(pids_of(guest), [disk.fileno()], holding.check)
    assert guest.log() == ["stop", "go"]


def test_a_freeze_is_thawed_by_both(start: Start) -> None:
    guest = start()
    with hold(guest, freezes=True) as holding, holding.frozen(Agent(guest), ["/var"]), holding.paused():
        pass
    assert guest.log() == ["freeze", "stop", "go", "thaw", THAW]


# -- when something fails ---------------------------------------------------------------------------------------------


def test_an_error_in_the_pause_lets_it_go_on(start: Start) -> None:
    guest = start()
    with (
        pytest.raises(ZeroDivisionError),
        hold(guest, freezes=True) as holding,
        holding.frozen(Agent(guest), ["/var"]),
        holding.paused(),
    ):
        raise ZeroDivisionError
    assert guest.log() == ["freeze", "stop", "go", THAW]
    guest.wait_writing()


@pytest.mark.parametrize(
    ("failing", "log"), [("freeze", ["freeze", THAW]), ("thaw", [*["freeze", "stop", "go", "thaw"], THAW])]
)
def test_an_agent_that_fails_is_no_excuse_for_not_thawing(start: Start, failing: str, log: list[str]) -> None:
    guest = start()
    with (
        pytest.raises(StorageError, match=f"cannot {failing}"),
        hold(guest, freezes=True) as holding,
        holding.frozen(Agent(guest, failing=failing), ["/var"]),
        holding.paused(),
    ):
        pass
    assert guest.log() == log


def test_a_guest_that_another_stopped_is_left_to_him(start: Start) -> None:
    guest = start()
    with hold(guest) as first, first.paused():
        with pytest.raises(BusyError, match="stopped already"), hold(guest) as second, second.paused():
            pass
        assert guest.is_still()
    assert guest.log() == ["stop", "stop refused", "go"]


def test_a_guest_that_somebody_let_go_on_is_found_out(start: Start) -> None:
    guest = start()
    with pytest.raises(BusyError, match="let the guest go on"), hold(guest) as holding, holding.paused():
        mconsole_of(run_of(guest)).send(GO)
    assert guest.log() == ["stop", "go", "go refused"]


def test_a_stop_without_an_answer_is_undone_all_the_same(start: Start) -> None:
    guest = start(silent={"stop": 1})
    with pytest.raises(StorageError, match="does not answer"), hold(guest) as holding, holding.paused():
        pytest.fail("it is not known to stand still")
    assert guest.obeyed() == ["stop", "go"]
    guest.wait_writing()


def test_go_is_sent_by_the_watchdog_when_ours_is_not_heard(start: Start) -> None:
    guest = start(deaf={GO: 2})  # ours at the end of the pause, and once more when all is undone
    orders = orders_for(run_of(guest), limit_seconds=_LONG_SECONDS, freezes=False)
    console = mconsole_of(run_of(guest), timeout_seconds=1)
    with (
        pytest.raises(NoAnswerError),
        Hold(console, Watchdog.arm(orders), where="g", limit_seconds=_LONG_SECONDS) as holding,
        holding.paused(),
    ):
        pass
    assert guest.obeyed() == ["stop", GO]
    guest.wait_writing()


def test_too_long_a_pause_is_ended_by_the_watchdog_and_not_believed(start: Start) -> None:
    guest = start()
    with (
        pytest.raises(BusyError, match=r"longer than 0\.2 s"),
        hold(guest, limit_seconds=0.2) as holding,
        holding.paused(),
    ):
        guest.wait_obeyed(GO)
    assert guest.log() == ["stop", GO, "go refused"]


# -- who is killed ----------------------------------------------------------------------------------------------------


def _kill(watchdog: Watchdog) -> None:
    process = ProcessId.of(watchdog.pid)
    assert process is not None
    os.kill(watchdog.pid, signal.SIGKILL)
    assert process.wait(30)


def test_without_a_watchdog_nothing_is_paused(start: Start) -> None:
    guest = start()
    watchdog = Watchdog.arm(orders_for(run_of(guest), limit_seconds=_LONG_SECONDS, freezes=False))
    console = mconsole_of(run_of(guest))
    _kill(watchdog)
    with (
        pytest.raises(StorageError, match="watchdog ended"),
        Hold(console, watchdog, where="g", limit_seconds=_LONG_SECONDS) as holding,
        holding.paused(),
    ):
        pass
    assert guest.log() == []


def test_a_watchdog_that_dies_in_the_pause_is_not_needed(start: Start) -> None:
    guest = start()
    watchdog = Watchdog.arm(orders_for(run_of(guest), limit_seconds=_LONG_SECONDS, freezes=False))
    console = mconsole_of(run_of(guest))
    with Hold(console, watchdog, where="g", limit_seconds=_LONG_SECONDS) as holding, holding.paused():
        _kill(watchdog)
    assert guest.log() == ["stop", "go"]


def test_a_watchdog_that_cannot_start_keeps_the_guest_from_being_paused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = start()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StorageError, match="did not start"):
        hold(guest)
    assert guest.log() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_polite_signals_do_not_move_the_watchdog(start: Start, number: signal.Signals) -> None:
    guest = start()
    watchdog = Watchdog.arm(orders_for(run_of(guest), limit_seconds=_LONG_SECONDS, freezes=False))
    os.kill(watchdog.pid, number)
    assert not watchdog.dismiss()
    assert guest.log() == []


_TAKING = """
import os, signal, sys
from umldisk.guest.pausing import held
from umldisk.guest.state import read_state

class Agent:
    def freeze(self, mount_points, *, guard_seconds): step("freeze")
    def thaw(self): step("thaw")

def step(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

with held(read_state(sys.argv[1]), limit_seconds=600, freezes=True) as hold:
    step("armed")
    with hold.frozen(Agent(), ["/var"]):
        with hold.paused():
            step("paused")
    step("thawed")
"""


@pytest.mark.parametrize("step", ["armed", "freeze", "paused", "thaw", "thawed"])
def test_killed_at_any_step_the_guest_is_let_go(start: Start, tmp_path: Path, step: str) -> None:
    guest = start()
    write_state(str(tmp_path), run_of(guest))
    command = [sys.executable, "-c", _TAKING, str(tmp_path), step]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    guest.wait_obeyed(THAW)
    log = guest.log()
    assert [line for line in guest.obeyed() if line in ("stop", GO)] == (
        [] if step in ("armed", "freeze") else ["stop", GO]
    )
    assert GO in [line.split()[0] for line in log] or step == "armed"
    guest.wait_writing()


def test_the_watchdog_loads_little(bare_environment: dict[str, str]) -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import umldisk.guest.watchdog"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=bare_environment)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "umldisk.guest.watchdog" in loaded
    assert loaded.isdisjoint({"subprocess", "tomllib", "umldisk.config.load", "umldisk.cow.file", "sqlite3"})
