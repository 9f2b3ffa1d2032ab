"""The terminal of whoever typed the command, as a guest's console."""

from __future__ import annotations

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING

from umldisk.cli.output import note

if TYPE_CHECKING:
    from umldisk.config.site import Site
    from umldisk.guest.console_log import Place


def attached(site: Site, name: str, *, since: Place) -> int:
    """Let the terminal be the guest's console until the guest ends or the user leaves; return an exit code.

    It is 0 when the guest shut down by itself or the user left it, else 1. The transcript is shown from `since` on.
    Ctrl-C is no interruption where it is a key for the guest. A screen that cannot be written any more raises OSError,
    and the guest goes on.
    """
    from umldisk.guest.attaching import Attachment
    from umldisk.guest.state import read_end, read_state

    directory = site.run_directory(name)
    state = read_state(directory)
    assert state is not None
    with Attachment(directory, state, since=since) as attachment, _raw_keyboard() as keyboard:
        try:
            unrecorded = attachment.relay(keyboard, _screen())
        except OSError:
            say_that_it_goes_on(name)
            raise
    if not unrecorded:
        say_that_it_goes_on(name)
        return 0
    if state.is_alive():
        note(f"nobody records the console of {name} any more; {_goes_on(name)}")
        return 1
    end = read_end(directory)
    status = end.status if end is not None else None
    if status != 0:
        note(f"{name} ended with status {'unknown' if status is None else status}")
        return 1
    return 0


def say_that_it_goes_on(name: str) -> None:
    """Tell whoever ends a command, and not the guest, that it runs; a terminal that is gone is not told."""
    with contextlib.suppress(OSError):
        note(_goes_on(name))


def _goes_on(name: str) -> str:
    return f"{name} goes on; umldisk stop {name} ends it"


def _screen() -> int:
    """Return where the console goes: behind what was said before, or nowhere when stdout is closed."""
    if sys.stdout is None:
        return 1  # which is /dev/null then
    sys.stdout.flush()
    return sys.stdout.fileno()


@contextlib.contextmanager
def _raw_keyboard() -> Iterator[int | None]:
    """Give stdin, if there is one, with every key as it is typed when it is a terminal."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd) if os.isatty(fd) else None
    except (AttributeError, OSError, ValueError):
        yield None
        return
    if before is None:
        yield fd
        return
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        note("the console of the guest; ^] leaves it\r")
        yield fd
    finally:
        with contextlib.suppress(termios.error):  # a terminal that hung up
            termios.tcsetattr(fd, termios.TCSANOW, before)  # not after a screen that may stand still
