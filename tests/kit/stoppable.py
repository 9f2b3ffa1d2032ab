"""Runs of guests whose kernels are small programs of ours, for tests of stopping them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.kit.runs import process_id, run_state, silent
from umldisk.config.site import Site
from umldisk.errors import BusyError
from umldisk.guest import rundir
from umldisk.guest.aftermath import left_over
from umldisk.guest.ladder import Ladder
from umldisk.guest.state import LOCK, RunDisk, RunState, write_state
from umldisk.ops.running.stopping import StopReport, stop_guest
from umldisk.system.locks import lock
from umldisk.system.pids import ProcessId

_HELPERS = """\
import os, signal, subprocess, sys, time
from umldisk.system.locks import try_lock
lock, disk, ignored, alone = os.open(sys.argv[1], os.O_RDWR), os.open(sys.argv[2], os.O_RDWR), sys.argv[3], sys.argv[4]
os.set_inheritable(lock, True)
assert try_lock(lock, exclusive=True) and try_lock(disk, exclusive=True)
if ignored:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not alone and os.fork() == 0:
    signal.pause()
print("up", flush=True)
signal.pause()
"""
"""Like UML outside a jail: a main process, a second one that outlives it, and both keep the locks."""


class Setting:
    """A site with a guest whose processes are ours, and its state."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(str(directory))
        self.run_directory = self.site.run_directory("g")
        self.disk = directory / "guests" / "g" / "root_cow"
        self.throw_away = directory / "guests" / "g" / ".tmp_cow.discard"
        self.disk.parent.mkdir(parents=True)
        self.disk.write_bytes(bytes(4096))
        self.throw_away.write_bytes(b"x")
        with rundir.claim(self.run_directory):
            pass
        self.processes: list[subprocess.Popen[str]] = []
        self.members: list[ProcessId] = []

    def launch(self, *, ignores_term: bool = False, alone: bool = False) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _HELPERS,
                os.path.join(self.run_directory, LOCK),
                str(self.disk),
                "yes" if ignores_term else "",
                "yes" if alone else "",
            ],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        self.members = left_over(self.run_directory, self.state(process_id(process.pid)))
        return process

    def state(self, kernel: ProcessId, **changes: Any) -> RunState:
        facts = {
            "supervisor": replace(kernel, start_ticks=1),  # gone
            "waits_for": "mconsole",
            "disks": (
                RunDisk("root", 0, str(self.disk), None),
                RunDisk("tmp", 3, str(self.throw_away), None, thrown_away=True),
            ),
        }
        return run_state(self.run_directory, kernel, **facts | changes)

    def run(self, *, ignores_term: bool = False, **changes: Any) -> RunState:
        state = self.state(process_id(self.launch(ignores_term=ignores_term).pid), **changes)
        write_state(self.run_directory, state)
        return state

    def close(self) -> None:
        for member in self.members:
            member.send(signal.SIGKILL)
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def stoppable(directory: Path) -> Iterator[Setting]:
    """Give a site in a directory; whatever was launched is gone at the end."""
    setting = Setting(directory)
    try:
        yield setting
    finally:
        setting.close()


@contextlib.contextmanager
def unrelated() -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that has nothing to do with any guest."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def stopped(setting: Setting, ladder: Ladder | None = None) -> StopReport:
    return stop_guest(setting.site, "g", ladder, ask=silent)


def is_unlocked(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            lock(file.fileno(), str(path), exclusive=True)
        except BusyError:
            return False
        return True


def outcomes(report: StopReport) -> list[tuple[str, str]]:
    """Return the rungs that were tried, with what came of them."""
    return [(one.rung.value, one.outcome.value) for one in report.tried]
