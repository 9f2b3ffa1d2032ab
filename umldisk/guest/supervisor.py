"""The process that stays with a running guest: `python -m umldisk.guest.supervisor`, with a plan on stdin.

    plan ──▶ start the kernel ──▶ state.json ──▶ "started" on stdout
             console.out ──▶ transcript, and the ready marker
             the kernel's end ──▶ what is left of it killed, disks synced, throw-away files removed ──▶ exit.json

Invariants. The kernel never waits for us: it holds its FIFOs open itself. exit.json is written last, so that whoever
sees it may use the disks. Signals that end a session do not end us, nor does the end of whoever started us; the end of
the kernel does. A kernel that cannot be made known in state.json is ended: nobody could stop it. When we are killed
before it is known, start does that.

In a jail the kernel's exit status comes from bubblewrap, which leads the run. Killed by itself it takes the status with
it: the guest goes on, and how it ends is not known.

UML's flush does nothing (arch/um/drivers/ubd_kern.c of 6.1): what a guest has synced is in the host's page cache. So
the disks are synced here when their guest has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from umldisk.errors import StorageError, UmldiskError
from umldisk.guest import rundir
from umldisk.guest.aftermath import put_away, sweep
from umldisk.guest.commandline import AGENT_IN_FD, AGENT_OUT_FD, INFO_FD, LOCK_FD
from umldisk.guest.console_log import ConsoleLog, MarkerWatch, last_lines
from umldisk.guest.launching import STARTED, RunPlan, parse_plan
from umldisk.guest.state import EXIT, RunEnd, RunState, write_ready, write_state
from umldisk.system.pids import ProcessId, end_all, session_members
from umldisk.system.process import Child, launch
from umldisk.system.staging import write_file
from umldisk.system.swapping import explained

_PIECE_BYTES = 1 << 16
_KILL_SECONDS, _INFO_SECONDS = 10.0, 40.0
_MOST_INFO_BYTES = 1 << 12
_MOST_LEFT_BYTES = 1 << 20
"""What a FIFO can hold: more than that was written after the end, by whoever outlived it."""
_SIGNALLED = 128
"""What bubblewrap, like a shell, adds to the number of the signal that ended its program."""


def main() -> None:
    """Carry out the plan on stdin."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # a handler, since the kernel would inherit that they are ignored
    plan, lock_fd = parse_plan(sys.stdin.buffer.readline())
    os.chdir("/")  # else the file system that start was called on could not be unmounted
    try:
        running = _start(plan, lock_fd)
        state = running.introduce()
    except UmldiskError as error:
        _say(error.line().encode(errors="replace"))
        return
    _say(STARTED)
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    running.record(state)
    running.settle(state)


def _say(words: bytes) -> None:
    """Answer start, which may have been killed meanwhile: that is no reason to leave a guest alone."""
    with contextlib.suppress(OSError):
        os.write(1, words)


def _start(plan: RunPlan, lock_fd: int) -> _Running:
    """Start the kernel; raises StorageError when its program cannot be run."""
    _place(lock_fd, LOCK_FD)  # first, before another file gets its number
    reader = _open_fifo(plan, rundir.CONSOLE_OUT, os.O_RDONLY | os.O_NONBLOCK)
    log = ConsoleLog(plan.run_directory)
    with explained("make", "a pipe"):
        info_reader, info_writer = os.pipe()
    _place(info_writer, INFO_FD)
    _place(_open_fifo(plan, rundir.AGENT_IN, os.O_RDWR), AGENT_IN_FD)
    _place(_open_fifo(plan, rundir.AGENT_OUT, os.O_RDWR), AGENT_OUT_FD)
    console_in = _open_fifo(plan, rundir.CONSOLE_IN, os.O_RDWR)
    console_out = _open_fifo(plan, rundir.CONSOLE_OUT, os.O_RDWR)
    agent = (AGENT_IN_FD, AGENT_OUT_FD) if plan.has_agent else ()
    child = launch(
        plan.argv,
        stdin=console_in,
        stdout=console_out,
        stderr=console_out,
        pass_fds=(LOCK_FD, *agent, *((INFO_FD,) if plan.jailed else ())),
        environment=plan.environment,
        user=(plan.uid, plan.gid, plan.groups) if os.geteuid() == 0 else None,
        cwd="/",
    )
    for fd in (console_in, console_out, INFO_FD, AGENT_IN_FD, AGENT_OUT_FD):
        os.close(fd)
    watch = MarkerWatch(plan.marker.encode()) if plan.marker else None
    return _Running(plan, child, info_reader, reader, log, watch)


def _open_fifo(plan: RunPlan, name: str, flags: int) -> int:
    path = os.path.join(plan.run_directory, name)
    with explained("open", path):
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _place(fd: int, number: int) -> None:
    """Put an open file under the number that the kernel's arguments name."""
    if fd == number:
        os.set_inheritable(fd, True)
        return
    os.dup2(fd, number, inheritable=True)
    os.close(fd)


