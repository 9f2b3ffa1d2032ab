"""A terminal on a guest's console, beside the transcript that goes on whoever watches.

    keys ──▶ console.in ──▶ guest ──▶ console.out ──▶ supervisor ──▶ console.log ──▶ screen

The screen follows the transcript, so that any number may watch, and none can take a byte away from it. When the
transcript is rotated the screen reads the old file to its end and goes on with the next newer one. A screen that is so
slow that its file is gone meanwhile goes on with the newest, and says so.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from types import TracebackType
from typing import Self

from umldisk.errors import NoInputError, from_os_error
from umldisk.guest.console_log import FILES, Place, log_name
from umldisk.guest.rundir import CONSOLE_IN
from umldisk.guest.state import RunState

LEAVE = b"\x1d"
"""Ctrl-], the key that leaves the console, as in telnet."""

_LOOK_MILLISECONDS = 40
_PIECE_BYTES, _PIECES_AT_ONCE = 1 << 16, 16
_SKIPPED = b"\r\n[the transcript went on faster than it could be shown; some of it is left out]\r\n"
_NOT_THERE = (errno.ENOENT, errno.ENXIO)
_HUNG_UP = (errno.EIO, errno.EBADF)
"""What reading from a terminal is answered with that is gone, or not ours to read."""


class Attachment:
    """A console that is watched and typed on; a context manager that owns its descriptors."""

    def __init__(self, run_directory: str, state: RunState, *, since: Place) -> None:
        self._directory = run_directory
        self._state = state
        with contextlib.ExitStack() as unless_open:
            self._log = self._open_at(since)
            unless_open.callback(lambda: os.close(self._log))
            self._keys = self._open(CONSOLE_IN, os.O_WRONLY | os.O_NONBLOCK)
            unless_open.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._log)
        os.close(self._keys)

    def relay(self, keyboard: int | None, screen: int) -> bool:
        """Move bytes between a terminal and the console.

        Returns True when nobody records the console any more, as after the guest's end, False when the user left.
        Raises OSError when the screen cannot be written.
        """
        while True:
            is_recorded = self._state.supervisor.is_alive()
            is_shown = self._show(screen)
            if is_shown and not is_recorded:
                return True
            pause_seconds = _LOOK_MILLISECONDS / 1000 if is_shown else 0
            if keyboard is None:
                self._state.supervisor.wait(pause_seconds)
            elif select.select([keyboard], [], [], pause_seconds)[0]:
                typed, leave, _rest = _read_keys(keyboard).partition(LEAVE)
                self._type(typed)
                if leave:
                    return False
                if not typed:
                    keyboard = None

    def _show(self, screen: int) -> bool:
        """Write out what is new, and say whether that was all; a guest that floods its console leaves time for keys."""
        for _piece in range(_PIECES_AT_ONCE):
            piece = os.read(self._log, _PIECE_BYTES)
            if piece:
                _write_all(screen, piece)
            elif not self._follow_rotation(screen):
                return True
        return False

    def _follow_rotation(self, screen: int) -> bool:
        """Go on with the next newer file when the transcript was rotated; False when it was not, or is just being."""
        ours = os.fstat(self._log).st_ino
        number = self._number_of(ours)
        if number == 0:
            return False
        while piece := os.read(self._log, _PIECE_BYTES):  # written after we last looked, before it was full
            _write_all(screen, piece)
        try:
            newer = self._open(log_name(number - 1 if number else 0), os.O_RDONLY)
        except NoInputError:
            return False
        if number and self._number_of(ours) != number:  # rotated again just now
            os.close(newer)
            return True
        os.close(self._log)
        self._log = newer
        if number is None:
            _write_all(screen, _SKIPPED)
        return True

    def _open_at(self, since: Place) -> int:
        """Open the transcript where somebody left it; the newest file when that one is gone."""
        number = None if since.inode is None else self._number_of(since.inode)
        log = self._open(log_name(number or 0), os.O_RDONLY)
        status = os.fstat(log)
        if status.st_ino == since.inode and since.offset <= status.st_size:
            os.lseek(log, since.offset, os.SEEK_SET)
        return log

    def _number_of(self, inode: int) -> int | None:
        """Return which file of the transcript this is, None when it is none any more."""
        for number in range(FILES):
            with contextlib.suppress(OSError):
                if os.stat(os.path.join(self._directory, log_name(number))).st_ino == inode:
                    return number
        return None

    def _type(self, typed: bytes) -> None:
        # A guest that reads nothing loses keys, as a full tty does, and one that has ended reads nothing.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._keys, typed)

    def _open(self, name: str, flags: int) -> int:
        path = os.path.join(self._directory, name)
        try:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _NOT_THERE:
                raise NoInputError("the guest has no console that umldisk holds", where=path) from error
            raise from_os_error(error, "open", path) from error


def _read_keys(keyboard: int) -> bytes:
    """Return what was typed, b"" at the end, which a terminal that hung up has come to as well."""
    try:
        return os.read(keyboard, _PIECE_BYTES)
    except OSError as error:
        if error.errno in _HUNG_UP:
            return b""
        raise


def _write_all(screen: int, data: bytes) -> None:
    """Write all of it; a screen that does not wait for us, because somebody made it so, is waited for."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(screen, view) :]
        except BlockingIOError:
            select.select([], [screen], [])
