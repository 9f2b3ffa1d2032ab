"""Stopping guests of which not all is known: that come up meanwhile, that nobody wrote down, without a supervisor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.children import child
from tests.kit.commands import holding
from tests.kit.runs import PATIENCE_SECONDS, ended_process, process_id, write_end
from tests.kit.stoppable import Setting, outcomes, stoppable, stopped, unrelated
from umldisk.errors import BusyError
from umldisk.guest import rundir
from umldisk.guest.console_log import log_name
from umldisk.guest.ladder import Ladder, Rung
from umldisk.guest.rundir import CONSOLE_OUT, Claim
from umldisk.guest.state import RunEnd, RunState, read_end, write_state
from umldisk.guest.waiting import Goal, Waited
from umldisk.ops.running import stopping
from umldisk.ops.running.status import site_status
from umldisk.ops.running.status_run import GuestState
from umldisk.ops.running.stopping import Stopped, stop_guest
from umldisk.ops.running.waiting import wait_for_guest

_LOCK_AS_GUEST = "import fcntl; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX)"


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with stoppable(tmp_path) as setting:
        yield setting


def nothing_known(_setting: Setting) -> None:
    """Leave a guest as one that was never started."""


def ended_in_order(setting: Setting) -> None:
    state = setting.state(ended_process())
    write_state(setting.run_directory, state)
    write_end(setting.run_directory, 0, started_at=state.started_at)


def killed_with_its_supervisor(setting: Setting) -> None:
    write_state(setting.run_directory, setting.state(ended_process()))


def run_directory_removed(setting: Setting) -> None:
    shutil.rmtree(setting.run_directory)


_EARLIER = pytest.mark.parametrize("earlier", [nothing_known, ended_in_order, killed_with_its_supervisor])
_UNRECORDED = pytest.mark.parametrize(
    "earlier", [nothing_known, ended_in_order, killed_with_its_supervisor, run_directory_removed]
)
_Earlier = Callable[[Setting], None]


def how(setting: Setting) -> GuestState:
    (guest,) = site_status(setting.site, "g", ask=lambda _state: False).guests
    return guest.state


# -- guests that are being started -----------------------------------------------------------------------------------


@_EARLIER
def test_a_guest_that_comes_up_while_it_is_stopped_is_stopped(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, earlier: _Earlier
) -> None:
    earlier(setting)
    begun: list[RunState] = []
    real = rundir.claim
    starting = real(setting.run_directory)

    def claim(run_directory: str) -> Claim:
        """Refuse as long as the guest is being started, which lasts until that was noticed."""
        try:
            return real(run_directory)
        except BusyError:
            if not begun:
                starting.lock.close()
                begun.append(setting.run())
            raise

    monkeypatch.setattr(rundir, "claim", claim)
    report = stopped(setting)
    assert (report.outcome, report.needed) == (Stopped.STOPPED, Rung.TERM)
    assert report.pid == begun[0].kernel.pid
    assert not begun[0].is_alive()


@_EARLIER
def test_a_start_that_takes_long_is_named(setting: Setting, monkeypatch: pytest.MonkeyPatch, earlier: _Earlier) -> None:
    monkeypatch.setattr(stopping, "_CLAIM_SECONDS", 0.1)
    earlier(setting)
    with holding(Path(setting.run_directory, "lock")) as starting, pytest.raises(BusyError) as refused:
        stopped(setting)
    assert refused.value.line() == f"the guest is being started or stopped by PID {starting} (g)"
    assert refused.value.hint is not None
    assert "umldisk stop" not in refused.value.hint
    assert stopped(setting).outcome is Stopped.NOT_RUNNING


# -- guests that nobody wrote down -----------------------------------------------------------------------------------


@_UNRECORDED
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_guest_without_a_record_is_not_called_stopped(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, earlier: _Earlier, dry_run: bool
) -> None:
    monkeypatch.setattr(stopping, "_UNLOCKED_SECONDS", 0.1)
    earlier(setting)
    with child(_LOCK_AS_GUEST, str(setting.disk), "umid=mine") as guest:
        assert how(setting) is GuestState.FOREIGN
        with pytest.raises(BusyError) as refused:
            stop_guest(setting.site, "g", dry_run=dry_run)
        assert guest.poll() is None
    assert (refused.value.pid, refused.value.umid, refused.value.where) == (guest.pid, "mine", str(setting.disk))
    assert refused.value.hint is not None
    assert stop_guest(setting.site, "g", dry_run=dry_run).outcome is Stopped.NOT_RUNNING


@_UNRECORDED
def test_a_program_that_is_no_guest_may_have_the_disks(setting: Setting, earlier: _Earlier) -> None:
    """A checkpoint of a guest that does not run, say."""
    earlier(setting)
    with holding(setting.disk):
        assert stopped(setting).outcome is Stopped.NOT_RUNNING


# -- guests whose supervisor was killed ------------------------------------------------------------------------------


def test_an_end_that_only_the_stop_saw_is_written_down(setting: Setting) -> None:
    state = setting.run()
    assert stopped(setting).status is None
    end = read_end(setting.run_directory)
    assert end is not None
    assert end == RunEnd(None, end.ended_at, state.started_at)
    assert how(setting) is GuestState.STOPPED
    waited = wait_for_guest(setting.site, "g", Goal.EXIT)
    assert (waited.outcome, waited.status) == (Waited.REACHED, None)


def test_an_end_that_somebody_wrote_down_stays(setting: Setting) -> None:
    state = setting.run()
    write_end(setting.run_directory, -9, started_at=state.started_at)
    assert stopped(setting).status == -9


def test_an_end_that_nobody_saw_remains_a_crash(setting: Setting) -> None:
    setting.run()
    setting.processes[0].kill()
    setting.processes[0].wait()
    assert stopped(setting).outcome is Stopped.NOT_RUNNING
    assert read_end(setting.run_directory) is None
    assert how(setting) is GuestState.CRASHED


_TALKER = """\
import os, signal, sys
console = os.open(sys.argv[1], os.O_RDWR)
def end(*_):
    for number in range(int(sys.argv[2])):
        os.write(console, b"%1023d\\n" % number)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    signal.pause()
