"""The process that stays with a guest, with a shell script in the kernel's place."""

import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.runs import ended_process, run_state
from umldisk.errors import BusyError, StorageError
from umldisk.guest import rundir
from umldisk.guest.commandline import INFO_FD
from umldisk.guest.launching import RunPlan, parse_plan, start_supervised
from umldisk.guest.state import RunDisk, RunEnd, RunState, read_end, read_state, ready_at, running
from umldisk.system.files import DiskFile
from umldisk.system.pids import ProcessId, end_all, session_members
from umldisk.system.process import PIPE, launch

MARKER = "umldisk: x is ready"
JAIL = f"""
    setsid sleep 600 {INFO_FD}>&- &
    echo '{{"child-pid":' $! '}}' >&{INFO_FD}
    exec {INFO_FD}>&-
    wait $!
    exit $?
"""
"""Does as bubblewrap does: the kernel is in a session of its own, and a signal that ends it is told as a number."""
WAIT_SECONDS = 60


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "run/x"
    state = read_state(str(tmp_path / "run/x"))
    if state is not None:
        state.kernel.send(signal.SIGKILL)
        end_all(session_members(state.leader), signal.SIGKILL, timeout_seconds=WAIT_SECONDS)
        state.supervisor.wait(WAIT_SECONDS)


def _plan(directory: Path, script: str, *disks: RunDisk) -> RunPlan:
    return RunPlan(
        guest="x",
        run_directory=str(directory),
        socket_directory=rundir.socket_directory(str(directory), "x", uid=os.geteuid()),
        argv=("sh", "-c", script),
        environment={"PATH": "/usr/bin:/bin", "ONLY": "this"},
        disks=disks,
        uid=os.geteuid(),
        gid=os.getegid(),
        groups=(),
        jailed=False,
        memory_bytes=64 << 20,
        has_agent=True,
        marker=MARKER,
        started_at=datetime.now(UTC),
    )


def _start(plan: RunPlan) -> RunState:
    with rundir.claim(plan.run_directory) as claim:
        rundir.prepare(plan.run_directory, plan.socket_directory, uid=plan.uid, gid=plan.gid)
        start_supervised(plan, claim)
    state = read_state(plan.run_directory)
    assert state is not None
    return state


def _until(condition: object) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _end_of(directory: Path) -> RunEnd:
    _until(lambda: read_end(str(directory)))
    end = read_end(str(directory))
    assert end is not None
    return end


def test_a_plan_survives_its_way(directory: Path) -> None:
    plan = replace(_plan(directory, "x", RunDisk("root", 0, "/g/root_cow", "/g/root_fs", True)), groups=(1, 2))
    assert parse_plan(plan.build(lock_fd=7)) == (plan, 7)


def test_console_marker_and_end_are_recorded(directory: Path) -> None:
    state = _start(_plan(directory, f"echo hello; echo '{MARKER}'; read line; echo got $line; env >&2; exit 3"))
    assert running(str(directory)) == state
    assert state.kernel == state.leader
    _until(lambda: ready_at(str(directory), state))
    (directory / "console.in").write_text("typed\n")
    end = _end_of(directory)
    assert (end.status, end.started_at) == (3, state.started_at)
    assert running(str(directory)) is None
    text = (directory / "console.log").read_text()
    assert text.startswith(f"hello\n{MARKER}\ngot typed\n")
    assert "ONLY=this\n" in text
    assert "HOME=" not in text


def test_whoever_is_killed_with_a_signal_is_told_so(directory: Path) -> None:
    state = _start(_plan(directory, "exec sleep 600"))
    assert state.kernel.send(signal.SIGKILL)
    assert _end_of(directory).status == -signal.SIGKILL


def test_a_jail_tells_which_signal_ended_the_kernel(directory: Path) -> None:
    state = _start(replace(_plan(directory, ""), jailed=True, argv=("bash", "-c", JAIL)))
    assert state.kernel != state.leader
    assert state.kernel.send(signal.SIGKILL)
    assert _end_of(directory).status == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_jail_that_was_killed_by_itself_takes_the_exit_status_along(directory: Path, number: signal.Signals) -> None:
    state = _start(replace(_plan(directory, ""), jailed=True, argv=("bash", "-c", JAIL)))
    assert state.leader.send(number)
    assert state.leader.wait(WAIT_SECONDS)
    assert (state.kernel.is_alive(), read_end(str(directory))) == (True, None)
    assert state.kernel.send(signal.SIGTERM)
    assert _end_of(directory).status is None


def test_what_the_kernel_leaves_behind_is_ended_with_it(directory: Path) -> None:
    state = _start(_plan(directory, "sleep 600 & echo child; exec sleep 600"))
    _until(lambda: len(session_members(state.leader)) == 2)
    members = session_members(state.leader)
    assert state.kernel.send(signal.SIGKILL)
    _end_of(directory)
    assert not any(member.is_alive() for member in members)


