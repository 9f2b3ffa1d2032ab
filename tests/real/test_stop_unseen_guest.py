"""Real guests, stopped while they are started, without a supervisor that reads their console, and without a record."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.machine import PATIENCE_SECONDS, Machine, built_machine, require_free, until
from tests.kit.peers import needs
from umldisk.errors import BusyError, StorageError
from umldisk.guest import rundir
from umldisk.guest.ladder import Ladder, Rung
from umldisk.ops.running import stopping
from umldisk.ops.running.status_run import GuestState
from umldisk.ops.running.stopping import Stopped

pytestmark = [needs("linux", "setarch", "bwrap", "mke2fs", "busybox"), pytest.mark.slow]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with built_machine() as machine:
        yield machine


def test_a_full_console_that_nobody_reads_does_not_keep_a_guest_from_shutting_down(machine: Machine) -> None:
    state = machine.start()
    machine.type("true")  # the shell is there
    state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(PATIENCE_SECONDS)
    with open(f"{machine.run_directory}/console.in", "wb", buffering=0) as console:
        console.write(b"seq 100000 >/dev/tty0\n")
    until(lambda: is_full(f"{machine.run_directory}/console.out"))
    report = machine.stop(Ladder.of(timeouts_seconds={Rung.CAD: PATIENCE_SECONDS}))
    assert (report.needed, report.clean) == (Rung.CAD, True)
    assert "\n1000\n" in machine.console
    require_free(state, machine.run_directory)


def is_full(fifo: str) -> bool:
    """Whether nothing more can be written into a FIFO."""
    fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        return not select.select([], [fd], [], 0)[1]
    finally:
        os.close(fd)


@pytest.mark.parametrize("was_run_before", [False, True])
def test_a_guest_that_is_being_started_is_stopped_when_it_comes_up(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_run_before: bool
) -> None:
    if was_run_before:
        machine.start()
        machine.stop()
    gate, real = opened_gate(tmp_path, monkeypatch), rundir.claim
    start = threading.Thread(target=start_unless_stopped, args=(machine,))
    noticed: list[str] = []

    def claim(run_directory: str) -> rundir.Claim:
        """Let the guest come up when the stop has noticed that it is being started."""
        try:
            return real(run_directory)
        except BusyError as refused:
            noticed.append(refused.line())
            if len(noticed) == 1:
                os.write(gate, b"\n")
            raise

    try:
        start.start()
        until(lambda: machine.how is GuestState.STARTING)
        monkeypatch.setattr(rundir, "claim", claim)
        monkeypatch.setattr(stopping, "_CLAIM_SECONDS", PATIENCE_SECONDS)
        assert machine.stop().outcome is Stopped.STOPPED
    finally:
        os.write(gate, b"\n")
        start.join(PATIENCE_SECONDS)
        os.close(gate)
    assert "being started" in noticed[0]
    require_free(machine.state, machine.run_directory)


def opened_gate(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have a bubblewrap that waits for a line before it does anything, and return where that is written."""
    gate, jail = directory / "gate", directory / "bwrap"
    os.mkfifo(gate)
    jail.write_text(f'#!/bin/sh\n[ "$1" = --version ] || read -r line <{gate}\nexec {shutil.which("bwrap")} "$@"\n')
    jail.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return os.open(gate, os.O_RDWR)


def start_unless_stopped(machine: Machine) -> None:
    with contextlib.suppress(StorageError):  # its mconsole may have answered before it was stopped, or not
        machine.start(wait=False)


def test_a_guest_whose_run_directory_was_removed_is_not_called_stopped(machine: Machine) -> None:
    state = machine.start()  # its disks are mounted, and so locked
    shutil.move(machine.run_directory, f"{machine.run_directory}-aside")
    try:
        with pytest.raises(BusyError) as refused:
            machine.stop()
    finally:
        shutil.rmtree(machine.run_directory, ignore_errors=True)
        shutil.move(f"{machine.run_directory}-aside", machine.run_directory)
    assert refused.value.umid == state.umid
    assert state.is_alive()
