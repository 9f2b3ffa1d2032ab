"""Whether a guest runs, and how it is, seen from outside and without disturbing it.

    not built     it has no disks
    stopped       nobody has its disks; its last run, if one is known, ended with status 0, or was ended by `stop` when
                  nobody else was left to see it, or by whatever when bubblewrap, which hands on the status, was gone
    starting      somebody has claimed the run, or the kernel runs and mconsole does not answer yet
    running       mconsole answers; not ready, or the guest writes no ready marker
    ready         the ready marker was seen
    frozen        the kernel is in mconsole's `stop`: see below
    foreign       somebody else than umldisk runs a guest on its disks
    ending        the kernel has ended, and the supervisor syncs the disks
    ended         the last run ended with another status than 0, or by a signal
    crashed       the last run ended, and nobody was left to see how

How frozen is known. `mconsole_stop` (arch/um/drivers/mconsole_kern.c) waits for `go` in a loop that reads the
mconsole's socket; for that it makes the socket blocking, which it is at no other time. A descriptor's flags stand in
/proc/PID/fdinfo. So nothing need be asked, and a guest that answers `version` while it is frozen, as it does, is told
from one that runs. Who may not look into the guest's processes does not learn it.

Otherwise mconsole is asked `version`, with a short timeout: a guest that is silent must not hold up who asks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from umldisk.config.guest import Guest
from umldisk.cow.findings import Finding
from umldisk.errors import UmldiskError
from umldisk.guest.console_log import FILES, LOG_BYTES
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import CONSOLE_LOG, LOCK, RunEnd, RunState, read_end, read_state, ready_at
from umldisk.ops.running.status_findings import guest_finding
from umldisk.system import locks
from umldisk.system.files import open_disk
from umldisk.system.locks import Holder
from umldisk.system.pids import ProcessId, boot_id
from umldisk.system.processes import Processes, family_of, resident_bytes

ANSWER_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0
"""How long a starting guest may leave mconsole unanswered before that is worth a word."""

Ask = Callable[[RunState], bool]
"""Whether a run's mconsole answers."""


class GuestState(Enum):
    """How a guest is; see above."""

    NOT_BUILT = "not built"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    FROZEN = "frozen"
    FOREIGN = "running, not by umldisk"
    ENDING = "ending"
    ENDED = "ended"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What is known of a guest's run, the last one when none is going on.

    `pid` is the process whose end is the end of the guest. `resident_bytes` is counted as umldisk.system.processes
    tells. `exit_status` is the kernel's, or minus the number of the signal that ended it, None when that is not known.
    """

    state: GuestState
    pid: int | None = None
    umid: str | None = None
    uptime_seconds: int | None = None
    memory_bytes: int | None = None
    resident_bytes: int | None = None
    jailed: bool | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_status: int | None = None
    findings: tuple[Finding, ...] = ()


def mconsole_answers(state: RunState) -> bool:
    """Whether the run's mconsole answers within half a second."""
    try:
        mconsole_of(state, timeout_seconds=ANSWER_SECONDS).send("version")
    except UmldiskError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the run directory says: the run in state.json, or why that cannot be read, and how it ended.

    `supervised`: the supervisor lived just before the end was looked for, so that one that is missing may come yet.
    """

    directory: str
    state: RunState | None = None
    end: RunEnd | None = None
    ready: bool = False
    supervised: bool = False
    trouble: UmldiskError | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the run goes on."""
        return self.state is not None and self.state.is_alive()

    @property
    def is_ending(self) -> bool:
        """Whether the supervisor puts things in order after the kernel's end, if that has come."""
        return self.supervised and self.end is None

    @property
    def is_claimed(self) -> bool:
        """Whether somebody has the run's lock: one who starts it, unless a supervisor is through and about to go."""
        return not (self.supervised and self.end) and _is_locked(self.directory)


