"""Signals that interrupt the tests' own process, as Ctrl-C does a command."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """What the signals raise; its argument is the signal's number."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Be a handler of signals."""
    raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGUSR1 and SIGALRM interrupt this process."""
    numbers = (signal.SIGUSR1, signal.SIGALRM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
