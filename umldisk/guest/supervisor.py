"""The process that stays with a running guest: `python -m umldisk.guest.supervisor`, with a plan on stdin.

    plan ──▶ start the kernel ──▶ state.json ──▶ "started" on stdout
             console.out ──▶ transcript, and the ready marker
             the kernel's end ──▶ what is left of it killed, disks synced, throw-away files removed ──▶ exit.json

Invariants. The kernel never waits for us: it holds its FIFOs open itself. exit.json is written last, so that whoever
sees it may use the disks. Signals that end a session do not end us; the end of the kernel does.

UML's flush does nothing (arch/um/drivers/ubd_kern.c of 6.1): what a guest has synced is in the host's page cache. So
the disks are synced here when their guest has ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

from umldisk.errors import StorageError, UmldiskError
from umldisk.guest import rundir
from umldisk.guest.commandline import AGENT_IN_FD, AGENT_OUT_FD, INFO_FD, LOCK_FD
from umldisk.guest.console_log import ConsoleLog, MarkerWatch, last_lines
from umldisk.guest.launching import STARTED, RunPlan, parse_plan
from umldisk.guest.state import EXIT, RunEnd, RunState, write_ready, write_state
from umldisk.guest.stopping import put_away, sweep
from umldisk.system.pids import ProcessId, end_all, session_members
from umldisk.system.process import Child, launch
from umldisk.system.staging import write_file
from umldisk.system.swapping import explained

_PIECE_BYTES = 1 << 16
_KILL_SECONDS = 10.0
_SIGNALLED = 128
"""What bubblewrap, like a shell, adds to the number of the signal that ended its program."""


def main() -> None:
    """Carry out the plan on stdin."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # a handler, since the kernel would inherit that they are ignored
    plan, lock_fd = parse_plan(sys.stdin.buffer.readline())
    try:
        running = _start(plan, lock_fd)
        state = running.introduce()
    except UmldiskError as error:
        os.write(1, error.line().encode(errors="replace"))
        return
    os.write(1, STARTED)
    with open(os.devnull, "r+b") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    running.record(state)
    running.settle(state)


def _start(plan: RunPlan, lock_fd: int) -> _Running:
    """Start the kernel; raises StorageError when its program cannot be run."""
    reader = _open_fifo(plan, rundir.CONSOLE_OUT, os.O_RDONLY | os.O_NONBLOCK)
    log = ConsoleLog(plan.run_directory)
    info_reader, info_writer = os.pipe()
    _place(lock_fd, LOCK_FD)
    _place(info_writer, INFO_FD)
    _place(_open_fifo(plan, rundir.AGENT_IN, os.O_RDWR), AGENT_IN_FD)
    _place(_open_fifo(plan, rundir.AGENT_OUT, os.O_RDWR), AGENT_OUT_FD)
    console_in = _open_fifo(plan, rundir.CONSOLE_IN, os.O_RDWR)
    console_out = _open_fifo(plan, rundir.CONSOLE_OUT, os.O_RDWR)
    child = launch(
        plan.argv,
        stdin=console_in,
        stdout=console_out,
        stderr=console_out,
        pass_fds=(LOCK_FD, INFO_FD, AGENT_IN_FD, AGENT_OUT_FD),
        environment=plan.environment,
        user=(plan.uid, plan.gid, plan.groups) if os.geteuid() == 0 else None,
        cwd="/",
    )
    leader = ProcessId.of(child.pid)  # now, for a session's number is only known as long as its leader is
    for fd in (console_in, console_out, INFO_FD, AGENT_IN_FD, AGENT_OUT_FD):
        os.close(fd)
    watch = MarkerWatch(plan.marker.encode()) if plan.marker else None
    return _Running(plan, child, leader, info_reader, reader, log, watch)


def _open_fifo(plan: RunPlan, name: str, flags: int) -> int:
    path = os.path.join(plan.run_directory, name)
    with explained("open", path):
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _place(fd: int, number: int) -> None:
    """Put an open file under the number that the kernel's arguments name."""
    os.dup2(fd, number, inheritable=True)
    os.close(fd)


