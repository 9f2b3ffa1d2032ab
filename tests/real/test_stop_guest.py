"""Real guests, stopped in every way that it may take, and waited for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.machine import PATIENCE_SECONDS, Machine, built_machine, require_free, tool
from tests.kit.peers import needs
from umldisk.guest.aftermath import left_over
from umldisk.guest.ladder import Ladder, Outcome, Rung
from umldisk.guest.state import read_end
from umldisk.guest.waiting import Goal, Waited
from umldisk.ops.running.status_run import GuestState
from umldisk.ops.running.stopping import Stopped, StopReport
from umldisk.ops.running.waiting import wait_for_guest
from umldisk.system.files import open_disk
from umldisk.system.locks import holder

pytestmark = [
    needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "e2fsck", "busybox", "uml_moo"),
    pytest.mark.slow,
]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with built_machine() as machine:
        yield machine


def rungs(report: StopReport) -> list[tuple[str, str]]:
    return [(one.rung.value, one.outcome.value) for one in report.tried]


_ENDED = Outcome.ENDED.value
_HALTING = Ladder.of(timeouts_seconds={Rung.CAD: 1.0, Rung.HALT: 60.0})


@pytest.mark.parametrize("jail", [True, False], ids=["jailed", "unjailed"])
def test_ctrl_alt_del_leaves_everything_clean(machine: Machine, tmp_path: Path, jail: bool) -> None:
    state = machine.start(jail=jail)
    machine.type("echo kept >/var/note")
    report = machine.stop()
    assert (report.outcome, report.needed, report.status, report.clean) == (Stopped.STOPPED, Rung.CAD, 0, True)
    assert rungs(report) == [("cad", _ENDED)]
    assert {disk.drive: disk.clean for disk in report.disks} == {
        "root": True,
        "var": True,
        "home": True,
        "tmp": True,
        "swap": None,
    }
    require_free(state, machine.run_directory)
    for drive in ("root", "var", "home"):
        tool("e2fsck", "-f", "-n", machine.merged(drive, tmp_path))
    assert tool("debugfs", "-R", "cat /note", str(tmp_path / "var")) == b"kept\n"
    assert machine.stop().outcome is Stopped.NOT_RUNNING


def test_a_guest_that_ignores_ctrl_alt_del_is_written_out_and_halted(machine: Machine, tmp_path: Path) -> None:
    state = machine.start()
    machine.type("sed -i /ctrlaltdel/d /etc/inittab; kill -HUP 1; echo kept >/var/note")
    report = machine.stop(_HALTING)
    assert rungs(report) == [("cad", "no effect"), ("halt", _ENDED)]
    assert (report.needed, report.clean) == (Rung.HALT, True)
    assert report.tried[0].seconds >= 1.0
    require_free(state, machine.run_directory)
    for drive in ("root", "var", "home"):
        tool("e2fsck", "-f", "-n", machine.merged(drive, tmp_path))
    assert tool("debugfs", "-R", "cat /note", str(tmp_path / "var")) == b"kept\n"


@pytest.mark.parametrize("first", [Rung.CAD, Rung.HALT, Rung.TERM])
def test_a_frozen_guest_is_stopped(machine: Machine, tmp_path: Path, first: Rung) -> None:
    state = machine.start()
    machine.type("echo kept >/var/note")
    machine.mconsole("stop")
    report = machine.stop(Ladder.of(first=first, timeouts_seconds={Rung.HALT: 60.0, Rung.TERM: 60.0}))
    assert rungs(report) == [(first.value, _ENDED)]
    assert report.clean is True
    require_free(state, machine.run_directory)
    assert tool("debugfs", "-R", "cat /note", machine.merged("var", tmp_path)) == b"kept\n"


@pytest.mark.parametrize("jail", [True, False], ids=["jailed", "unjailed"])
def test_without_its_mconsole_a_guest_is_terminated(machine: Machine, jail: bool) -> None:
    state = machine.start(jail=jail)
    os.unlink(state.mconsole_path)
    report = machine.stop(Ladder.of(timeouts_seconds={Rung.TERM: 60.0}))
    assert rungs(report) == [("cad", "skipped"), ("halt", "skipped"), ("term", _ENDED)]
    assert report.tried[0].reason is not None
    assert "no guest listens here" in report.tried[0].reason
    assert report.status not in (0, None)
    assert report.clean is False
    require_free(state, machine.run_directory)


@pytest.mark.parametrize("jail", [True, False], ids=["jailed", "unjailed"])
def test_sigkill_takes_every_process_and_lock(machine: Machine, jail: bool) -> None:
    state = machine.start(jail=jail)
    report = machine.stop(Ladder.of(first=Rung.KILL))
    assert rungs(report) == [("kill", _ENDED)]
    assert report.status == -signal.SIGKILL
    require_free(state, machine.run_directory)
    machine.start()  # the journals are replayed, and all is well
    assert machine.stop().clean is True


@pytest.mark.parametrize("jail", [True, False], ids=["jailed", "unjailed"])
def test_a_stop_cleans_up_after_a_killed_guest(machine: Machine, jail: bool) -> None:
    state = machine.start(jail=jail)
    state.kernel.send(signal.SIGKILL)
    assert state.kernel.wait(PATIENCE_SECONDS)
    report = machine.stop()
    assert (report.outcome, report.status) == (Stopped.NOT_RUNNING, -signal.SIGKILL)
    require_free(state, machine.run_directory)


@pytest.mark.parametrize("jail", [True, False], ids=["jailed", "unjailed"])
def test_without_a_supervisor_the_stop_does_its_work(machine: Machine, jail: bool) -> None:
    state = machine.start("root", jail=jail)
    state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(PATIENCE_SECONDS)
    assert state.is_alive()
    (thrown_away,) = [disk.path for disk in state.disks if disk.thrown_away]
    assert os.path.exists(thrown_away)
    report = machine.stop()
    assert (report.needed, report.clean, report.status) == (Rung.CAD, True, None)
    assert report.removed == (thrown_away,)
    assert not os.path.exists(thrown_away)
    require_free(state, machine.run_directory)
    assert machine.how is GuestState.STOPPED


def test_host_processes_that_outlived_the_main_one_are_ended(machine: Machine) -> None:
    """Outside a jail they keep all locks, and without a supervisor nobody else would end them."""
    state = machine.start("root", jail=False)
    state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(PATIENCE_SECONDS)
    state.kernel.send(signal.SIGKILL)
    assert state.kernel.wait(PATIENCE_SECONDS)
    left = left_over(machine.run_directory, state)
    assert left
    with open_disk(next(disk.path for disk in state.disks if disk.drive == "var"), writable=True) as var:
        assert holder(var.fd) is not None
    report = machine.stop()
    assert report.outcome is Stopped.NOT_RUNNING
    assert 0 < report.killed <= len(left)  # some may have been ending by themselves
    assert len(report.removed) == 1
    require_free(state, machine.run_directory)


def test_what_stands_around_a_jail_killed_alone_does_not_hide_the_guest(machine: Machine) -> None:
    state = machine.start()
    state.leader.send(signal.SIGKILL)
    assert state.leader.wait(PATIENCE_SECONDS)
    machine.stop()
    require_free(state, machine.run_directory)


def test_two_stops_at_once_both_end_well(machine: Machine) -> None:
    state = machine.start()
    reports: list[StopReport] = []
    stops = [threading.Thread(target=lambda: reports.append(machine.stop())) for _ in range(2)]
    for one in stops:
        one.start()
    for one in stops:
        one.join(PATIENCE_SECONDS)
    assert len(reports) == 2
    assert all(report.status == 0 and report.clean for report in reports)
    require_free(state, machine.run_directory)


def test_waiting_for_the_end_tells_the_exit_status(machine: Machine) -> None:
    state = machine.start(wait=False)
    assert wait_for_guest(machine.site, "g", Goal.MCONSOLE, timeout_seconds=PATIENCE_SECONDS).outcome is Waited.REACHED
    assert wait_for_guest(machine.site, "g", Goal.EXIT, timeout_seconds=0.1).outcome is Waited.TIMED_OUT
    timer = threading.Timer(0.3, state.kernel.send, [signal.SIGKILL])
    timer.start()
    report = wait_for_guest(machine.site, "g", Goal.EXIT, timeout_seconds=PATIENCE_SECONDS)
    timer.join()
    assert (report.outcome, report.status) == (Waited.REACHED, -signal.SIGKILL)
    end = read_end(machine.run_directory)
    assert end is not None
    assert end.status == report.status


def test_a_guest_that_ends_before_it_is_ready(machine: Machine) -> None:
    state = machine.start(wait=False)
    machine.mconsole("stop")  # it will not be ready from here on
    Path(machine.run_directory, "ready").unlink(missing_ok=True)
    timer = threading.Timer(0.3, state.kernel.send, [signal.SIGKILL])
    timer.start()
    report = wait_for_guest(machine.site, "g", timeout_seconds=PATIENCE_SECONDS)
    timer.join()
    assert report.outcome is Waited.ENDED
    assert report.console
