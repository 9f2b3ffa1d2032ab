"""The agent line of a running guest: two FIFOs in its run directory, for one user at a time.

    run/agent.in     what the host writes, and /dev/ttyS0 in the guest reads
    run/agent.out    the other way round
    run/agent.lock   locked by whoever uses the line

The guest's kernel holds both FIFOs open; here they are opened anew, so that waiting never touches its descriptors. What
comes out is an attacker's: a line is dropped when it is too long, and neither the time nor the number of bytes that are
read for one request depends on the guest.

Old bytes are thrown away before each request, in both directions: answers that nobody waited for, and requests that the
guest has not read. Not more than a few short requests may lie in the guest's tty: a UML serial line that once had to
stop its sender (4,096 bytes, the buffer of the kernel's drivers/tty/n_tty.c) does not go on until it is opened again.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import stat
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from umldisk.errors import BusyError, NoInputError, StorageError, from_os_error
from umldisk.system.locks import holder, try_lock

INPUT, OUTPUT, LOCK = "agent.in", "agent.out", "agent.lock"
MOST_REQUEST_BYTES = 3000
_LONGEST_LINE_BYTES = 4096
_MOST_ANSWER_BYTES = 4 << 20
_CHUNK_BYTES = 64 << 10
_MOST_STALE_BYTES = 2 << 20
"""More than a FIFO holds (fs.pipe-max-size) and the guest can send while it is emptied."""


class AgentError(StorageError):
    """The agent in the guest cannot be used."""


class NoAnswerError(AgentError):
    """The agent did not answer in time, or there is none."""


class AgentLine:
    """The line of the guest whose run directory is `run_directory`, as a context manager.

    Entering raises BusyError while somebody else uses the line, and NoInputError when there is none. All deadlines are
    of time.monotonic.
    """

    def __init__(self, run_directory: str) -> None:
        self._directory = run_directory
        self._open = contextlib.ExitStack()
        self._input = self._output = -1

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            self._lock(opened)
            # Open for reading too: it must not fail for a guest that has ended, and old requests are taken out.
            self._input = self._fifo(opened, INPUT, os.O_RDWR)
            self._output = self._fifo(opened, OUTPUT, os.O_RDONLY)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _lock(self, opened: contextlib.ExitStack) -> None:
        path = os.path.join(self._directory, LOCK)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            opened.callback(os.close, fd)
            if try_lock(fd, exclusive=True):
                return
            other = holder(fd)
        except FileNotFoundError as error:
            raise _no_line(path) from error
        except OSError as error:
            raise from_os_error(error, "lock", path) from error
        raise BusyError("the guest's agent is in use", where=path, pid=other.pid if other else None)

    def _fifo(self, opened: contextlib.ExitStack, name: str, flags: int) -> int:
        path = os.path.join(self._directory, name)
        try:
            fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
            opened.callback(os.close, fd)
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return fd
        except FileNotFoundError as error:
            raise _no_line(path) from error
        except OSError as error:
            raise from_os_error(error, "open", path) from error
        raise _no_line(path)

    def drain(self) -> None:
        """Throw away what lies in the line; raises NoAnswerError when no guest holds it."""
        for fd in (self._input, self._output):
            left = _MOST_STALE_BYTES
            while left > 0 and (chunk := self._read(fd)) is not None:
                left -= len(chunk)

    def send(self, request: bytes, deadline: float) -> None:
        """Write a request; raises NoAnswerError when the guest does not take it in time."""
        left = memoryview(request)
        while left:
            if not self._wait(self._input, select.POLLOUT, deadline):
                raise NoAnswerError("the guest does not read its agent line", where=self._directory)
            with contextlib.suppress(BlockingIOError):
                left = left[os.write(self._input, left) :]

    def lines(self, deadline: float) -> Iterator[bytes]:
        """Yield what comes, line by line, without line ends and empty lines, until the deadline.

        Raises NoAnswerError when the guest ends, and AgentError when it sends without end.
        """
        begun, left = b"", _MOST_ANSWER_BYTES
        while self._wait(self._output, select.POLLIN, deadline):
            chunk = self._read(self._output) or b""
            left -= len(chunk)
            if left < 0:
                raise AgentError("the guest's agent sends without end", where=self._directory)
            *whole, begun = (begun + chunk).split(b"\n")
            yield from (line.rstrip(b"\r") for line in filter(None, whole) if len(line) <= _LONGEST_LINE_BYTES)
            begun = begun[: _LONGEST_LINE_BYTES + 1]

    def _wait(self, fd: int, event: int, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poll = select.poll()
        poll.register(fd, event)
        return bool(poll.poll(math.ceil(left * 1000)))

    def _read(self, fd: int) -> bytes | None:
        """Return what is there, None when nothing is."""
        try:
            chunk = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise from_os_error(error, "read", self._directory) from error
        if not chunk:
            raise NoAnswerError("no guest holds the agent line", where=self._directory, hint="the guest has ended")
        return chunk


def _no_line(path: str) -> NoInputError:
    return NoInputError(
        "the guest has no agent line",
        where=path,
        hint="a guest has one while it runs, unless umldisk.toml says agent = false",
    )
