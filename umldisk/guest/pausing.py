"""A running guest, held still for a moment, and let go whatever happens.

    arm       a watchdog (its own module) that undoes all of the following when we cannot
    freeze    perhaps: the guest's agent freezes file systems, which writes out everything first
    stop      the guest's kernel runs nothing but its mconsole
    drain     what it had handed to its I/O thread before is still written, for a millisecond or two, once for 50
    ...       its disks stand still
    go
    thaw      by the agent, which also tells that they were frozen all the time, and by the host's `sysrq j` in any case
    dismiss   the watchdog

What is to be undone is owed from before it is done until its undoing was answered. Whoever leaves while something is
owed leaves it to the watchdog; the guest is let go by one of two processes, of which either may be killed.

That the disks stood still all the time is known by the answer to `go`: UML refuses it when the guest is not stopped. So
nobody, not the watchdog, a second umldisk, nor a human, can have let the guest go on unnoticed meanwhile.

The I/O thread is drained when none of the guest's processes works: all sleep, or are held by their tracer. One that
waits for a slow disk is told from one that has nothing to do by its state in /proc/PID/stat, D and S. Where processes
cannot be seen, the disks' files must look the same for a while instead.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from umldisk.errors import BusyError, StorageError, UmldiskError
from umldisk.guest.mconsole.address import Address, mconsole_of
from umldisk.guest.mconsole.client import Refused
from umldisk.guest.state import RunState
from umldisk.guest.watchdog import ARMED, DONE, GO, STOOD_BY, THAW, Orders
from umldisk.system.process import PIPE, Child, launch
from umldisk.system.process_status import status_of

_MODULE = "umldisk.guest.watchdog"
_ARMING_SECONDS = 30.0
_GRACE_SECONDS = 1.0
"""How much later than we ourselves the watchdog finds that it takes too long."""
_GUARD_SPARE_SECONDS = 15
"""How much longer than all else may take the guest itself keeps its file systems frozen."""
_ENDING_SECONDS = 10.0
_MOST_ANSWER_BYTES = 256

_LOOK_SECONDS = 0.001
_LOOKS, _LOOKS_UNSEEN = 2, 50
"""How often in a row the disks must look the same with no process at work, and how often when none can be seen."""


class Asking(Protocol):
    """An mconsole, as far as it is needed here."""

    def send(self, command: str) -> str:
        """Send a command and return its answer; raises Refused, or another UmldiskError when there is none."""


class Freezer(Protocol):
    """The guest's agent, as far as it is needed here."""

    def freeze(self, mount_points: Sequence[str], *, guard_seconds: int) -> None:
        """Freeze these file systems, at most for so long; raises UmldiskError when one of them cannot be."""

    def thaw(self) -> None:
        """Thaw what was frozen; raises UmldiskError when it was not any more, or nobody answers."""


def orders_for(run: RunState, *, limit_seconds: float, freezes: bool) -> Orders:
    """Return the orders for a watchdog over a guest."""
    commands = (GO, THAW) if freezes else (GO,)
    return Orders(Address.of(run), limit_seconds, commands)


class Watchdog:
    """A process that lets the guest go on when we are gone, or have taken too long. Made by `arm`."""

    def __init__(self, child: Child, where: str) -> None:
        self._child = child
        self._where = where

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @classmethod
    def arm(cls, orders: Orders) -> Watchdog:
        """Start one; returns when it stands by. Raises StorageError when it does not."""
        where = orders.address.socket_path
        child = launch([sys.executable, "-P", "-m", _MODULE], stdin=PIPE, stdout=PIPE)
        try:
            child.write(orders.build())
            said = child.read(_MOST_ANSWER_BYTES, timeout_seconds=_ARMING_SECONDS)
        except OSError:  # a TimeoutError, too
            said = b""
        except BaseException:
            child.kill()
            child.let_go()
            raise
        if said != ARMED:
            child.kill()
            child.let_go()
            raise StorageError("the watchdog did not start: the guest is not paused", where=where)
        return cls(child, where)

    def require_standing(self) -> None:
        """Raise StorageError when it is gone."""
        if self._child.status() is not None:
            raise StorageError("the watchdog ended: the guest is not paused", where=self._where)

    def dismiss(self) -> bool:
        """Tell it that all is well; return whether it acted before, which means that it took too long."""
        said = b""
        with contextlib.suppress(OSError):  # gone, or silent: then it has not acted either, or `go` was refused
            self._child.write(DONE)
            said = self._child.read(_MOST_ANSWER_BYTES, timeout_seconds=_ENDING_SECONDS)
        self._child.status(_ENDING_SECONDS)
        self._child.let_go()
        return said not in (b"", STOOD_BY)

    def leave(self) -> None:
        """Let it act, now, and wait a while for that; it goes on without us."""
        with contextlib.suppress(OSError):
            self._child.close_stdin()
        self._child.status(_ENDING_SECONDS)
        self._child.let_go()


