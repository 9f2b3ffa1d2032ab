"""The console of a guest whose supervisor was killed, read by whoever stops the guest.

    guest ──▶ console.out ──▶ (supervisor, gone)
                    └───────▶ a thread of ours ──▶ transcript, or nowhere when that cannot be written

A FIFO holds 64 KiB (pipe(7)). With more than that in it and no reader, whatever writes to the console stands still in
the guest, its init included, and a shutdown never ends. So somebody has to read while the guest is told to end.

Two who stop a guest at once share what it writes, and the transcript of that time may lack some of it. The ready marker
is not looked for: the guest is to end.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator

from umldisk.errors import UmldiskError
from umldisk.guest.console_log import ConsoleLog
from umldisk.guest.rundir import CONSOLE_OUT

_PIECE_BYTES = 1 << 16
_MOST_LEFT_BYTES = 1 << 20
_GLANCE_SECONDS = 0.1


@contextlib.contextmanager
def console_drained(run_directory: str) -> Iterator[None]:
    """Move what a guest writes on its console into the transcript, as long as the block lasts.

    What cannot be recorded is thrown away; a console that cannot be opened is let alone.
    """
    try:
        fd = os.open(os.path.join(run_directory, CONSOLE_OUT), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_record, args=(fd, run_directory, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _record(fd: int, run_directory: str, over: threading.Event) -> None:
    """Read all that comes until it is `over`, and what is left then."""
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        sink: Callable[[bytes], object] = len
        with contextlib.suppress(UmldiskError):
            sink = stack.enter_context(contextlib.closing(ConsoleLog(run_directory))).write
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        left_bytes = _MOST_LEFT_BYTES  # a guest that did not end could write for ever
        while left_bytes > 0:
            is_over = over.is_set()
            if poll.poll(0 if is_over else _GLANCE_SECONDS * 1000):
                piece = _piece(fd)
                if piece == b"":
                    return  # all who could write are gone
                sink(piece or b"")
                left_bytes -= len(piece or b"") if is_over else 0
            elif is_over:
                return


def _piece(fd: int) -> bytes | None:
    """Return what can be read, None when another reader was faster, nothing when nobody can write any more."""
    try:
        return os.read(fd, _PIECE_BYTES)
    except BlockingIOError:
        return None
