"""What is known of runs of guests: written as the supervisor does it, with other processes in the place of kernels.

`tests.kit.stoppable` has processes that behave like a kernel's, `tests.kit.fake_guest` a whole guest.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.kit.children import child
from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.guest.state import EXIT, LOCK, RunEnd, RunState, write_ready, write_state
from umldisk.ops.running.status import GuestStatus, site_status
from umldisk.system.pids import ProcessId
from umldisk.system.staging import write_file

NAME = "blackdance"
PATIENCE_SECONDS = 30.0
STARTED = datetime(2026, 11, 20, 3, tzinfo=UTC)


def process_id(pid: int) -> ProcessId:
    found = ProcessId.of(pid)
    assert found is not None
    return found


def ended_process() -> ProcessId:
    """Return a process that there is no more."""
    with child("") as process:
        return process_id(process.pid)


def run_state(run_directory: str | Path, kernel: ProcessId, **facts: Any) -> RunState:
    """Return the state of a run that began at STARTED, supervised by this process; `facts` change what it says."""
    name = Path(run_directory).name
    state = RunState(
        guest=name,
        umid=name,
        socket_directory=os.path.join(run_directory, "uml"),
        leader=kernel,
        kernel=kernel,
        supervisor=process_id(os.getpid()),
        started_at=STARTED,
        uid=os.geteuid(),
        jailed=False,
        memory_bytes=64 << 20,
        has_agent=False,
        waits_for="marker",
        argv=("linux",),
        disks=(),
    )
    return replace(state, **facts)


def write_end(
    run_directory: str | Path, status: int, *, started_at: datetime, ended_at: datetime | None = None
) -> None:
    """Write exit.json as a whole, since others may be waiting for it."""
    end = RunEnd(status, ended_at or datetime.now(UTC), started_at)
    write_file(os.path.join(run_directory, EXIT), end.build(), mode=0o600)


class Run:
    """A guest's run directory, written as the supervisor writes it."""

    def __init__(self, site: Site, name: str = NAME) -> None:
        self.name = name
        self.path = Path(site.run_directory(name))
        self.path.mkdir(parents=True)
        (self.path / LOCK).touch()

    def begins(self, kernel: ProcessId, **facts: Any) -> RunState:
        """Write state.json, see `run_state`."""
        state = run_state(self.path, kernel, **facts)
        write_state(str(self.path), state)
        return state

    def is_ready(self, *, started_at: datetime = STARTED) -> None:
        """Note the ready marker."""
        write_ready(str(self.path), started_at=started_at, ready_at=started_at + timedelta(seconds=2))

    def ends(self, status: int, *, started_at: datetime = STARTED) -> None:
        """Write exit.json."""
        write_end(self.path, status, started_at=started_at, ended_at=STARTED + timedelta(hours=1))


def silent(_state: RunState) -> Callable[[str], str]:
    """Be a run's mconsole that nobody listens to."""

    def ask(_command: str) -> str:
        raise NoInputError("no mconsole")

    return ask


def until_it_watches(program: subprocess.Popen[bytes]) -> None:
    """Return when the program has opened a pidfd; one that never does is killed, so that nobody waits for its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any("pidfd" in target for target in _open_by(program.pid)):
        if time.monotonic() > deadline:
            program.kill()
            raise AssertionError("it watches no process")
        time.sleep(0.01)


def _open_by(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(path)


def look(site: Site, *, answers: bool = True) -> GuestStatus:
    """Return how the guest NAME is, whose mconsole answers or not."""
    (guest,) = site_status(site, NAME, ask=lambda _state: answers).guests
    return guest