@dataclass(frozen=True, slots=True)
class _Running:
    """A kernel that runs, and where its console goes."""

    plan: RunPlan
    child: Child
    leader: ProcessId | None
    info_reader: int
    reader: int
    log: ConsoleLog
    watch: MarkerWatch | None

    def introduce(self) -> RunState:
        """Write state.json; raises StorageError with the kernel's last words when it ended before it was known."""
        with os.fdopen(self.info_reader, "rb") as info:
            said = info.read() if self.plan.jailed else b""
        leader, kernel, supervisor = self.leader, self._kernel(said), ProcessId.of(os.getpid())
        if leader is None or kernel is None or supervisor is None:
            self._give_up()
        state = RunState(
            guest=self.plan.guest,
            umid=self.plan.guest,
            socket_directory=self.plan.socket_directory,
            leader=leader,
            kernel=kernel,
            supervisor=supervisor,
            started_at=self.plan.started_at,
            uid=self.plan.uid,
            jailed=self.plan.jailed,
            memory_bytes=self.plan.memory_bytes,
            has_agent=self.plan.has_agent,
            waits_for="marker" if self.plan.marker else "mconsole",
            argv=self.plan.argv,
            disks=self.plan.disks,
        )
        try:
            write_state(self.plan.run_directory, state)
        except UmldiskError:
            self._end_all()
            raise
        return state

    def _kernel(self, info: bytes) -> ProcessId | None:
        """Return the process whose end is the end of the guest: in a jail, the init that bubblewrap told of."""
        if not self.plan.jailed:
            return self.leader
        try:
            return ProcessId.of(int(json.loads(info)["child-pid"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _give_up(self) -> NoReturn:
        self._end_all()
        self._drain()
        words = last_lines(self.plan.run_directory, most=1)
        raise StorageError(words[0] if words else "the kernel ended at once and said nothing")

    def _end_all(self) -> None:
        left = session_members(self.leader) if self.leader else []
        end_all(left, signal.SIGKILL, timeout_seconds=_KILL_SECONDS)

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
            self._drain()
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
        self._drain()

    def _take(self) -> bool:
        """Move a piece of the console to the transcript; False when there is none."""
        try:
            piece = os.read(self.reader, _PIECE_BYTES)
        except BlockingIOError:
            return True
        self.log.write(piece)
        if self.watch is not None and self.watch.saw(piece):
            now = datetime.now(UTC)
            self._attempt(lambda: write_ready(self.plan.run_directory, started_at=self.plan.started_at, ready_at=now))
        return bool(piece)

    def _drain(self) -> None:
        while True:
            try:
                piece = os.read(self.reader, _PIECE_BYTES)
            except BlockingIOError:
                return
            if not piece:
                return
            self.log.write(piece)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def settle(self, state: RunState) -> None:
        """Put everything in order after the kernel's end, exit.json last."""
        directory = self.plan.run_directory
        self._attempt(partial(sweep, directory, state))  # before the leader's number may be another's
        status = self.child.status(_KILL_SECONDS)
        self._drain()
        self._attempt(partial(put_away, state))
        self._attempt(partial(rundir.clear_sockets, self.plan.socket_directory))
        end = RunEnd(self._status(status), datetime.now(UTC), self.plan.started_at)
        self._attempt(partial(write_file, os.path.join(directory, EXIT), end.build(), mode=0o600))
        self.log.close()

    def _status(self, status: int | None) -> int:
        if status is None:
            return -signal.SIGKILL
        return _SIGNALLED - status if self.plan.jailed and status > _SIGNALLED else status

    def _attempt(self, action: Callable[[], object]) -> None:
        """Do what should be done; if it fails, the transcript says so and the rest goes on."""
        try:
            action()
        except UmldiskError as error:
            self.log.write(f"\n[umldisk: {error.line()}]\n".encode(errors="replace"))


if __name__ == "__main__":
    main()
