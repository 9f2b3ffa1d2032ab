"""Runs of guests for tests: what the supervisor writes about them, with other processes in the place of kernels."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from umldisk.config.site import Site
from umldisk.guest.state import EXIT, LOCK, RunEnd, RunState, write_ready, write_state
from umldisk.ops.running.status import GuestStatus, site_status
from umldisk.system.pids import ProcessId

NAME = "blackdance"
STARTED = datetime(2026, 11, 20, 3, tzinfo=UTC)


@contextmanager
def child(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run some Python that prints a line and waits for the end of its stdin."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint('up', flush=True)\nsys.stdin.read()", *words]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.communicate(timeout=20)


def process_id(process: subprocess.Popen[str]) -> ProcessId:
    found = ProcessId.of(process.pid)
    assert found is not None
    return found


def ended_process() -> ProcessId:
    """Return a process that there is no more."""
    with child("") as process:
        return process_id(process)


def process_id_of_this() -> ProcessId:
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


class Run:
    """A guest's run directory, written as the supervisor writes it."""

    def __init__(self, site: Site, name: str = NAME) -> None:
        self.name = name
        self.path = Path(site.run_directory(name))
        self.path.mkdir(parents=True)
        (self.path / LOCK).touch()

    def begins(self, kernel: ProcessId, *, supervisor: ProcessId | None = None, **facts: object) -> None:
        """Write state.json of a run that began at STARTED, supervised by this process unless told otherwise."""
        state = RunState(
            guest=self.name,
            umid=self.name,
            socket_directory=str(self.path / "uml"),
            leader=kernel,
            kernel=kernel,
            supervisor=supervisor or process_id_of_this(),
            started_at=STARTED,
            uid=os.geteuid(),
            jailed=False,
            memory_bytes=64 << 20,
            has_agent=False,
            waits_for="marker",
            argv=(),
            disks=(),
        )
        write_state(str(self.path), replace(state, **facts))  # type: ignore[arg-type]

    def is_ready(self, *, started_at: datetime = STARTED) -> None:
        """Note the ready marker."""
        write_ready(str(self.path), started_at=started_at, ready_at=started_at + timedelta(seconds=2))

    def ends(self, status: int, *, started_at: datetime = STARTED) -> None:
        """Write exit.json."""
        (self.path / EXIT).write_bytes(RunEnd(status, STARTED + timedelta(hours=1), started_at).build())


def look(site: Site, *, answers: bool = True) -> GuestStatus:
    """Return how the guest NAME is, whose mconsole answers or not."""
    (guest,) = site_status(site, NAME, ask=lambda _state: answers).guests
    return guest
