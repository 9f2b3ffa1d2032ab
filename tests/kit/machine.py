"""A real guest in a site of its own, built with what umldisk has by itself, to be started and stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from umldisk.config.site import Site
from umldisk.guest.aftermath import left_over
from umldisk.guest.ladder import Ladder
from umldisk.guest.mconsole.client import Mconsole
from umldisk.guest.state import RunState, read_state
from umldisk.guest.waiting import Waited
from umldisk.ops.provision import build_guest
from umldisk.ops.running.starting import StartOptions, start_guest
from umldisk.ops.running.status import site_status
from umldisk.ops.running.status_run import GuestState
from umldisk.ops.running.stopping import StopReport, stop_guest
from umldisk.ops.running.waiting import wait_for_guest
from umldisk.system.files import open_disk
from umldisk.system.locks import holder

PATIENCE_SECONDS = 120.0


class Machine:
    """A guest that runs, or did."""

    def __init__(self, directory: str) -> None:
        self.site = Site(directory)
        self.run_directory = self.site.run_directory("g")
        build_guest(self.site, "g")

    def start(self, *discard: str, jail: bool = True, wait: bool = True) -> RunState:
        start_guest(self.site, "g", StartOptions(discard=discard, jail=jail, answer_seconds=PATIENCE_SECONDS))
        if wait:
            report = wait_for_guest(self.site, "g", timeout_seconds=PATIENCE_SECONDS)
            assert report.outcome is Waited.REACHED
        return self.state

    @property
    def state(self) -> RunState:
        state = read_state(self.run_directory)
        assert state is not None
        return state

    def stop(self, ladder: Ladder | None = None) -> StopReport:
        return stop_guest(self.site, "g", ladder)

    def mconsole(self, command: str) -> str:
        return Mconsole(self.state.mconsole_path, timeout_seconds=PATIENCE_SECONDS).send(command)

    def type(self, line: str) -> None:
        """Have root's shell on the console run a line, and wait until it has."""
        until(lambda: "# " in self.console)  # what is typed before the shell is there may be thrown away
        with open(f"{self.run_directory}/console.in", "wb", buffering=0) as console:
            console.write(f"{line}\necho do''ne-{len(line)}\n".encode())
        until(lambda: f"\ndone-{len(line)}" in self.console)

    @property
    def console(self) -> str:
        return Path(self.run_directory, "console.log").read_bytes().decode(errors="replace").replace("\r", "")

    def merged(self, drive: str, directory: Path) -> str:
        """Return a drive as one image, made by another program than ours."""
        image = str(directory / drive)
        cow = next(disk.path for disk in self.state.disks if disk.drive == drive)
        tool("uml_moo", cow, image)
        return image

    @property
    def how(self) -> GuestState:
        """How `umldisk status` says that it is."""
        (guest,) = site_status(self.site, "g").guests
        return guest.state

    def kill_everything(self) -> None:
        state = read_state(self.run_directory)
        if state is None:
            return
        for process in (*left_over(self.run_directory, state), state.supervisor):
            process.send(signal.SIGKILL)
            process.wait(PATIENCE_SECONDS)


def tool(*command: str) -> bytes:
    found = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None
    return subprocess.run([found, *command[1:]], check=True, capture_output=True).stdout


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def built_machine() -> Iterator[Machine]:
    """Give a guest that was built and not started; whatever runs of it is killed at the end."""
    # The kernel's command line must carry all the paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        machine = Machine(directory)
        try:
            yield machine
        finally:
            machine.kill_everything()


def require_free(state: RunState, run_directory: str) -> None:
    """No process of the guest is left, and none holds its disks."""
    assert not state.is_alive()
    assert left_over(run_directory, state) == []
    for disk in state.disks:
        if not disk.thrown_away:
            with open_disk(disk.path, writable=True) as opened:
                assert holder(opened.fd) is None