def read_recorded(run_directory: str) -> Recorded:
    """Read what is known of the guest's last run."""
    state, supervised = None, False
    try:
        state = read_state(run_directory)
        if state is None:
            return Recorded(run_directory)
        supervised = state.supervisor.is_alive()
        end = read_end(run_directory)
        ours = end if end is not None and end.started_at == state.started_at else None
        ready = ready_at(run_directory, state) is not None
        return Recorded(run_directory, state, ours, ready, supervised)
    except UmldiskError as error:
        return Recorded(run_directory, state, supervised=supervised, trouble=error)


def judge_run(
    guest: Guest,
    recorded: Recorded,
    processes: Processes,
    *,
    holder: Holder | None,
    is_built: bool,
    ask: Ask = mconsole_answers,
) -> RunStatus:
    """Say how a guest is, by its run directory, the processes of this moment, and who has its disks locked."""
    state = recorded.state
    if state is not None and recorded.is_alive:
        return _alive(recorded, state, processes, ask)
    found = [*_unreadable(recorded), *_large_log(recorded.directory)]
    if recorded.is_ending:
        return _past(GuestState.ENDING, recorded, found)
    if state is not None and (left := _left(recorded.directory, state)):
        return _past(GuestState.CRASHED, recorded, [*_processes_left(guest, left), *found])
    if holder is not None and holder.umid is not None:
        unknown = recorded.trouble is not None  # it may well be umldisk's
        return _without_record(GuestState.RUNNING if unknown else GuestState.FOREIGN, holder, processes, found)
    if recorded.is_claimed:
        return RunStatus(GuestState.STARTING, findings=tuple(found))
    what, more = _what_was(guest, recorded, is_built=is_built)
    return _past(what, recorded, [*more, *found])


# -- runs that go on --------------------------------------------------------------------------------------------------


def _alive(recorded: Recorded, state: RunState, processes: Processes, ask: Ask) -> RunStatus:
    members = state.family(processes)
    now = processes.get(state.kernel.pid)
    frozen = is_frozen((one.pid for one in members), state.mconsole_path)
    answers = frozen or ask(state)
    what = GuestState.READY if recorded.ready else GuestState.RUNNING if answers else GuestState.STARTING
    uptime = now.age_seconds if now else 0.0
    found = [*_alone(state), *_unguarded(state), *_large_log(recorded.directory)]
    if not answers and (recorded.ready or uptime > _PATIENCE_SECONDS):
        found.append(
            guest_finding(
                "mconsole-silent",
                "mconsole does not answer",
                where=state.mconsole_path,
                hint="umldisk stop can still end the guest, by signals",
            )
        )
    return RunStatus(
        GuestState.FROZEN if frozen else what,
        pid=state.kernel.pid,
        umid=state.umid,
        uptime_seconds=int(uptime),
        memory_bytes=state.memory_bytes,
        resident_bytes=resident_bytes(members),
        jailed=state.jailed,
        started_at=state.started_at,
        findings=tuple(found),
    )


def _without_record(what: GuestState, holder: Holder, processes: Processes, found: Iterable[Finding]) -> RunStatus:
    process = None if holder.pid is None else processes.get(holder.pid)
    members = family_of(processes, ProcessId(process.pid, process.start_ticks, boot_id())) if process else []
    return RunStatus(
        what,
        pid=holder.pid,
        umid=holder.umid,
        uptime_seconds=int(process.age_seconds) if process else None,
        resident_bytes=resident_bytes(members),
        findings=tuple(found),
    )


def is_frozen(pids: Iterable[int], mconsole_path: str) -> bool:
    """Whether one of these processes waits for mconsole's `go`; False also when that cannot be seen."""
    for pid in pids:
        with contextlib.suppress(OSError):
            wanted = _sockets_of(pid, mconsole_path)
            for name in os.listdir(f"/proc/{pid}/fd") if wanted else ():
                if os.readlink(f"/proc/{pid}/fd/{name}") in wanted:
                    return not _flags(pid, name) & os.O_NONBLOCK
    return False


