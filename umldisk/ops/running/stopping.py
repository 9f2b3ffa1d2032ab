"""Stopping a guest, and putting in order what it left.

    descend     the ladder, until the kernel is gone                             (a guest that does not run: nothing)
    sweep       host processes that outlived it, which would keep the disks locked
    finish      the supervisor syncs the disks, removes throw-away files and writes exit.json; when it is dead we do,
                under the run's lock
    look        nobody holds the disks any more, and what the file systems on them say of themselves

A supervisor that was killed does not read the console any more, without which a guest may be unable to shut down: then
we read it while the guest ends.

Stopping what does not run is no failure: the end that was asked for is there. What a killed guest left is then put in
order all the same. That a guest does not run is believed when its run directory could be claimed, so that nobody is
starting it, and no guest has its disks locked, also none that nobody wrote down. One that comes up while the claim is
waited for is stopped.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from umldisk.config.site import Site
from umldisk.errors import BusyError, NoInputError, UmldiskError
from umldisk.guest import rundir
from umldisk.guest.aftermath import put_away, sweep
from umldisk.guest.draining import console_drained
from umldisk.guest.ladder import Ladder, Outcome, Rung, Tried, descend
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import RunDisk, RunEnd, RunState, end_of, read_state, running, write_end
from umldisk.guest.stopping import RunHands
from umldisk.system import locks
from umldisk.system.files import open_disk

_SUPERVISOR_SECONDS = 120.0
"""What syncing many gigabytes to a slow disk may take."""
_CLAIM_SECONDS, _UNLOCKED_SECONDS = 10.0, 3.0
_GLANCE_SECONDS = 0.05

Asking = Callable[[RunState], Callable[[str], str]]


class Stopped(Enum):
    """What a stop came to."""

    NOT_RUNNING = "not running"
    STOPPED = "stopped"
    WOULD_STOP = "would stop"


@dataclass(frozen=True, slots=True)
class DiskLeft:
    """A disk after the stop: `clean` as its ext file system says, None where there is none or it cannot be read."""

    drive: str
    path: str
    clean: bool | None


@dataclass(frozen=True, slots=True)
class StopReport:
    """What was done, and how the guest's last run ended.

    `needed` is the rung that ended it. `status` is the kernel's exit status or minus the signal that killed it, None
    when nobody saw it. `clean` says whether every file system was left clean, None when that is not known. `killed`
    counts processes that had outlived the kernel, `removed` names throw-away files that only this stop removed.
    `ladder` is what would be tried (`--dry-run`).
    """

    guest: str
    outcome: Stopped
    pid: int | None = None
    needed: Rung | None = None
    tried: tuple[Tried, ...] = ()
    seconds: float = 0.0
    status: int | None = None
    clean: bool | None = None
    disks: tuple[DiskLeft, ...] = ()
    killed: int = 0
    removed: tuple[str, ...] = ()
    ladder: Ladder | None = None


@dataclass(frozen=True, slots=True)
class _Done:
    """What was done after an end: how many processes were killed, and which files removed."""

    killed: int = 0
    removed: tuple[str, ...] = ()


_NOTHING = _Done()


def _asking(state: RunState) -> Callable[[str], str]:
    return mconsole_of(state).send


def stop_guest(
    site: Site, name: str, ladder: Ladder | None = None, *, dry_run: bool = False, ask: Asking = _asking
) -> StopReport:
    """End the guest called `name` by `ladder`, and see to it that its disks are synced and unlocked.

    Raises UsageError for an impossible name, NoInputError when there is no such guest, DataError when what is known of
    its run makes no sense, BusyError when it does not end, somebody starts it or holds its disks, StorageError when a
    process may not be signalled or a disk not be synced. For a guest that does not run umldisk.toml is read, too.
    """
    began, steps = time.monotonic(), ladder or Ladder.of()
    run_directory = site.run_directory(name)
    state = read_state(run_directory)
    if state is None:
        _require_guest(site, name)
    if dry_run:
        return _foreseen(site, name, state, steps)
    done = _NOTHING
    if state is None or not state.is_alive():
        if state is not None:
            done = _put_in_order(run_directory, state, ended_by_us=False, unsupervised=False)
        begun = _begun_meanwhile(site, name, state)
        if begun is None:
            seconds = time.monotonic() - began
            return _report(run_directory, state, (), done, seconds) if state else StopReport(name, Stopped.NOT_RUNNING)
        state = begun
    unsupervised = not state.supervisor.is_alive()
    tried = _end(run_directory, state, steps, ask, unsupervised=unsupervised)
    done = _put_in_order(run_directory, state, ended_by_us=True, unsupervised=unsupervised)
    return _report(run_directory, state, tried, done, time.monotonic() - began)


def _require_guest(site: Site, name: str) -> None:
    directory = site.guest(name).directory
    if not os.path.isdir(directory):
        raise NoInputError("there is no such guest", where=directory)


def _foreseen(site: Site, name: str, state: RunState | None, ladder: Ladder) -> StopReport:
    if state is not None and state.is_alive():
        return StopReport(name, Stopped.WOULD_STOP, pid=state.kernel.pid, ladder=ladder)
    _require_unused(site, name, state)
    return StopReport(name, Stopped.NOT_RUNNING)


def _begun_meanwhile(site: Site, name: str, state: RunState | None) -> RunState | None:
    """Return the run that somebody was just beginning, or make sure that there is none; `state` is of one that ended.

    Raises BusyError when it takes too long to come up, and when a guest has the disks that nobody wrote down.
    """
    run_directory = site.run_directory(name)
    with contextlib.ExitStack() as stack:
        if os.path.isdir(run_directory) and (begun := stack.enter_context(_claimed(run_directory))):
            return begun
        _require_unused(site, name, state)
    return None


def _end(run_directory: str, state: RunState, ladder: Ladder, ask: Asking, *, unsupervised: bool) -> tuple[Tried, ...]:
    with console_drained(run_directory) if unsupervised else contextlib.nullcontext():
        tried = descend(ladder, RunHands(run_directory, state, ask(state)))
    if tried[-1].outcome is not Outcome.ENDED:
        raise BusyError("the guest does not end", where=state.guest, pid=state.kernel.pid, umid=state.umid)
    return tried


def _put_in_order(run_directory: str, state: RunState, *, ended_by_us: bool, unsupervised: bool) -> _Done:
    """See to what has to happen after an end."""
    killed = sweep(run_directory, state)
    removed: tuple[str, ...] = ()
    if not state.supervisor.wait(_SUPERVISOR_SECONDS):
        raise BusyError(
            "the guest has ended, but who looks after it has not finished",
            where=state.guest,
            pid=state.supervisor.pid,
        )
    nobody_did = end_of(run_directory, state) is None or (ended_by_us and unsupervised)
    if nobody_did and _is_current(run_directory, state):
        with _claimed(run_directory) as begun:
            if begun is None and _is_current(run_directory, state):
                removed = put_away(state)
                if ended_by_us and unsupervised and end_of(run_directory, state) is None:
                    write_end(run_directory, RunEnd(None, datetime.now(UTC), state.started_at))
    if ended_by_us or killed:
        _require_unlocked(run_directory, state)
    return _Done(killed, removed)


def _is_current(run_directory: str, state: RunState) -> bool:
    """Whether the guest was not started again meanwhile."""
    return read_state(run_directory) == state


@contextlib.contextmanager
def _claimed(run_directory: str) -> Iterator[RunState | None]:
    """Hold the run directory, which another stop may have for a moment, or give the run that lives by now.

    Raises BusyError when somebody has it for longer and no guest comes up.
    """
    deadline = time.monotonic() + _CLAIM_SECONDS
    while True:
        claim, refused = _try_claim(run_directory)
        begun = running(run_directory) if refused else None
        if claim or begun:
            break
        if time.monotonic() > deadline:
            raise BusyError(
                "the guest is being started or stopped",
                where=os.path.basename(run_directory),
                pid=refused.pid if refused else None,
                hint="run the command again when that is done, or has failed",
            )
        time.sleep(_GLANCE_SECONDS)
    with claim or contextlib.nullcontext():
        yield begun


def _try_claim(run_directory: str) -> tuple[rundir.Claim | None, BusyError | None]:
    try:
        return rundir.claim(run_directory), None
    except BusyError as refused:
        return None, refused


_Held = tuple[RunDisk, locks.Holder]


def _require_unlocked(run_directory: str, state: RunState) -> None:
    """Raise BusyError when somebody still has a disk of a run that ended."""
    held = _lasting(lambda: _held(state.disks) if _is_current(run_directory, state) else None)
    if held:
        disk, holder = held
        raise BusyError(
            "the guest has ended, but its disk is in use",
            where=disk.path,
            pid=holder.pid,
            umid=holder.umid,
            hint="end that process if it is what is left of the guest",
        )


def _require_unused(site: Site, name: str, state: RunState | None) -> None:
    """Raise BusyError when a guest writes the disks of one whose last run, if any, is `state` and has ended."""
    from umldisk.ops.running.status_disks import planned_disks

    disks = dict.fromkeys((*(state.disks if state else ()), *planned_disks(site.guest(name))))
    held = _lasting(lambda: _held(disks, by_guest=True))
    if held:
        disk, holder = held
        raise BusyError(
            "the guest runs, but umldisk knows of no run: its disk is in use",
            where=disk.path,
            pid=holder.pid,
            umid=holder.umid,
            hint="shut it down from inside, or end that process; umldisk who tells more",
        )


def _lasting(find: Callable[[], _Held | None]) -> _Held | None:
    """Return what `find` finds for some seconds: a process that ends may have its locks for a moment."""
    deadline = time.monotonic() + _UNLOCKED_SECONDS
    while (held := find()) and time.monotonic() <= deadline:
        time.sleep(_GLANCE_SECONDS)
    return held


def _held(disks: Iterable[RunDisk], *, by_guest: bool = False) -> _Held | None:
    """Return a disk that is in use; `by_guest`: by a guest that writes it."""
    for disk in disks:
        with contextlib.suppress(NoInputError, OSError), open_disk(disk.path) as opened:
            holder = locks.holder(opened.fd)
            if holder is not None and (not by_guest or (holder.exclusive and holder.umid is not None)):
                return disk, holder
    return None


def _report(
    run_directory: str,
    state: RunState,
    tried: tuple[Tried, ...],
    done: _Done,
    seconds: float,
) -> StopReport:
    end = end_of(run_directory, state)
    disks = tuple(DiskLeft(disk.drive, disk.path, _is_clean(disk)) for disk in state.disks if not disk.thrown_away)
    known = [disk.clean for disk in disks if disk.clean is not None]
    return StopReport(
        state.guest,
        Stopped.STOPPED if tried else Stopped.NOT_RUNNING,
        pid=state.kernel.pid if tried else None,
        needed=tried[-1].rung if tried else None,
        tried=tried,
        seconds=seconds,
        status=end.status if end is not None else None,
        clean=all(known) if known else None,
        disks=disks,
        killed=done.killed,
        removed=done.removed,
    )


def _is_clean(disk: RunDisk) -> bool | None:
    from umldisk.ops.describe import describe

    try:
        contents = describe(disk.path).contents
    except UmldiskError:
        return None
    return contents.ext.clean if contents is not None and contents.ext is not None else None
