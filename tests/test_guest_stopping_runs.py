"""Stopping runs of guests: what it does to real processes, files and locks, and what it leaves alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.runs import PATIENCE_SECONDS, process_id, silent, write_end
from tests.kit.stoppable import (
    Setting,
    is_unlocked,
    outcomes,
    stoppable,
    stopped,
    unrelated,
)
from umldisk.config.site import Site
from umldisk.errors import BusyError, DataError, NoInputError, UsageError
from umldisk.guest import rundir
from umldisk.guest.aftermath import put_away, sweep
from umldisk.guest.ladder import Ladder, Rung, Step
from umldisk.guest.state import RunDisk, RunState, write_state
from umldisk.guest.stopping import RunHands
from umldisk.ops.running import stopping
from umldisk.ops.running.stopping import Stopped, stop_guest
from umldisk.system.pids import ProcessId


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with stoppable(tmp_path) as setting:
        yield setting


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with unrelated() as process:
        yield process


def test_sigterm_ends_the_main_process_and_the_rest_is_swept_up(setting: Setting) -> None:
    setting.run()
    assert len(setting.members) == 2
    assert not is_unlocked(setting.disk)
    report = stopped(setting)
    assert report.outcome is Stopped.STOPPED
    assert report.needed is Rung.TERM
    assert outcomes(report) == [("cad", "skipped"), ("halt", "skipped"), ("term", "ended")]
    assert report.killed == 1
    assert report.removed == (str(setting.throw_away),)
    assert report.status is None
    assert not setting.throw_away.exists()
    assert not any(member.is_alive() for member in setting.members)
    assert is_unlocked(setting.disk)


def test_sigkill_takes_all(setting: Setting) -> None:
    state = setting.run(ignores_term=True)
    report = stopped(setting, Ladder.of(timeouts_seconds={Rung.TERM: 0.1}))
    assert report.needed is Rung.KILL
    assert outcomes(report)[2:] == [("term", "no effect"), ("kill", "ended")]
    assert not any(member.is_alive() for member in setting.members)
    assert not state.is_alive()
    assert is_unlocked(setting.disk)


def test_stopping_twice_is_no_failure(setting: Setting) -> None:
    setting.run()
    stopped(setting)
    again = stopped(setting)
    assert again == replace(again, outcome=Stopped.NOT_RUNNING, needed=None, tried=(), killed=0, removed=())


def test_what_a_killed_main_process_left_is_ended(setting: Setting) -> None:
    setting.run()
    setting.processes[0].kill()
    setting.processes[0].wait()
    assert any(member.is_alive() for member in setting.members)
    report = stopped(setting)
    assert report.outcome is Stopped.NOT_RUNNING
    assert report.killed == 1
    assert report.removed == (str(setting.throw_away),)
    assert not any(member.is_alive() for member in setting.members)
    assert is_unlocked(setting.disk)


@pytest.mark.parametrize("jailed", [False, True])
def test_a_process_that_got_the_number_of_a_dead_guest_survives(
    setting: Setting, stranger: subprocess.Popen[bytes], jailed: bool
) -> None:
    reused = replace(process_id(stranger.pid), start_ticks=process_id(stranger.pid).start_ticks - 1)
    write_state(setting.run_directory, setting.state(reused, jailed=jailed, supervisor=reused))
    report = stopped(setting, Ladder.of(first=Rung.KILL))
    assert (report.outcome, report.killed) == (Stopped.NOT_RUNNING, 0)
    assert stranger.poll() is None


def test_a_session_that_got_the_number_of_a_dead_guest_survives(setting: Setting) -> None:
    """A daemon that forked away: its session has the number, and no leader any more."""
    daemon = (
        "import os\npid = os.fork()\nif pid:\n    print(pid, flush=True)\n    os._exit(0)\nimport time\ntime.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", daemon], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as forked:
        leader = process_id(forked.pid)
        assert forked.stdout is not None
        child = process_id(int(forked.stdout.readline()))
        forked.wait()
        try:
            write_state(setting.run_directory, setting.state(replace(leader, start_ticks=leader.start_ticks - 1)))
            assert stopped(setting).killed == 0
            assert child.is_alive()
        finally:
            child.send(signal.SIGKILL)


def test_a_living_supervisor_finishes_the_run(setting: Setting, stranger: subprocess.Popen[bytes]) -> None:
    state = setting.run(supervisor=process_id(stranger.pid))

    def supervise() -> None:
        state.kernel.wait(PATIENCE_SECONDS)
        write_end(setting.run_directory, -15, started_at=state.started_at)
        stranger.kill()

    thread = threading.Thread(target=supervise)
    thread.start()
    report = stopped(setting)
    thread.join()
    assert report.status == -15
    assert report.removed == ()
    assert setting.throw_away.exists()  # it was the supervisor's to remove


def test_a_supervisor_that_hangs_is_named(
    setting: Setting, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_SUPERVISOR_SECONDS", 0.1)
    setting.run(supervisor=process_id(stranger.pid))
    with pytest.raises(BusyError) as refused:
        stopped(setting)
    assert refused.value.pid == stranger.pid


def test_who_holds_a_disk_afterwards_is_named(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_UNLOCKED_SECONDS", 0.1)
    other = setting.disk.parent / "other"
    other.write_bytes(b"")
    state = setting.run()
    script = (
        "import os,sys,signal\nfrom umldisk.system.locks import try_lock\n"
        "assert try_lock(os.open(sys.argv[1], os.O_RDWR), exclusive=True)\nprint('up', flush=True)\nsignal.pause()"
    )
    write_state(setting.run_directory, replace(state, disks=(*state.disks, RunDisk("x", 5, str(other), None))))
    holder = subprocess.Popen([sys.executable, "-c", script, str(other)], stdout=subprocess.PIPE, text=True)
    setting.processes.append(holder)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(BusyError) as refused:
        stopped(setting)
    assert (refused.value.pid, refused.value.where) == (holder.pid, str(other))
    assert stopped(setting).outcome is Stopped.NOT_RUNNING  # it is none of ours: we ended nothing this time


def test_a_guest_that_cannot_be_ended_is_busy(setting: Setting) -> None:
    state = setting.run(ignores_term=True)
    with pytest.raises(BusyError) as refused:
        stopped(setting, Ladder((Step(Rung.TERM, 0.0),)))
    assert (refused.value.pid, refused.value.umid) == (state.kernel.pid, "g")
    assert setting.throw_away.exists()
    assert state.is_alive()


def test_a_guest_that_was_started_again_is_let_alone(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start may come as soon as the run is over: what it made is not to be removed."""
    old = setting.run()
    real = stopping.sweep

    def sweep_and_start(run_directory: str, state: RunState) -> int:
        killed = real(run_directory, state)
        monkeypatch.undo()
        write_state(run_directory, replace(old, kernel=process_id(setting.launch().pid), started_at=datetime.now(UTC)))
        return killed

    monkeypatch.setattr(stopping, "sweep", sweep_and_start)
    report = stopped(setting)
    assert report.needed is Rung.TERM
    assert report.removed == ()
    assert setting.throw_away.exists()
    assert setting.processes[1].poll() is None