def _sockets_of(pid: int, path: str) -> set[str]:
    """Return how /proc shows descriptors of sockets that are bound to `path` in the process's network namespace."""
    with open(f"/proc/{pid}/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        rows = [line.rstrip("\n").split(None, 7) for line in file]
    return {f"socket:[{words[6]}]" for words in rows if words[7:] == [path]}


def _flags(pid: int, descriptor: str) -> int:
    with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("flags:")), os.O_NONBLOCK)


# -- runs that are over -----------------------------------------------------------------------------------------------


def _what_was(guest: Guest, recorded: Recorded, *, is_built: bool) -> tuple[GuestState, list[Finding]]:
    """Say how a guest is that nobody runs, and what is wrong with that."""
    if recorded.state is not None and recorded.end is None:
        return GuestState.CRASHED, list(_crashed(guest, recorded.state))
    if recorded.end is not None and recorded.end.status:
        return GuestState.ENDED, []
    return GuestState.STOPPED if is_built else GuestState.NOT_BUILT, []


def _past(what: GuestState, recorded: Recorded, found: Iterable[Finding]) -> RunStatus:
    state, end = recorded.state, recorded.end
    return RunStatus(
        what,
        jailed=state.jailed if state else None,
        started_at=state.started_at if state else None,
        ended_at=end.ended_at if end else None,
        exit_status=end.status if end else None,
        findings=tuple(found),
    )


def _left(run_directory: str, state: RunState) -> list[ProcessId]:
    if state.kernel.boot != boot_id():
        return []
    from umldisk.guest.aftermath import left_over

    try:
        return left_over(run_directory, state)
    except UmldiskError:
        return []


def _is_locked(run_directory: str) -> bool:
    try:
        with open_disk(os.path.join(run_directory, LOCK)) as file:
            return locks.holder(file.fd, exclusive=True) is not None
    except (UmldiskError, OSError):
        return False


# -- findings ---------------------------------------------------------------------------------------------------------


def _crashed(guest: Guest, state: RunState) -> Iterator[Finding]:
    rebooted = state.kernel.boot != boot_id()
    when = f"{state.started_at:%Y-%m-%d %H:%M:%S} UTC"
    message = f"the run that began at {when} ended " + ("with the machine's own restart" if rebooted else "unseen")
    yield guest_finding("crashed", message, hint=f"start it again: umldisk start {guest.name}")


def _processes_left(guest: Guest, left: list[ProcessId]) -> Iterator[Finding]:
    message = f"the kernel has ended, and {len(left)} of its processes keep the disks, PID {left[0].pid} first"
    yield guest_finding("processes-left", message, hint=f"end them: umldisk stop {guest.name}")


def _alone(state: RunState) -> Iterator[Finding]:
    if not state.supervisor.is_alive():
        message = f"the supervisor (PID {state.supervisor.pid}) is gone: the console is not recorded"
        yield guest_finding("supervisor-gone", message, hint="stop the guest and start it again when that is possible")


def _unguarded(state: RunState) -> Iterator[Finding]:
    if state.jailed and not state.leader.is_alive():
        message = f"bubblewrap (PID {state.leader.pid}) is gone: the guest's exit status will not be known"
        hint = "nothing else is lost; stop the guest and start it again when that is possible"
        yield guest_finding("bubblewrap-gone", message, hint=hint)


def _unreadable(recorded: Recorded) -> Iterator[Finding]:
    if recorded.trouble is not None:
        yield guest_finding("run-unreadable", recorded.trouble.line(), where=recorded.directory)


def _large_log(run_directory: str) -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(run_directory) if name.startswith(CONSOLE_LOG)]
        total_bytes = sum(os.lstat(os.path.join(run_directory, name)).st_size for name in names)
        if total_bytes > 2 * FILES * LOG_BYTES:
            message = f"the transcript of the console has {total_bytes >> 20} MiB; it should be cut into pieces"
            yield guest_finding("console-log-large", message, where=os.path.join(run_directory, CONSOLE_LOG))