class Hold:
    """What is done to a running guest and owed to it; a context manager that undoes it. Made by `held`.

    `pause_seconds` is how long it stood still, once it goes on.
    """

    def __init__(self, console: Asking, watchdog: Watchdog, *, where: str, limit_seconds: float) -> None:
        self.pause_seconds: float | None = None
        self._console = console
        self._watchdog = watchdog
        self._where = where
        self._limit_seconds = limit_seconds
        self._deadline = time.monotonic() + limit_seconds
        self._owed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Undo what is owed, or leave that to the watchdog; when all went well, see that it had nothing to do."""
        try:
            for command in tuple(self._owed):
                with contextlib.suppress(UmldiskError):
                    self._undo(command)
        except BaseException:
            self._watchdog.leave()
            raise
        if self._owed:
            self._watchdog.leave()
            if error is None:
                raise StorageError("the guest did not answer when it was let go on", where=self._where)
        elif self._watchdog.dismiss() and error is None:
            raise self._too_long()

    def check(self) -> None:
        """Raise BusyError when it has taken too long."""
        if time.monotonic() > self._deadline:
            raise self._too_long()

    def _too_long(self) -> BusyError:
        return BusyError(
            f"the guest would have stood still for longer than {self._limit_seconds:g} s",
            where=self._where,
            hint="allow more with --longest-pause, or stop the guest first",
        )

    @contextlib.contextmanager
    def frozen(self, freezer: Freezer, mount_points: Sequence[str]) -> Iterator[None]:
        """Have file systems frozen for a block.

        Raises what the freezer raises, also when the file systems turn out not to have been frozen to the end.
        """
        self._watchdog.require_standing()
        self._owed.append(THAW)
        try:
            freezer.freeze(mount_points, guard_seconds=math.ceil(self._limit_seconds) + _GUARD_SPARE_SECONDS)
            yield
            freezer.thaw()
        finally:
            with contextlib.suppress(UmldiskError):  # it stays owed
                self._undo(THAW)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the guest for a block.

        Raises BusyError when it is stopped already or was not stopped all the time, StorageError when it does not
        answer.
        """
        self._watchdog.require_standing()
        self.check()
        started = time.monotonic()
        self._owed.append(GO)
        try:
            self._stop()
            yield
        except BaseException:
            if GO in self._owed:
                with contextlib.suppress(UmldiskError):
                    self._undo(GO)
            raise
        if not self._undo(GO):
            self.check()
            raise BusyError(
                "somebody let the guest go on before its disks were copied",
                where=self._where,
                hint="nothing was recorded; run the command again",
            )
        self.pause_seconds = time.monotonic() - started

    def _stop(self) -> None:
        try:
            self._console.send("stop")
        except Refused as error:
            self._owed.remove(GO)  # it is another's to let it go on
            raise BusyError(
                "the guest is stopped already",
                where=self._where,
                hint="if nobody else takes a checkpoint of it, let it go on: umldisk console GUEST -- go",
            ) from error

    def _undo(self, command: str) -> bool:
        """Send what undoes something, which is then no longer owed; return whether it was needed."""
        try:
            self._console.send(command)
        except Refused:
            self._owed.remove(command)
            return False
        self._owed.remove(command)
        return True


def held(run: RunState, *, limit_seconds: float, freezes: bool = False) -> Hold:
    """Arm a watchdog and return what holds the guest, to be used with `with`.

    Raises StorageError when the watchdog does not stand by.
    """
    orders = orders_for(run, limit_seconds=limit_seconds + _GRACE_SECONDS, freezes=freezes)
    return Hold(
        mconsole_of(run),
        Watchdog.arm(orders),
        where=run.guest,
        limit_seconds=limit_seconds,
    )


# -- the I/O thread ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    """How a disk's file looks: whoever writes to it changes that, at the next tick of the clock at the latest."""

    mtime_ns: int
    blocks: int
    size_bytes: int

    @classmethod
    def at(cls, fd: int) -> _Look:
        status = os.fstat(fd)
        return cls(status.st_mtime_ns, status.st_blocks, status.st_size)


def wait_until_drained(pids: Sequence[int], fds: Sequence[int], check: Callable[[], None]) -> None:
    """Wait until the stopped guest of these processes has written to its disks what it had begun to.

    `check` is called between looks, and raises when that takes too long.
    """
    before: list[_Look] = []
    quiet = 0
    while True:
        states = _states(pids)
        now = [_Look.at(fd) for fd in fds]
        is_quiet = now == before and not {"R", "D"} & states
        quiet = quiet + 1 if is_quiet else 0
        if quiet >= (_LOOKS if states else _LOOKS_UNSEEN):
            return
        check()
        before = now
        time.sleep(_LOOK_SECONDS)


def _states(pids: Sequence[int]) -> set[str]:
    """Return the letters for what processes do, without those that are gone or cannot be seen."""
    states = set()
    for pid in pids:
        with contextlib.suppress(StorageError):
            if (status := status_of(pid)) is not None:
                states.add(status.state)
    return states
