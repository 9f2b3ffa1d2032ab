"""Keeping what interrupts us waiting for a moment.

Python runs a signal's handler in the main thread, between any two of its instructions, and a handler that raises
(Ctrl-C's does) breaks off whatever stands there. Mostly that is welcome: `try` and `with` tidy up. It is not where
something comes into being that nobody knows of yet: a process between fork and the assignment of its object, a thread
between its start and the entry in its executor's list.

    install    every handler is replaced by one that passes its signal on ...
    defer      ... or keeps it, from here
    body
    release    to here,
    restore    and then what was kept is handled.

A handler may raise in the middle of `install` and of `restore`. That does no harm: nothing has begun or all of it is
known, and a replacement that is left behind passes its signals on.

Nothing here blocks signals for the process (pthread_sigmask): programs would inherit that, and the kernel would give
them to another thread, upon which Python runs the handler in the main thread all the same.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]


class _Deferral:
    """Whether signals are kept, and those that were; only the main thread comes here."""

    def __init__(self) -> None:
        self.active = False
        self._kept: list[tuple[_Handler, int, FrameType | None]] = []

    def in_place_of(self, handler: _Handler) -> _Handler:
        """Return what keeps signals for `handler`, or passes them on."""

        def keep_or_pass(number: int, frame: FrameType | None) -> None:
            if self.active:
                self._kept.append((handler, number, frame))
            else:
                handler(number, frame)

        return keep_or_pass

    def handle_kept(self) -> None:
        """Let the handlers have their signals; one that raises outdoes those after it."""
        kept, self._kept = self._kept, []
        for handler, number, frame in kept:
            handler(number, frame)


_deferral = _Deferral()


@contextlib.contextmanager
def interruptions_deferred() -> Iterator[None]:
    """Run the block to its end before any signal is handled; what a handler raises is raised by the `with` statement.

    For short blocks: meanwhile Ctrl-C does nothing. Blocks may be nested. In threads other than the main one, which
    nothing interrupts anyway, this does nothing.
    """
    if _deferral.active or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: handler for number in range(1, signal.NSIG) if callable(handler := signal.getsignal(number))}
    for number, handler in handlers.items():
        signal.signal(number, _deferral.in_place_of(handler))
    _deferral.active = True
    try:
        yield
    finally:
        _deferral.active = False
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _deferral.handle_kept()
