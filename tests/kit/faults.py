"""Faults made to order, inside this process and in real ones.

Inside the process `failing` stands in for the calls that change a file (or those that read one): it lets
the first ones through and then fails the next in one of several ways. Its calls are the names that the
program uses, so that `os.pwrite` and `fcntl.ioctl` are the seam, and what fails is numbered in one
sequence over all of them.

    RAISE       the call fails and does nothing
    SHORT       a write, read or copy does half of what it was asked and says so, which is no error
    TORN        a write does half and the next call fails: what a disk that fills up does
    FULL        this call and all later ones fail, as long as the fault lasts
    DEAD        as if killed: half of this write happens, and nothing that comes after it

A real process gets its faults from strace: `syscalls_of` lists the calls by which a command changes files,
and `injection` makes the n-th of them fail or kill. The start of the interpreter makes some of the same calls, as many
every time if nothing else writes into its cache of compiled modules: see `own_cache`.
"""

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest

WRITING_CALLS = (
    *("copy_file_range", "fchmod", "fchown", "fsync", "ftruncate", "ioctl", "link"),
    *("posix_fallocate", "pwrite", "rename", "unlink", "utime"),
)
READING_CALLS = ("lseek", "pread", "preadv")
_BY_HALVES = {"copy_file_range", "pread", "preadv", "pwrite"}
_ASKING_IOCTLS = {0x40049409, 0x5401}
"""FICLONE, which may always fail with EOPNOTSUPP and is then not used, and TCGETS, which asks for a terminal."""


Call = Callable[..., Any]
Arguments = tuple[Any, ...]


class Way(Enum):
    """How the chosen call fails."""

    RAISE = "raise"
    SHORT = "short"
    TORN = "torn"
    FULL = "full"
    DEAD = "dead"


class Died(BaseException):
    """Stands for the end of the process: not an Exception, so that nobody handles it."""


@dataclass
class Tally:
    """What happened while a fault was armed: how many calls there were, and whether one failed."""

    calls: list[str] = field(default_factory=list)
    struck: str | None = None


class _Fault:
    """Counts the calls and lets the chosen one fail."""

    def __init__(self, after: int | None, way: Way, error: int) -> None:
        self.tally = Tally()
        self._after = after
        self._way = way
        self._error = error
        self._lasts = way in (Way.FULL, Way.DEAD)

    def around(self, name: str, real: Call) -> Call:
        """Return the stand-in for a call."""

        def stand_in(*arguments: Any, **options: Any) -> Any:
            if name == "ioctl" and arguments[1] in _ASKING_IOCTLS:
                return real(*arguments, **options)
            return self._call(name, real, arguments, options)

        return stand_in

    def _call(self, name: str, real: Call, arguments: Arguments, options: dict[str, Any]) -> Any:
        number = len(self.tally.calls)
        self.tally.calls.append(name)
        if number == self._after:
            self.tally.struck = name
            return self._strike(name, real, arguments, options)
        if self.tally.struck and self._lasts:
            self._lasts = self._way is not Way.TORN
            raise self._failure()
        return real(*arguments, **options)

    def _strike(self, name: str, real: Call, arguments: Arguments, options: dict[str, Any]) -> Any:
        half_done = None
        if name in _BY_HALVES and self._way in (Way.SHORT, Way.TORN, Way.DEAD):
            half_done = real(*_halved(name, arguments), **options)
        if self._way is Way.SHORT:
            return real(*arguments, **options) if half_done is None else half_done
        if self._way is Way.TORN and half_done is not None:
            self._lasts = True
            return half_done
        raise self._failure()

    def _failure(self) -> BaseException:
        return Died() if self._way is Way.DEAD else OSError(self._error, os.strerror(self._error))


def _halved(name: str, arguments: Arguments) -> Arguments:
    """Return the arguments for half of a read, write or copy, but never for none of it."""
    if name == "pwrite":
        data = memoryview(arguments[1])
        return arguments[0], data[: max(1, len(data) // 2)], *arguments[2:]
    if name == "preadv":
        buffer = memoryview(arguments[1][0])
        return arguments[0], [buffer[: max(1, len(buffer) // 2)]], *arguments[2:]
    place = 1 if name == "pread" else 2
    return *arguments[:place], max(1, arguments[place] // 2), *arguments[place + 1 :]


@contextlib.contextmanager
def failing(
    after: int | None,
    way: Way = Way.RAISE,
    *,
    error: int = errno.EIO,
    calls: Sequence[str] = WRITING_CALLS,
) -> Iterator[Tally]:
    """Let the first `after` of these calls through and the next one fail (None: only count them)."""
    fault = _Fault(after, way, error)
    with pytest.MonkeyPatch.context() as patch:
        for name in calls:
            home = fcntl if name == "ioctl" else os
            patch.setattr(home, name, fault.around(name, getattr(home, name)))
        yield fault.tally


NOBODY = 65534


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Let this process, which is root's, be an ordinary user's for a while.

    Modules must be imported before, because their files may be root's alone.
    """
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


# -- real processes -------------------------------------------------------------------------------

TRACED_CALLS = (
    *("copy_file_range", "fallocate", "fchmod", "fchown", "fsync", "ftruncate", "ioctl", "link", "linkat"),
    *("pwrite64", "pwritev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "utimensat", "write"),
)
_TRACE_LINE = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)$")
_UMLDISK = (sys.executable, "-m", "umldisk")
_ROOT = Path(__file__).parents[2]


class Syscall(NamedTuple):
    """The `number`-th call (from 1) of this name in a process."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}-{self.number}"


def umldisk(
    *arguments: str | Path, environment: dict[str, str], prefix: Sequence[str] = (), timeout_seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run umldisk as a process of its own, from a directory where nothing is."""
    return subprocess.run(
        [*prefix, *_UMLDISK, *map(str, arguments)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout_seconds,
        env={**environment, "PYTHONPATH": str(_ROOT)},
        cwd="/",
    )


def own_cache(environment: dict[str, str], directory: Path) -> dict[str, str]:
    """Return the environment with a cache of compiled modules that no other process uses."""
    return environment | {"PYTHONPYCACHEPREFIX": str(directory)}


def syscalls_of(arguments: Sequence[str | Path], *, below: Path, environment: dict[str, str]) -> list[Syscall]:
    """Run a command to its end and list the calls with which it changed something below a directory.

    The command must have run once before, so that all its modules are compiled.
    """
    log = below.parent / "strace.log"
    prefix = ["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", f"--output={log}", f"--trace={','.join(TRACED_CALLS)}"]
    done = umldisk(*arguments, environment=environment, prefix=prefix)
    assert done.returncode == 0, done.stderr
    counts: Counter[str] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = _TRACE_LINE.match(line)
        if match is None:
            continue
        counts[match[1]] += 1
        if f"{below}" in match[2] and "TCGETS" not in match[2]:
            found.append(Syscall(match[1], counts[match[1]]))
    return found


def injection(syscall: Syscall, what: str) -> list[str]:
    """Return the command prefix that makes one call fail (`error=EIO`) or end the process (`signal=SIGKILL`)."""
    # Only errors can be injected without stopping the process at every call that it makes.
    quick = ["--seccomp-bpf"] if what.startswith("error") else []
    return [
        "strace",
        "-f",
        *quick,
        "--output=/dev/null",
        f"--trace={syscall.name}",
        f"--inject={syscall.name}:{what}:when={syscall.number}",
    ]