@dataclass(slots=True)
class _Running:
    """A kernel that runs, and where its console goes."""

    plan: RunPlan
    child: Child
    info_reader: int
    reader: int
    log: ConsoleLog
    watch: MarkerWatch | None

    def introduce(self) -> RunState:
        """Write state.json.

        Raises StorageError with the kernel's last words when it ended before it was known; it is ended when it cannot
        be made known.
        """
        kernel = leader = None
        try:
            leader = ProcessId.of(self.child.pid)
            kernel = self._kernel() if self.plan.jailed else leader
            supervisor = ProcessId.of(os.getpid())
            if leader is None or kernel is None or supervisor is None:
                raise StorageError(self._last_words())
            state = self._state(leader, kernel, supervisor)
            write_state(self.plan.run_directory, state)
        except UmldiskError:
            self._end_all(kernel, leader)
            raise
        finally:
            os.close(self.info_reader)
        return state

    def _state(self, leader: ProcessId, kernel: ProcessId, supervisor: ProcessId) -> RunState:
        plan = self.plan
        return RunState(
            guest=plan.guest,
            umid=plan.guest,
            socket_directory=plan.socket_directory,
            leader=leader,
            kernel=kernel,
            supervisor=supervisor,
            started_at=plan.started_at,
            uid=plan.uid,
            jailed=plan.jailed,
            memory_bytes=plan.memory_bytes,
            has_agent=plan.has_agent,
            waits_for="marker" if plan.marker else "mconsole",
            argv=plan.argv,
            disks=plan.disks,
        )

    def _kernel(self) -> ProcessId | None:
        """Return the process whose end is the end of the guest: in a jail, the init that bubblewrap tells of."""
        said = b""
        with contextlib.suppress(OSError):
            while select.select([self.info_reader], [], [], _INFO_SECONDS)[0]:
                piece = os.read(self.info_reader, _MOST_INFO_BYTES)
                if not piece:
                    break
                said += piece
        try:
            return ProcessId.of(int(json.loads(said)["child-pid"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _last_words(self) -> str:
        self.child.status(_KILL_SECONDS)
        self._drain()
        words = last_lines(self.plan.run_directory, since=self.log.began, most=1)
        return words[0] if words else "the kernel ended at once and said nothing"

    def _end_all(self, *leaders: ProcessId | None) -> None:
        """End the kernel, which in a jail leads a session of its own, and whatever was started with it."""
        for leader in leaders:
            if leader is not None:
                leader.send(signal.SIGKILL)
                end_all(session_members(leader), signal.SIGKILL, timeout_seconds=_KILL_SECONDS)

    # -- while it runs ------------------------------------------------------------------------------------------------

    def record(self, state: RunState) -> None:
        """Write the transcript until the kernel ends.

        In a jail that is not when the program that we started ends, which somebody may have killed by itself.
        """
        try:
            end = os.pidfd_open(state.kernel.pid)
        except ProcessLookupError:
            end = -1
        if end < 0 or not state.is_alive():
            return
        poll = select.poll()
        poll.register(self.reader, select.POLLIN)
        poll.register(end, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if self.reader in events and not self._take():
                poll.unregister(self.reader)  # all who could write are gone
            if end in events:
                break
        os.close(end)

    def _take(self) -> bool:
        """Move a piece of the console to the transcript; False when there is none."""
        try:
            piece = os.read(self.reader, _PIECE_BYTES)
        except BlockingIOError:
            return True
        self.log.write(piece)
        if self.watch is not None and self.watch.saw(piece):
            self.watch = None  # once a run: a guest could write nothing but markers
            now = datetime.now(UTC)
            self._attempt(lambda: write_ready(self.plan.run_directory, started_at=self.plan.started_at, ready_at=now))
        return bool(piece)

    def _drain(self) -> None:
        """Record what is left in the FIFO."""
        left_bytes = _MOST_LEFT_BYTES
        with contextlib.suppress(BlockingIOError):
            while left_bytes > 0 and (piece := os.read(self.reader, _PIECE_BYTES)):
                self.log.write(piece)
                left_bytes -= len(piece)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def settle(self, state: RunState) -> None:
        """Put everything in order after the kernel's end, exit.json last."""
        directory = self.plan.run_directory
        self._attempt(partial(sweep, directory, state))  # before the leader's number may be another's
        status = self.child.status(_KILL_SECONDS)
        self._drain()
        self._attempt(partial(put_away, state))
        end = RunEnd(self._status(status), datetime.now(UTC), self.plan.started_at)
        self._attempt(partial(write_file, os.path.join(directory, EXIT), end.build(), mode=0o600))
        self.log.close()

    def _status(self, status: int | None) -> int | None:
        """Return the kernel's status by that of the program that we started; None when it says nothing of the kernel.

        Bubblewrap tells as a number which signal ended its program. A signal that it ended by was its own.
        """
        if status is None or not self.plan.jailed:
            return status
        if status < 0:
            return None
        return _SIGNALLED - status if status > _SIGNALLED else status

    def _attempt(self, action: Callable[[], object]) -> None:
        """Do what should be done; if it fails, the transcript says so and the rest goes on."""
        try:
            action()
        except UmldiskError as error:
            self.log.write(f"\n[umldisk: {error.line()}]\n".encode(errors="replace"))


if __name__ == "__main__":
    main()