def test_a_guest_that_is_being_started_is_busy(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_CLAIM_SECONDS", 0.1)
    with rundir.claim(setting.run_directory), pytest.raises(BusyError) as refused:
        stopped(setting)
    assert "being started" in str(refused.value)
    assert stopped(setting).outcome is Stopped.NOT_RUNNING


def test_a_guest_that_never_ran_and_one_that_is_not(tmp_path: Path) -> None:
    site = Site(str(tmp_path))
    (tmp_path / "guests" / "quiet").mkdir(parents=True)
    assert stop_guest(site, "quiet").outcome is Stopped.NOT_RUNNING
    assert not (tmp_path / "run").exists()
    with pytest.raises(NoInputError) as missing:
        stop_guest(site, "nobody")
    assert missing.value.where == str(tmp_path / "guests" / "nobody")
    with pytest.raises(UsageError):
        stop_guest(site, "../../etc")


def test_a_guest_is_stopped_whatever_umldisk_toml_says(setting: Setting) -> None:
    Path(setting.site.directory, "umldisk.toml").write_text("this is not TOML")
    setting.run()
    assert stopped(setting).needed is Rung.TERM


def test_a_state_that_makes_no_sense_stops_nobody(setting: Setting) -> None:
    Path(setting.run_directory, "state.json").write_text("{}")
    with pytest.raises(DataError):
        stopped(setting)


def test_a_dry_run_does_nothing(setting: Setting) -> None:
    state = setting.run()
    report = stop_guest(setting.site, "g", dry_run=True, ask=silent)
    assert (report.outcome, report.pid) == (Stopped.WOULD_STOP, state.kernel.pid)
    assert report.ladder == Ladder.of()
    assert state.is_alive()
    assert setting.throw_away.exists()


def test_sigterm_in_a_jail_goes_to_the_children_of_its_init(setting: Setting) -> None:
    script = "trap 'exit 0' TERM; sh -c 'trap \"exit 3\" TERM; echo up; while :; do sleep 0.05; done'; exit $?"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as init:
        assert init.stdout is not None
        assert init.stdout.readline() == "up\n"
        state = setting.state(process_id(init.pid), jailed=True)
        hands = RunHands(setting.run_directory, state, lambda command: command)
        assert hands.terminate()
        assert hands.ended(PATIENCE_SECONDS)
        assert init.wait() == 3  # not by its own trap
        assert not hands.terminate()


def test_settling_waits_until_the_disks_are_quiet(setting: Setting) -> None:
    state = setting.run()
    until = time.monotonic() + 1.0

    def write() -> None:
        while time.monotonic() < until:
            setting.disk.write_bytes(bytes(4096))
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    RunHands(setting.run_directory, state, lambda command: command).settle()
    assert time.monotonic() >= until
    writer.join()


def test_settling_ends_with_the_guest(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umldisk.guest.stopping._QUIET_SECONDS", 3600.0)
    monkeypatch.setattr("umldisk.guest.stopping._MOST_SETTLING_SECONDS", 3600.0)
    state = setting.run()
    timer = threading.Timer(0.2, setting.processes[0].kill)
    timer.start()
    RunHands(setting.run_directory, state, lambda command: command).settle()
    timer.join()
    assert not state.is_alive()


def test_a_jails_outside_gets_time_to_hand_on_the_exit_status(setting: Setting) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 0.5; exit 7"], start_new_session=True) as outside:
        leader = process_id(outside.pid)
        state = setting.state(replace(leader, start_ticks=1), leader=leader, jailed=True)
        assert sweep(setting.run_directory, state) == 0
        assert outside.wait() == 7


def test_all_disks_are_put_away_even_when_one_fails(setting: Setting) -> None:
    state = setting.state(ProcessId(1, 1, "x"))
    missing = RunDisk("gone", 1, str(setting.disk.parent / "gone"), None)
    with pytest.raises(NoInputError) as failed:
        put_away(replace(state, disks=(missing, *state.disks)))
    assert failed.value.where == missing.path
    assert not setting.throw_away.exists()
    assert put_away(state) == ()


def test_an_end_that_was_written_down_too_early_is_put_in_order_again(setting: Setting) -> None:
    """A supervisor that took the jail's end for the guest's: nobody synced what was written since."""
    state = setting.run()
    write_end(setting.run_directory, -9, started_at=state.started_at)
    report = stopped(setting)
    assert report.needed is Rung.TERM
    assert report.removed == (str(setting.throw_away),)
