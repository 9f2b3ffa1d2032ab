"""What is known of a guest's run: who it is, where its sockets are, which files its disks are.

    SITE/run/NAME/            0711, belongs to whoever starts the guest
        lock                  locked by the supervisor and by the guest's own processes, as long as one of them lives
        state.json            this module's: written once a start, before the kernel runs
        ready                 written when the ready marker was seen
        exit.json             how the last run ended
        console.log .1 ...    the transcript
        console.in console.out agent.in agent.out      FIFOs, which the kernel holds open
        uml/                  0700, belongs to the guest's user: UML's uml_dir with mconsole socket and pid file

Nothing that the guest's user could write is believed: it owns uml/ alone. Processes are named with their start time
and boot, so that a file that outlived its guest, or the machine's last boot, names nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from umldisk.errors import DataError, from_os_error
from umldisk.system.pids import ProcessId
from umldisk.system.processes import Process, Processes, family_of
from umldisk.system.staging import write_file

FORMAT = 1
STATE, READY, EXIT, LOCK = "state.json", "ready", "exit.json", "lock"
CONSOLE_LOG = "console.log"

_MOST_BYTES = 1 << 20
_PID_LIMIT = 1 << 31
_STATUS_LIMIT = 1 << 31
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class RunDisk:
    """One disk of a run: `path` is the file that the guest writes, `backing` what a COW file stands on, else None.

    A `thrown_away` one is removed when the guest has ended.
    """

    drive: str
    ubd: int
    path: str
    backing: str | None
    thrown_away: bool = False


@dataclass(frozen=True, slots=True)
class RunState:
    """A run of a guest.

    `leader` leads the session of all its processes. `kernel` is the one whose end is the end of the guest: UML's main
    process, or in a jail the init of the process namespace, with which the kernel of the host ends all others.
    `socket_directory` is UML's uml_dir, `uid` who the kernel runs as. `supervisor` records the console.
    """

    guest: str
    umid: str
    socket_directory: str
    leader: ProcessId
    kernel: ProcessId
    supervisor: ProcessId
    started_at: datetime
    uid: int
    jailed: bool
    memory_bytes: int
    has_agent: bool
    waits_for: str
    argv: tuple[str, ...]
    disks: tuple[RunDisk, ...]

    @property
    def mconsole_path(self) -> str:
        """Where UML's mconsole socket is."""
        return os.path.join(self.socket_directory, self.umid, "mconsole")

    def is_alive(self) -> bool:
        """Whether the guest still runs."""
        return self.kernel.is_alive()

    def family(self, processes: Processes) -> list[Process]:
        """Return those of the processes that are the run's: its leader, its kernel, and all that descend from them.

        A jail's leader that was killed by itself leaves the kernel behind as an orphan.
        """
        found = {one.pid: one for eldest in (self.leader, self.kernel) for one in family_of(processes, eldest)}
        return list(found.values())

    def build(self) -> bytes:
        """Return the state as a file."""
        row = asdict(self) | {"format": FORMAT, "started_at": self.started_at.isoformat()}
        return json.dumps(row, indent=1, sort_keys=True).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: the exit status of the kernel, or minus the signal that killed it.

    It is None when the supervisor was gone, so that only who stopped the guest saw its end, or when the leader of a
    jail, which hands on the status, was killed by itself.
    """

    status: int | None
    ended_at: datetime
    started_at: datetime

    def build(self) -> bytes:
        """Return it as a file."""
        row = {
            "format": FORMAT,
            "status": self.status,
            "ended_at": self.ended_at.isoformat(),
            "started_at": self.started_at.isoformat(),
        }
        return json.dumps(row, indent=1, sort_keys=True).encode() + b"\n"


def write_state(run_directory: str, state: RunState) -> None:
    """Write state.json; raises StorageError and CannotCreateError."""
    write_file(os.path.join(run_directory, STATE), state.build(), mode=0o600)


def read_state(run_directory: str) -> RunState | None:
    """Return what state.json says, alive or not; None when there is none.

    Raises DataError when it makes no sense, StorageError when it cannot be read.
    """
    return _parsed(os.path.join(run_directory, STATE), _state)


def write_end(run_directory: str, end: RunEnd) -> None:
    """Write exit.json; raises StorageError and CannotCreateError."""
    write_file(os.path.join(run_directory, EXIT), end.build(), mode=0o600)


def running(run_directory: str) -> RunState | None:
    """Return the run that lives now, or None."""
    state = read_state(run_directory)
    return state if state is not None and state.is_alive() else None


def read_end(run_directory: str) -> RunEnd | None:
    """Return how the last run ended, None when that was not seen; raises as `read_state` does."""
    return _parsed(os.path.join(run_directory, EXIT), _end)


def end_of(run_directory: str, state: RunState) -> RunEnd | None:
    """Return how just this run ended, None when that was not seen or is not yet written."""
    end = read_end(run_directory)
    return end if end is not None and end.started_at == state.started_at else None


def ready_at(run_directory: str, state: RunState) -> datetime | None:
    """Return when the guest of this run wrote its ready marker, None when it has not."""
    ready = _parsed(os.path.join(run_directory, READY), _ready)
    return ready[1] if ready is not None and ready[0] == state.started_at else None


def write_ready(run_directory: str, *, started_at: datetime, ready_at: datetime) -> None:
    """Note that the ready marker was seen."""
    row = {"format": FORMAT, "started_at": started_at.isoformat(), "ready_at": ready_at.isoformat()}
    write_file(os.path.join(run_directory, READY), json.dumps(row).encode() + b"\n", mode=0o600, sync=False)


def _state(row: _Row) -> RunState:
    return RunState(
        guest=row.text("guest"),
        umid=row.text("umid"),
        socket_directory=row.text("socket_directory"),
        leader=_process(row.row("leader")),
        kernel=_process(row.row("kernel")),
        supervisor=_process(row.row("supervisor")),
        started_at=row.time("started_at"),
        uid=row.number("uid"),
        jailed=row.truth("jailed"),
        memory_bytes=row.number("memory_bytes"),
        has_agent=row.truth("has_agent"),
        waits_for=row.text("waits_for"),
        argv=tuple(_of(str, word) for word in row.list("argv")),
        disks=tuple(_disk(_Row.of(disk)) for disk in row.list("disks")),
    )


def _process(row: _Row) -> ProcessId:
    pid = row.number("pid")
    if not 0 < pid < _PID_LIMIT:
        raise ValueError(f"process {pid}")
    return ProcessId(pid, row.number("start_ticks"), row.text("boot"))


def _disk(row: _Row) -> RunDisk:
    backing = row.text("backing") if row["backing"] is not None else None
    return RunDisk(row.text("drive"), row.number("ubd"), row.text("path"), backing, row.truth("thrown_away"))


def _end(row: _Row) -> RunEnd:
    status = None if row["status"] is None else _of(int, row["status"])
    if status is not None and not -_STATUS_LIMIT < status < _STATUS_LIMIT:
        raise ValueError(f"status {status}")
    return RunEnd(status, row.time("ended_at"), row.time("started_at"))


def _ready(row: _Row) -> tuple[datetime, datetime]:
    return row.time("started_at"), row.time("ready_at")


class _Row(dict[str, Any]):
    """An object of JSON whose values are of the types they should be, or TypeError and ValueError say so."""

    @classmethod
    def of(cls, value: object) -> _Row:
        return cls(_of(dict, value))

    def row(self, name: str) -> _Row:
        return _Row.of(self[name])

    def text(self, name: str) -> str:
        text = _of(str, self[name])
        if "\0" in text:
            raise ValueError(f"{name} with a NUL")
        return text

    def number(self, name: str) -> int:
        number = _of(int, self[name])
        if number < 0:
            raise ValueError(f"{name} {number}")
        return number

    def truth(self, name: str) -> bool:
        return _of(bool, self[name])

    def list(self, name: str) -> list[Any]:
        return _of(list, self[name])

    def time(self, name: str) -> datetime:
        time = datetime.fromisoformat(_of(str, self[name]))
        if time.utcoffset() is None:
            raise ValueError(f"{name} without a zone")
        return time.astimezone(UTC)


def _of(kind: type[_Value], value: object) -> _Value:
    if type(value) is not kind:  # True is an int, too
        raise TypeError(f"{type(value).__name__} for {kind.__name__}")
    return value


def _parsed(path: str, parse: Callable[[_Row], _Value]) -> _Value | None:
    """Return what `parse` makes of the object in a file, None when there is no file."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        row = _Row.of(json.loads(data))
        if (found := row.number("format")) != FORMAT:
            raise ValueError(f"format {found}")
        return parse(row)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(
        "what is known of a guest's run cannot be read", where=path, found=f"{type(error).__name__}: {error}"[:200]
    )