def test_files_that_are_thrown_away_go_and_others_stay(directory: Path, tmp_path: Path) -> None:
    for name in ("kept", "gone"):
        (tmp_path / name).write_bytes(b"x")
    disks = RunDisk("a", 0, str(tmp_path / "kept"), None), RunDisk("b", 1, str(tmp_path / "gone"), None, True)
    plan = _plan(directory, "true; sleep 0.2", *disks)
    _start(plan)
    _end_of(directory)
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "gone").exists()
    assert not os.path.exists(plan.socket_directory)


def test_one_that_ends_at_once_is_told_with_its_last_words(directory: Path) -> None:
    with pytest.raises(StorageError, match="no such kernel"):
        _start(replace(_plan(directory, ""), jailed=True, argv=("sh", "-c", "echo no such kernel >&2; exit 1")))
    assert running(str(directory)) is None


def test_one_that_ends_at_once_is_not_told_with_the_words_of_another(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "console.log").write_text("found by the run before\n")
    with pytest.raises(StorageError, match="ended at once and said nothing"):
        _start(replace(_plan(directory, ""), jailed=True, argv=("sh", "-c", "exit 1")))


def test_a_program_that_is_not_there_is_told(directory: Path) -> None:
    with pytest.raises(StorageError, match="no-such-program is not installed"):
        _start(replace(_plan(directory, ""), argv=("no-such-program",)))


def test_the_run_is_claimed_as_long_as_anything_of_it_lives(directory: Path) -> None:
    state = _start(_plan(directory, "exec sleep 600"))
    with pytest.raises(BusyError, match=f"the guest runs already by PID {state.kernel.pid}"):
        rundir.claim(str(directory))
    assert state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(WAIT_SECONDS)
    with pytest.raises(BusyError):  # the guest's own processes have it, too
        rundir.claim(str(directory))
    assert state.kernel.is_alive()
    assert state.kernel.send(signal.SIGKILL)
    assert state.kernel.wait(WAIT_SECONDS)
    rundir.claim(str(directory)).lock.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_that_end_a_session_do_not_end_it(directory: Path, number: signal.Signals) -> None:
    script = f"trap 'echo got it; exit 5' {number.name[3:]}; while :; do sleep 0.05; done"
    state = _start(_plan(directory, script))
    assert state.supervisor.send(number)
    assert not state.supervisor.wait(0.3)
    assert state.kernel.send(number)  # whose own disposition is the usual one
    assert _end_of(directory).status == 5


def test_whoever_started_it_may_be_killed_before_the_answer(directory: Path) -> None:
    plan = _plan(directory, f"echo '{MARKER}'; read line; exit 4")
    reader, writer = os.pipe()
    with rundir.claim(plan.run_directory) as claim:
        rundir.prepare(plan.run_directory, plan.socket_directory, uid=plan.uid, gid=plan.gid)
        program = [sys.executable, "-P", "-m", "umldisk.guest.supervisor"]
        child = launch(program, stdin=PIPE, stdout=writer, pass_fds=[claim.lock.fd])
        os.close(reader)
        os.close(writer)
        child.write(plan.build(lock_fd=claim.lock.fd))
        child.close_stdin()
    _until(lambda: read_state(plan.run_directory))
    state = read_state(plan.run_directory)
    assert state is not None
    _until(lambda: ready_at(str(directory), state))
    (directory / "console.in").write_text("go\n")
    assert _end_of(directory).status == 4
    assert child.status(WAIT_SECONDS) == 0


def test_a_plan_that_was_cut_off_starts_nothing(directory: Path) -> None:
    plan = _plan(directory, "exec sleep 600")
    with rundir.claim(plan.run_directory) as claim:
        child = launch([sys.executable, "-P", "-m", "umldisk.guest.supervisor"], stdin=PIPE, pass_fds=[claim.lock.fd])
        child.write(plan.build(lock_fd=claim.lock.fd)[:100])
        child.close_stdin()
    assert child.status(WAIT_SECONDS) == 1
    rundir.claim(plan.run_directory).lock.close()


def test_a_kernel_in_a_jail_that_cannot_be_made_known_is_ended(directory: Path) -> None:
    script = f"""
        setsid sleep 600 {INFO_FD}>&- &
        echo $! >{directory}/pid
        mkdir {directory}/state.json
        echo '{{"child-pid":' $! '}}' >&{INFO_FD}
        exec {INFO_FD}>&-
        wait
    """
    with pytest.raises(StorageError, match="not a regular file"):
        _start(replace(_plan(directory, script), jailed=True, argv=("bash", "-c", script)))
    (directory / "state.json").rmdir()
    pid = int((directory / "pid").read_text())
    left = ProcessId.of(pid)
    if left is not None:
        os.kill(pid, signal.SIGKILL)
    assert left is None
    rundir.claim(str(directory)).lock.close()


