"""Stopping a guest, and putting in order what it left.

    descend     the ladder, until the kernel is gone                             (a guest that does not run: nothing)
    sweep       host processes that outlived it, which would keep the disks locked
    finish      the supervisor syncs the disks and removes throw-away files; when it is dead we do, under the run's lock
    look        nobody holds the disks any more, and what the file systems on them say of themselves

Stopping what does not run is no failure: the end that was asked for is there. What a killed guest left is then put in
order all the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from umldisk.config.site import Site
from umldisk.errors import BusyError, NoInputError, UmldiskError
from umldisk.guest import rundir
from umldisk.guest.aftermath import put_away, sweep
from umldisk.guest.ladder import Ladder, Outcome, Rung, Tried, descend
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import RunDisk, RunState, end_of, read_state
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


def _asking(state: RunState) -> Callable[[str], str]:
    return mconsole_of(state).send


def stop_guest(
    site: Site, name: str, ladder: Ladder | None = None, *, dry_run: bool = False, ask: Asking = _asking
) -> StopReport:
    """End the guest called `name` by `ladder`, and see to it that its disks are synced and unlocked.

    Raises UsageError for an impossible name, NoInputError when there is no such guest, DataError when what is known of
    its run makes no sense, BusyError when it does not end, somebody starts it or holds its disks, StorageError when a
    process may not be signalled or a disk not be synced.
    """
    began, steps = time.monotonic(), ladder or Ladder.of()
    run_directory = site.run_directory(name)
    state = read_state(run_directory)
    if state is None:
        _require_guest(site, name)
        if os.path.isdir(run_directory) and not dry_run:
            with _claimed(run_directory):  # else it is being started just now
                pass
        return StopReport(name, Stopped.NOT_RUNNING)
    alive, unsupervised = state.is_alive(), not state.supervisor.is_alive()
    if dry_run:
        return StopReport(
            name,
            Stopped.WOULD_STOP if alive else Stopped.NOT_RUNNING,
            pid=state.kernel.pid if alive else None,
            ladder=steps if alive else None,
        )
    tried = _end(run_directory, state, steps, ask) if alive else ()
    killed, removed = _put_in_order(run_directory, state, ended_by_us=alive, unsupervised=unsupervised)
    return _report(run_directory, state, tried, (killed, removed), time.monotonic() - began)


def _require_guest(site: Site, name: str) -> None:
    directory = site.guest(name).directory
    if not os.path.isdir(directory):
        raise NoInputError("there is no such guest", where=directory)


def _end(run_directory: str, state: RunState, ladder: Ladder, ask: Asking) -> tuple[Tried, ...]:
    tried = descend(ladder, RunHands(run_directory, state, ask(state)))
    if tried[-1].outcome is not Outcome.ENDED:
        raise BusyError("the guest does not end", where=state.guest, pid=state.kernel.pid, umid=state.umid)
    return tried


def _put_in_order(
    run_directory: str, state: RunState, *, ended_by_us: bool, unsupervised: bool
) -> tuple[int, tuple[str, ...]]:
    """See to what has to happen after an end; return how many processes were killed and which files removed."""
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
        with _claimed(run_directory):
            if _is_current(run_directory, state):
                removed = put_away(state)
    _require_unlocked(run_directory, state, by_anybody=ended_by_us or killed > 0)
    return killed, removed


def _is_current(run_directory: str, state: RunState) -> bool:
    """Whether the guest was not started again meanwhile."""
    return read_state(run_directory) == state


@contextlib.contextmanager
def _claimed(run_directory: str) -> Iterator[None]:
    """Hold the run directory; another stop may have it for a moment. Raises BusyError."""
    deadline = time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            claim = rundir.claim(run_directory)
            break
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_GLANCE_SECONDS)
    with claim:
        yield


def _require_unlocked(run_directory: str, state: RunState, *, by_anybody: bool) -> None:
    """Raise BusyError when a disk is still held, by a guest of this name or `by_anybody`."""
    deadline = time.monotonic() + _UNLOCKED_SECONDS
    while (held := _held(state, by_anybody=by_anybody)) and _is_current(run_directory, state):
        disk, holder = held
        if time.monotonic() > deadline:
            raise BusyError(
                "the guest has ended, but its disk is in use",
                where=disk.path,
                pid=holder.pid,
                umid=holder.umid,
                hint="end that process if it is what is left of the guest",
            )
        time.sleep(_GLANCE_SECONDS)


def _held(state: RunState, *, by_anybody: bool) -> tuple[RunDisk, locks.Holder] | None:
    for disk in state.disks:
        with contextlib.suppress(NoInputError, OSError), open_disk(disk.path) as opened:
            holder = locks.holder(opened.fd)
            if holder is not None and (by_anybody or holder.umid == state.umid):
                return disk, holder
    return None


def _report(
    run_directory: str,
    state: RunState,
    tried: tuple[Tried, ...],
    done: tuple[int, tuple[str, ...]],
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
        killed=done[0],
        removed=done[1],
    )


def _is_clean(disk: RunDisk) -> bool | None:
    from umldisk.ops.describe import describe

    try:
        contents = describe(disk.path).contents
    except UmldiskError:
        return None
    return contents.ext.clean if contents is not None and contents.ext is not None else None
