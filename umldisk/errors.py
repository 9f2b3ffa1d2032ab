"""Every failure umldisk can name, with its exit code.

    UmldiskError
    ├── UsageError          2   the command line asks for something that makes no sense
    ├── DataError          65   a file is not what it should be (cut, mixed up, mismatched)
    ├── NoInputError       66   an input is missing or is not a disk image at all
    ├── CannotCreateError  73   an output exists already or cannot be made
    ├── StorageError       74   reading or writing failed (EIO, ENOSPC, ...)
    ├── BusyError          75   somebody else uses the disk
    └── HistoryError       76   the chain of recorded checkpoints is broken

The codes 65 to 75 are those of BSD's sysexits.h. An error is one line, `WHAT (WHERE, expected, found)`, and may
carry a hint: what to do next. Library code raises these and never prints or exits; `umldisk.cli` presents them.
"""

from __future__ import annotations

import os
from typing import ClassVar

FINDINGS_EXIT_CODE = 1
"""Exit code of a command that did its work and found errors or differences."""


class UmldiskError(Exception):
    """A failure that umldisk explains in one line; `hint` says what to do next."""

    exit_code: ClassVar[int] = 74

    def __init__(
        self,
        what: str,
        *,
        where: str | os.PathLike[str] | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(self.line())

    def line(self) -> str:
        """The failure as one line of printable text, whatever bytes a path holds."""
        facts = [self.where] if self.where is not None else []
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if self.found is not None:
            facts.append(f"found {self.found}")
        text = f"{self.what} ({', '.join(facts)})" if facts else self.what
        return printable(text)


class UsageError(UmldiskError):
    """The arguments contradict each other or make no sense."""

    exit_code = 2


class DataError(UmldiskError):
    """A file's contents are damaged, of another format, or do not fit together."""

    exit_code = 65


class NoInputError(UmldiskError):
    """An input does not exist, may not be read, or is no regular file or block device."""

    exit_code = 66


class CannotCreateError(UmldiskError):
    """An output exists already, or its directory does not take it."""

    exit_code = 73


class StorageError(UmldiskError):
    """The operating system failed to read or write."""

    exit_code = 74


class BusyError(UmldiskError):
    """Another process holds a lock on the disk; `pid` and `umid` say which, when they can be found."""

    exit_code = 75

    def __init__(
        self,
        what: str,
        *,
        where: str | os.PathLike[str] | None = None,
        pid: int | None = None,
        umid: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.pid = pid
        self.umid = umid
        holder = "" if pid is None else f" by PID {pid}"
        guest = "" if umid is None else f", umid {umid}"
        super().__init__(f"{what}{holder}{guest}", where=where, hint=hint)


class HistoryError(UmldiskError):
    """The recorded history was altered or is incomplete."""

    exit_code = 76


def printable(text: str) -> str:
    """Escape what a terminal could act on or could not show: control characters and undecodable bytes."""
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable()
        else c.encode("unicode_escape").decode("ascii")
        if not 0xDC80 <= ord(c) <= 0xDCFF
        else f"\\x{ord(c) - 0xDC00:02x}"
        for c in text
    )


def from_os_error(error: OSError, doing: str, path: str | os.PathLike[str]) -> StorageError:
    """Say in one line what the operating system refused: `doing` is a verb phrase such as "write"."""
    reason = error.strerror or str(error)
    return StorageError(f"cannot {doing}: {reason}", where=path)