def test_what_a_supervisor_that_was_killed_too_early_had_begun_is_ended(directory: Path) -> None:
    script = f"""
        sleep 600 & echo $! >>{directory}/pids
        setsid sleep 600 & echo $! >>{directory}/pids
        echo $$ >>{directory}/pids
        kill -9 $PPID
        exec sleep 600
    """
    plan = replace(_plan(directory, script), jailed=True)  # so that the supervisor waits to be told of a kernel
    try:
        with pytest.raises(StorageError, match="the supervisor said nothing"):
            _start(plan)
        rundir.claim(str(directory)).lock.close()
    finally:
        left = [ProcessId.of(int(pid)) for pid in (directory / "pids").read_text().split()]
        for process in filter(None, left):
            process.send(signal.SIGKILL)
    assert left == [None] * 3


def test_a_guest_that_is_known_goes_on_when_its_supervisor_was_killed_too_early(directory: Path) -> None:
    script = f"""
        echo $$ >{directory}/pid
        mv {directory}/known {directory}/state.json
        kill -9 $PPID
        exec sleep 600
    """
    directory.mkdir(parents=True)
    (directory / "known").write_bytes(run_state(directory, ended_process()).build())
    with pytest.raises(StorageError, match="the supervisor said nothing"):
        _start(replace(_plan(directory, script), jailed=True))
    kernel = ProcessId.of(int((directory / "pid").read_text()))
    assert kernel is not None
    with pytest.raises(BusyError, match=f"started or stopped by PID {kernel.pid}") as refused:
        rundir.claim(str(directory))
    assert f"kill -9 {kernel.pid}" in str(refused.value.hint)
    assert kernel.send(signal.SIGKILL)
    assert kernel.wait(WAIT_SECONDS)
    rundir.claim(str(directory)).lock.close()


@pytest.mark.parametrize("number", [60, 61, 62, 63])
def test_the_claim_may_have_any_number(directory: Path, number: int) -> None:
    plan = _plan(directory, "exec sleep 600")
    with rundir.claim(plan.run_directory) as claim:
        lock = fcntl.fcntl(claim.lock.fd, fcntl.F_DUPFD_CLOEXEC, number)
        rundir.prepare(plan.run_directory, plan.socket_directory, uid=plan.uid, gid=plan.gid)
        start_supervised(plan, rundir.Claim(claim.path, DiskFile(claim.lock.path, lock)))
        os.close(lock)
    with pytest.raises(BusyError):
        rundir.claim(plan.run_directory)


@pytest.mark.parametrize("has_agent", [True, False])
def test_a_kernel_gets_its_own_files_and_no_others(directory: Path, tmp_path: Path, *, has_agent: bool) -> None:
    with open(tmp_path / "other", "wb") as other:
        os.set_inheritable(other.fileno(), True)
        state = _start(replace(_plan(directory, "exec sleep 600"), has_agent=has_agent))
    files = Path(f"/proc/{state.kernel.pid}/fd")
    agent = {60: "agent.in", 61: "agent.out"} if has_agent else {}
    wanted = {0: "console.in", 1: "console.out", 2: "console.out", **agent, 63: "lock"}
    found = {int(file.name): os.readlink(file) for file in files.iterdir()}
    assert found == {number: str(directory / name) for number, name in wanted.items()}


def test_it_stands_in_nobodys_way(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = _start(_plan(directory, "exec sleep 600"))
    _until(lambda: os.readlink(f"/proc/{state.supervisor.pid}/fd/0") == os.devnull)
    assert os.readlink(f"/proc/{state.supervisor.pid}/cwd") == "/"
    held = {os.readlink(file) for file in Path(f"/proc/{state.supervisor.pid}/fd").iterdir()}
    assert {path for path in held if path.startswith("/") and path != os.devnull} == {
        str(directory / name) for name in ("console.out", "console.log", "lock")
    }


def test_the_marker_is_noted_once(directory: Path) -> None:
    state = _start(_plan(directory, f"echo '{MARKER}'; read line; echo '{MARKER}'; exit 0"))
    _until(lambda: ready_at(str(directory), state))
    first = ready_at(str(directory), state)
    (directory / "console.in").write_text("again\n")
    _end_of(directory)
    assert ready_at(str(directory), state) == first
    assert (directory / "console.log").read_text().count(MARKER) == 2


def test_a_guest_that_outlives_its_supervisor_can_write_on(directory: Path) -> None:
    state = _start(_plan(directory, "sleep 0.5; for i in 1 2 3; do echo line $i; done; exec sleep 600"))
    assert state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(WAIT_SECONDS)
    with open(directory / "console.out", "rb", buffering=0) as console:
        text = b""
        while b"line 3" not in text:
            assert select.select([console], [], [], WAIT_SECONDS)[0]
            text += console.read(100)
    assert state.kernel.is_alive()


def test_state_is_for_its_owner_alone(directory: Path) -> None:
    _start(_plan(directory, "exec sleep 600"))
    assert (directory / "state.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((directory / "state.json").read_text())["format"] == 1
