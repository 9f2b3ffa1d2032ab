"""What is left of a guest when its kernel has ended: host processes that keep the disks, and files of that run alone.

The supervisor sees to it; when it was killed, whoever stops the guest does. Both claim the run directory meanwhile.
"""

from __future__ import annotations

import os
import signal
import time

from umldisk.errors import BusyError, UmldiskError
from umldisk.guest.rundir import clear_sockets
from umldisk.guest.state import LOCK, RunState
from umldisk.system.files import open_disk
from umldisk.system.pids import ProcessId, end_all, session_members
from umldisk.system.staging import remove

_GRACE_SECONDS = 2.0


def left_over(run_directory: str, state: RunState) -> list[ProcessId]:
    """Return the processes of a run that still live, the kernel among them.

    UML's host processes outlive a killed main process, and keep the locks on the disks. What shows that a process of a
    session without a leader is one of them is the run's lock, which all of them inherited open.
    """
    lock = os.path.join(run_directory, LOCK)
    leaders = dict.fromkeys((state.kernel, state.leader))
    return list(dict.fromkeys(process for one in leaders for process in session_members(one, holding=lock)))


def sweep(run_directory: str, state: RunState, *, timeout_seconds: float = 10.0) -> int:
    """End what is left of a run whose kernel has ended; return how many processes had to be killed.

    What stands around a jail gets some time to end by itself, since it hands on the kernel's exit status. Raises
    BusyError when a process cannot be ended.
    """
    deadline = time.monotonic() + timeout_seconds
    if state.jailed and not state.kernel.is_alive():
        state.leader.wait(_GRACE_SECONDS)
    killed: dict[ProcessId, None] = {}
    while left := left_over(run_directory, state):
        killed |= dict.fromkeys(left)
        gone = end_all(left, signal.SIGKILL, timeout_seconds=deadline - time.monotonic())
        if not gone and time.monotonic() > deadline:
            pid = next((process.pid for process in left if process.is_alive()), left[0].pid)
            raise BusyError("a process of the guest does not end", where=state.guest, pid=pid)
    return len(killed)


def put_away(state: RunState) -> tuple[str, ...]:
    """Sync the disks of a run that has ended, remove those that were for it alone, and return the removed ones' paths.

    The directory of its sockets goes, too.

    UML's flush does nothing (arch/um/drivers/ubd_kern.c of 6.1): what a guest has synced is in the host's page cache.
    All disks are tried; the first StorageError or NoInputError is raised afterwards. The run directory must be claimed.
    """
    removed, failures = [], []
    for disk in state.disks:
        try:
            if disk.thrown_away:
                if os.path.lexists(disk.path):
                    remove(disk.path)
                    removed.append(disk.path)
            else:
                with open_disk(disk.path) as opened:
                    opened.sync()
        except UmldiskError as error:
            failures.append(error)
    try:
        clear_sockets(state.socket_directory)
    except UmldiskError as error:
        failures.append(error)
    if failures:
        raise failures[0]
    return tuple(removed)