"""
"""A kernel that has so many KiB to say before it ends, and waits until there is room for it."""


@pytest.fixture
def talker(setting: Setting) -> Callable[[int], RunState]:
    def run(size_kib: int) -> RunState:
        console = os.path.join(setting.run_directory, CONSOLE_OUT)
        os.mkfifo(console, 0o600)
        process = subprocess.Popen(
            [sys.executable, "-c", _TALKER, console, str(size_kib)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        setting.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        state = setting.state(process_id(process.pid))
        write_state(setting.run_directory, state)
        return state

    return run


_PATIENT = Ladder.of(timeouts_seconds={Rung.TERM: PATIENCE_SECONDS})


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_console_that_nobody_reads_does_not_keep_a_guest_from_ending(
    setting: Setting, talker: Callable[[int], RunState], is_recorded: bool
) -> None:
    log = Path(setting.run_directory, log_name(0))
    if not is_recorded:
        log.mkdir()
    talker(256)
    report = stopped(setting, _PATIENT)
    assert outcomes(report)[-1] == ("term", "ended")
    if is_recorded:
        assert log.read_bytes() == b"".join(b"%1023d\n" % number for number in range(256))


def test_a_console_is_left_to_its_supervisor(setting: Setting, talker: Callable[[int], RunState]) -> None:
    state = talker(4)
    console = os.open(os.path.join(setting.run_directory, CONSOLE_OUT), os.O_RDWR | os.O_NONBLOCK)
    with unrelated() as supervisor:
        write_state(setting.run_directory, replace(state, supervisor=process_id(supervisor.pid)))

        def supervise() -> None:
            state.kernel.wait(PATIENCE_SECONDS)
            write_end(setting.run_directory, 0, started_at=state.started_at)
            supervisor.kill()

        thread = threading.Thread(target=supervise)
        thread.start()
        report = stopped(setting, _PATIENT)
        thread.join()
    assert report.needed is Rung.TERM
    assert len(os.read(console, 1 << 16)) == 4096
    os.close(console)
