"""A thread beside ours, for work whose outcome is needed only later.

    aside.do(digest.update, piece)    returns at once; calls are made one by one, in this order
    ...                               another core hashes while we go on
    aside.wait()                      now all of it is done

That is a gain for calls that let go of Python's lock for long, as hashlib does, and for any call while we wait for a
program. It would be a loss for many short system calls: after each the thread that has the lock may keep it for 5 ms.

At most a few calls wait, so that what is handed over takes constant memory. The thread is started by the first call; an
Aside that nobody closes, because we were interrupted before its `with`, does not hold up the end of the process.

Both ends wait at queues that are not written in Python, which an interruption leaves in order; see
`umldisk.build.crew`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeVarTuple

from umldisk.system.deferring import interruptions_deferred

_MOST_WAITING = 4

_Arguments = TypeVarTuple("_Arguments")


class Aside:
    """Makes calls in a thread of its own; a context manager that ends with the last of them."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Exception | None] = SimpleQueue()
        self._waiting = 0
        self._thread: threading.Thread | None = None

    def do(self, call: Callable[[*_Arguments], object], *arguments: *_Arguments) -> None:
        """Make a call after all others; raises what an earlier one raised."""
        if self._thread is None:
            self._start()
        while self._waiting >= _MOST_WAITING:
            self._take_outcome()
        self._calls.put(partial(call, *arguments))
        self._waiting += 1

    def wait(self) -> None:
        """Return when all calls were made; raises what one raised."""
        while self._waiting:
            self._take_outcome()

    def close(self) -> None:
        """End the thread, after the calls that wait."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        with interruptions_deferred():
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._thread = thread

    def _work(self) -> None:
        while call := self._calls.get():
            try:
                call()
                self._outcomes.put(None)
            except Exception as error:  # noqa: BLE001  (whatever it is, it is raised where it is waited for)
                self._outcomes.put(error)

    def _take_outcome(self) -> None:
        error = self._outcomes.get()
        self._waiting -= 1
        if error is not None:
            raise error
