"""The one place that runs other programs.

A program is found before it runs, gets no terminal and a fixed locale, and is described by an argv that its caller
builds as pure data. A failure carries the program's own last words. Nothing here goes through a shell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from umldisk.errors import NoInputError, StorageError, printable

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps mke2fs and its like, which is not on an ordinary user's PATH."""

DISCARD = subprocess.DEVNULL
"""For `run`'s stdout: nobody wants to see what the program writes there."""

NOTICE_SECONDS = 0.25
"""How long to wait at a time. Python looks for signals between its instructions: one that comes between the last of
them and the system call that waits is seen only after the waiting."""
_TIDY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished program left: its exit status and what it wrote."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


class Leash:
    """Ends the programs of worker threads: what interrupts us reaches only the main thread.

    It holds all that is run in threads that took it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._pulled = False

    def take(self) -> None:
        """Let it hold what this thread runs from now on."""
        _thread.leash = self

    def pull(self) -> None:
        """Kill what is running, and whatever is still to be run."""
        with self._lock:
            self._pulled = True
            for process in self._running:
                process.kill()

    @contextlib.contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Hold `process` until the end of the block."""
        with self._lock:
            self._running.add(process)
            if self._pulled:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


class _Thread(threading.local):
    """What a thread took."""

    leash: Leash | None = None


_thread = _Thread()


def find_program(name: str, *, package: str | None = None) -> str:
    """Return the absolute path of program `name`; `package` is the Debian package named in the hint.

    Raises NoInputError when it is not installed.
    """
    search = os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_DIRECTORIES
    found = shutil.which(name, path=search)
    if found is None:
        hint = f"apt-get install {package}" if package else None
        raise NoInputError(f"the program {name} is not installed", hint=hint)
    return found


def run(
    argv: Sequence[str],
    *,
    package: str | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    accepted: Sequence[int] = (0,),
    stdout: int | None = None,
    kept_lock: int | None = None,
) -> Completed:
    """Run `argv` to its end and return what it wrote.

    `environment` is added to a copy of ours with the C locale. `stdout` is a file descriptor that the program writes
    to instead of our memory, or DISCARD; what it wrote is then empty in the answer.

    Whatever interrupts us kills the program. One that has children and tidies up behind itself is given a `kept_lock`,
    a descriptor through which a lock was taken: it runs in a process group of its own, which is asked to end and gets
    some seconds for it, and when we are killed ourselves, the lock lives as long as the group.

    An exit status that is not in `accepted` raises StorageError with the last line of the program's stderr.
    """
    program = find_program(argv[0], package=package)
    with subprocess.Popen(
        [program, *argv[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
        process_group=None if kept_lock is None else 0,
        pass_fds=() if kept_lock is None else (kept_lock,),
    ) as process:
        try:
            with _thread.leash.holding(process) if _thread.leash else contextlib.nullcontext():
                out, err = _communicate(process, stdin)
        except BaseException:
            _end(process, is_group=kept_lock is not None)
            raise
    completed = Completed(tuple(argv), process.returncode, out or b"", err)
    if completed.status not in accepted:
        raise StorageError(f"{argv[0]} failed with status {completed.status}: {_last_words(completed)}")
    return completed


def _communicate(process: subprocess.Popen[bytes], stdin: bytes) -> tuple[bytes | None, bytes]:
    """Wait for the end of `process`, a short time and again: see NOTICE_SECONDS."""
    unsent: bytes | None = stdin
    while True:
        try:
            return process.communicate(unsent, NOTICE_SECONDS)
        except subprocess.TimeoutExpired:
            unsent = None


def _end(process: subprocess.Popen[bytes], *, is_group: bool) -> None:
    if not is_group:
        process.kill()
        return
    try:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_TIDY_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _last_words(completed: Completed) -> str:
    lines = (completed.stderr or completed.stdout).decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "it said nothing"
