"""Processes known for sure: against real processes in every state, and numbers that belong to others now."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.runs import process_id
from umldisk.errors import StorageError
from umldisk.system import pids
from umldisk.system.pids import ProcessId, boot_id, children, end_all, session_members

_SLEEP = ["sleep", "600"]
_PATIENCE_SECONDS = 30.0
_UNUSED_PID = (1 << 22) - 1
"""The largest number that a 64-bit kernel may give; nothing here runs long enough to get there."""

_LEAVE_A_CHILD = (
    "import os,sys,time\npid = os.fork()\nif pid:\n    print(pid, flush=True)\n    os._exit(0)\ntime.sleep(600)\n"
)
"""Its first process ends at once; what it forked lives on in its session."""


@contextlib.contextmanager
def started(argv: list[str], *, pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a session of its own, whose processes are all gone at the end."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True, pass_fds=pass_fds)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    with started(_SLEEP) as process:
        yield process


def until(condition: object) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state_letter(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_living_process_is_known_by_number_start_and_boot(sleeper: subprocess.Popen[str]) -> None:
    process = process_id(sleeper.pid)
    fields = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()
    assert process == ProcessId(sleeper.pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text()[:-1])
    assert process.is_alive()
    assert process_id(sleeper.pid) == process


def test_a_name_like_the_end_of_its_own_brackets_is_read_over(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 1 1"
    program.symlink_to("/bin/sleep")
    with started([str(program), "600"]) as process:
        until(lambda: ") Z" in Path(f"/proc/{process.pid}/stat").read_text())
        assert process_id(process.pid).is_alive()
        assert session_members(process_id(process.pid)) == [process_id(process.pid)]


@pytest.mark.parametrize("changed", [{"start_ticks": 1}, {"boot": "00000000-0000-0000-0000-000000000000"}])
def test_another_process_of_the_same_number_is_let_alone(
    sleeper: subprocess.Popen[str], changed: dict[str, object]
) -> None:
    """A number that came back, and a file that outlived the machine's boot."""
    real = process_id(sleeper.pid)
    other = dataclasses.replace(real, **changed)  # type: ignore[arg-type]
    assert not other.is_alive()
    assert not other.send(signal.SIGKILL)
    assert other.wait(0)
    assert session_members(other) == []
    assert children(other) == []
    assert end_all([other], signal.SIGKILL, timeout_seconds=0)
    assert real.is_alive()
    assert sleeper.poll() is None


def test_a_number_that_nobody_has() -> None:
    nobody = ProcessId(_UNUSED_PID, 5, boot_id())
    assert ProcessId.of(_UNUSED_PID) is None
    assert not nobody.is_alive()
    assert not nobody.send(signal.SIGTERM)
    assert nobody.wait(0)
    assert session_members(nobody) == []


def test_a_zombie_is_over(sleeper: subprocess.Popen[str]) -> None:
    process = process_id(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGKILL)
    until(lambda: state_letter(sleeper.pid) == "Z")
    assert not process.is_alive()
    assert ProcessId.of(sleeper.pid) is None
    assert process.wait(0)
    assert not process.send(signal.SIGTERM)
    assert process not in session_members(process)


def test_a_process_whose_first_thread_has_ended_is_not_over() -> None:
    """The kernel shows it as a zombie, but it works on."""
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=lambda: (print('up', flush=True), time.sleep(600))).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with started([sys.executable, "-c", script]) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        until(lambda: state_letter(program.pid) == "Z")
        process = process_id(program.pid)
        assert process.is_alive()
        assert not process.wait(0.05)
        assert session_members(process) == [process]
        assert process.send(signal.SIGKILL)
        assert process.wait(_PATIENCE_SECONDS)
        assert not process.is_alive()


def test_waiting_sees_the_end_and_the_time(sleeper: subprocess.Popen[str]) -> None:
    process = process_id(sleeper.pid)
    began = time.monotonic()
    assert not process.wait(0.6)
    assert time.monotonic() - began >= 0.6
    assert not process.wait(-1)
    assert process.send(signal.SIGTERM)
    assert process.wait(float("inf"))


