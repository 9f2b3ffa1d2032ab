"""The transcript of a guest's console, which the host writes and the guest cannot turn off.

    console.log  <- console.log.1  <- console.log.2  <- console.log.3      newest to oldest, each at most a size

What a guest writes costs the host that much and no more. A full file system loses some of the transcript and says so in
it later; it never stops whoever writes it, for then the guest's console would stand still.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.errors import StorageError, UmldiskError
from umldisk.guest.state import CONSOLE_LOG
from umldisk.system.files import DiskFile
from umldisk.system.swapping import explained, open_directory
from umldisk.system.transfer import write_all

LOG_BYTES = 1 << 20
FILES = 4
_MODE = 0o600
_NEW = f"{CONSOLE_LOG}.new"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""ECMA-48, select graphic rendition."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the transcript: the file's inode number, and how much of it was there; the default is its start."""

    inode: int | None = None
    offset: int = 0


_START = Place()


class ConsoleLog:
    """The transcript in a directory, as a sink for bytes; a run's transcript follows that of the run before.

    `began` is where this run's begins.
    """

    def __init__(self, directory: str, *, log_bytes: int = LOG_BYTES, files: int = FILES) -> None:
        self._directory = directory
        self._log_bytes = log_bytes
        self._files = files
        self._lost_bytes = 0
        self.began = transcript_end(directory)
        self._file = self._open()

    def write(self, data: bytes) -> None:
        """Add to the transcript; what cannot be written is counted and told later."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._write_some(view) :]
            except UmldiskError:
                self._lost_bytes += len(view)
                return

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_some(self, view: memoryview) -> int:
        with explained("look at", self._file.path):
            is_full = self._file.size_bytes >= self._log_bytes
        if is_full:
            self._rotate()
        if self._lost_bytes:
            self._append(f"\n[{self._lost_bytes} bytes of the console were lost]\n".encode())
            self._lost_bytes = 0
        length = min(len(view), self._log_bytes)
        self._append(view[:length])
        return length

    def _append(self, data: bytes | memoryview) -> None:
        with explained("write", self._file.path):
            write_all(self._file.fd, self._file.size_bytes, data)

    def _rotate(self) -> None:
        """Begin a new file; it is made first, so that nothing is moved when there is no room for it."""
        with contextlib.ExitStack() as unless_moved, open_directory(self._directory) as directory:
            new = unless_moved.enter_context(self._open(_NEW))
            present = set(directory.names())
            for number in range(self._files - 1, 0, -1):
                if log_name(number - 1) in present:
                    directory.move(log_name(number - 1), directory, log_name(number))
            directory.move(_NEW, directory, CONSOLE_LOG)
            self._file.close()
            self._file = new
            unless_moved.pop_all()

    def _open(self, name: str = CONSOLE_LOG) -> DiskFile:
        path = os.path.join(self._directory, name)
        with explained("open", path):
            return DiskFile(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE))


def log_name(number: int) -> str:
    """Return the name of the newest file of the transcript, which is number 0, or of an older one."""
    return f"{CONSOLE_LOG}.{number}" if number else CONSOLE_LOG


def transcript_end(directory: str) -> Place:
    """Return where the transcript ends now, so that somebody can look at it from here on."""
    try:
        status = os.stat(os.path.join(directory, CONSOLE_LOG))
    except OSError:
        return _START
    return Place(status.st_ino, status.st_size)


class MarkerWatch:
    """Looks for a marker in a stream that comes in pieces."""

    def __init__(self, marker: bytes) -> None:
        self._marker = marker
        self._tail = b""

    def saw(self, piece: bytes) -> bool:
        """Whether the marker ended in this piece."""
        text = self._tail + piece
        self._tail = text[-(len(self._marker) - 1) :] if len(self._marker) > 1 else b""
        return self._marker in text


def last_lines(directory: str, *, since: Place = _START, most: int = 8, since_bytes: int = 8192) -> list[str]:
    """Return the last lines of the transcript, without what only colours them; none when there is no transcript.

    Those before `since` are left out; when that is in an older file by now, all of the newest one counts. They may hold
    any other control character.
    """
    path = os.path.join(directory, CONSOLE_LOG)
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            is_there = status.st_ino == since.inode and since.offset <= status.st_size
            file.seek(max(since.offset if is_there else 0, status.st_size - since_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(f"cannot read: {error.strerror}", where=path) from error
    return list(_nonblank(text))[-most:]


def _nonblank(text: str) -> Iterator[str]:
    for line in _COLOURS.sub("", text).replace("\r", "").splitlines():
        if line.strip():
            yield line.rstrip()
