"""A terminal on a guest's console, beside the transcript that goes on whoever watches.

    keys ──▶ console.in ──▶ guest ──▶ console.out ──▶ supervisor ──▶ console.log ──▶ screen

The screen follows the transcript, so that any number may watch, and none can take a byte away from it.
"""

from __future__ import annotations

import contextlib
import os
import select
from types import TracebackType
from typing import Self

from umldisk.errors import NoInputError, from_os_error
from umldisk.guest.rundir import CONSOLE_IN
from umldisk.guest.state import CONSOLE_LOG, RunState

LEAVE = b"\x1d"
"""Ctrl-], the key that leaves the console, as in telnet."""

_LOOK_MILLISECONDS = 40
_PIECE_BYTES = 1 << 16


def transcript_end(run_directory: str) -> int:
    """Return how long the transcript is now, so that somebody can attach from here on."""
    try:
        return os.stat(os.path.join(run_directory, CONSOLE_LOG)).st_size
    except OSError:
        return 0


class Attachment:
    """A console that is watched and typed on; a context manager that owns its descriptors."""

    def __init__(self, run_directory: str, state: RunState, *, offset: int) -> None:
        self._path = os.path.join(run_directory, CONSOLE_LOG)
        self._state = state
        self._log = self._open(self._path, os.O_RDONLY)
        self._keys = self._open(os.path.join(run_directory, CONSOLE_IN), os.O_WRONLY | os.O_NONBLOCK)
        size_bytes = os.fstat(self._log).st_size
        os.lseek(self._log, offset if offset <= size_bytes else 0, os.SEEK_SET)  # a shorter one is a new one

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._log)
        os.close(self._keys)

    def relay(self, keyboard: int | None, screen: int) -> bool:
        """Move bytes between a terminal and the console; return whether the guest ended, False when the user left."""
        while True:
            is_alive = self._state.supervisor.is_alive()
            self._show(screen)
            if not is_alive:
                return True
            if keyboard is None:
                self._state.supervisor.wait(_LOOK_MILLISECONDS / 1000)
            elif select.select([keyboard], [], [], _LOOK_MILLISECONDS / 1000)[0]:
                typed = os.read(keyboard, _PIECE_BYTES)
                if LEAVE in typed:
                    return False
                if not typed:
                    keyboard = None
                self._type(typed)

    def _show(self, screen: int) -> None:
        while True:
            piece = os.read(self._log, _PIECE_BYTES)
            if piece:
                os.write(screen, piece)
            elif not self._follow_rotation():
                return

    def _follow_rotation(self) -> bool:
        """Go on with the new file when the transcript was rotated; False when it was not."""
        with contextlib.suppress(OSError):
            if os.stat(self._path).st_ino != os.fstat(self._log).st_ino:
                os.close(self._log)
                self._log = self._open(self._path, os.O_RDONLY)
                return True
        return False

    def _type(self, typed: bytes) -> None:
        with contextlib.suppress(BlockingIOError):  # a guest that reads nothing loses keys, as a full tty does
            os.write(self._keys, typed)

    def _open(self, path: str, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (2, 6):
                raise NoInputError("the guest has no console that umldisk holds", where=path) from error
            raise from_os_error(error, "open", path) from error