def test_waiting_is_interrupted_by_a_signal() -> None:
    script = (
        "import os, sys\nfrom umldisk.system.pids import ProcessId\n"
        "print('waiting', flush=True)\nProcessId.of(os.getppid()).wait(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == b"waiting\n"
        waiter.send_signal(signal.SIGINT)
        assert waiter.wait(_PATIENCE_SECONDS) == -signal.SIGINT


def test_a_session_is_its_members_and_no_others(sleeper: subprocess.Popen[str]) -> None:
    with started(["sh", "-c", "sleep 600 & sleep 600 & echo up; wait"]) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "up\n"
        leader = process_id(shell.pid)
        members = session_members(leader)
        assert len(members) == 3
        assert leader in members
        assert set(children(leader)) == set(members) - {leader}
        assert process_id(sleeper.pid) not in members
        assert end_all(members, signal.SIGKILL, timeout_seconds=_PATIENCE_SECONDS)
        assert session_members(leader) == []


def test_a_session_with_a_leader_that_waits_to_be_reaped_is_still_its_own() -> None:
    with started([sys.executable, "-c", _LEAVE_A_CHILD]) as program:
        leader = process_id(program.pid)
        assert program.stdout is not None
        child = int(program.stdout.readline())
        until(lambda: state_letter(program.pid) == "Z")
        assert session_members(leader) == [process_id(child)]


@pytest.fixture
def orphans(tmp_path: Path) -> Iterator[tuple[ProcessId, ProcessId, Path]]:
    """A leader that is gone for good, a living member of its session, and a file that this one holds."""
    path = tmp_path / "lock"
    with path.open("w") as file, started([sys.executable, "-c", _LEAVE_A_CHILD], pass_fds=(file.fileno(),)) as program:
        leader = process_id(program.pid)
        assert program.stdout is not None
        child = process_id(int(program.stdout.readline()))
        program.wait()
        try:
            yield leader, child, path
        finally:
            child.send(signal.SIGKILL)


def test_members_without_a_leader_are_believed_by_the_file_they_hold(
    orphans: tuple[ProcessId, ProcessId, Path], tmp_path: Path
) -> None:
    leader, child, path = orphans
    assert not leader.is_alive()
    assert session_members(leader, holding=str(path)) == [child]


def test_a_session_without_a_leader_may_be_a_strangers(
    orphans: tuple[ProcessId, ProcessId, Path], tmp_path: Path
) -> None:
    """What a daemon leaves that forked away, when it got the number of a guest that has ended long ago."""
    leader, child, _ = orphans
    other = tmp_path / "another"
    other.write_text("")
    long_ago = dataclasses.replace(leader, start_ticks=1)
    for guess in (leader, long_ago):
        assert session_members(guess) == []
        assert session_members(guess, holding=str(other)) == []
        assert session_members(guess, holding=str(tmp_path / "missing")) == []
    assert child.is_alive()


def test_members_that_are_older_than_the_leader_are_strangers(orphans: tuple[ProcessId, ProcessId, Path]) -> None:
    leader, child, path = orphans
    later = dataclasses.replace(leader, start_ticks=child.start_ticks + 1)
    assert session_members(later, holding=str(path)) == []


def test_not_all_end_that_should() -> None:
    with started(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 600; done"]) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "up\n"
        process = process_id(shell.pid)
        assert not end_all([process], signal.SIGTERM, timeout_seconds=0.1)
        assert end_all([process], signal.SIGKILL, timeout_seconds=_PATIENCE_SECONDS)


def test_what_cannot_be_looked_at_does_not_count_as_gone(sleeper: subprocess.Popen[str]) -> None:
    """Without a free descriptor nothing can be said, least of all that a guest has ended."""
    process = process_id(sleeper.pid)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for look in (process.is_alive, lambda: process.wait(0), lambda: process.send(signal.SIGKILL)):
            with pytest.raises(StorageError) as refused:
                look()
            assert "Too many open files" in str(refused.value)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process.is_alive()


def test_a_signal_that_we_may_not_send_is_an_error(
    sleeper: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = process_id(sleeper.pid)

    def refuse(_fd: int, _number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(pids.signal, "pidfd_send_signal", refuse)
    with pytest.raises(StorageError) as refused:
        process.send(signal.SIGTERM)
    assert str(refused.value) == f"cannot send SIGTERM: Operation not permitted (PID {process.pid})"
