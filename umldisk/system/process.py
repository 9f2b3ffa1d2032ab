"""The one place that runs other programs.

A program is found before it runs, gets no terminal and a fixed locale, and is described by an argv that its caller
builds as pure data. A failure carries the program's own last words. Nothing here goes through a shell.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umldisk.errors import NoInputError, StorageError, printable
from umldisk.system.deferring import interruptions_deferred

_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps mke2fs and its like, which is not on an ordinary user's PATH."""

DISCARD = subprocess.DEVNULL
"""For a program's stdout: nobody wants to see what the program writes there."""

PIPE = subprocess.PIPE
"""For the streams of `launch`: a pipe to us."""

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
    command = _Command((program, *argv[1:]), environment or {}, cwd, stdout, kept_lock)
    completed = Completed(tuple(argv), *command.run(stdin))
    if completed.status not in accepted:
        raise StorageError(f"{argv[0]} failed with status {completed.status}: {_last_words(completed)}")
    return completed


def _last_words(completed: Completed) -> str:
    lines = (completed.stderr or completed.stdout).decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "it said nothing"


class Leash:
    """Ends the programs of worker threads: what interrupts us reaches only the main thread.

    It holds all that is run in threads that took it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[_Running] = set()
        self._pulled = False

    def take(self) -> None:
        """Let it hold what this thread runs from now on."""
        _thread.leash = self

    def pull(self) -> None:
        """Kill what runs, also what is just being started, and let nothing start any more.

        When this returns, no program that it held lives.
        """
        with interruptions_deferred(), self._lock:
            self._pulled = True
            for running in self._running:
                running.end()

    def start(self, command: _Command) -> _Running:
        """Start a program and hold it; raises StorageError when the leash was pulled."""
        with self._lock:
            if self._pulled:
                raise StorageError(f"{command.name} was not started: the work that it belongs to was broken off")
            running = command.start()
            self._running.add(running)
        return running

    def release(self, running: _Running) -> None:
        """Hold a program no longer."""
        with self._lock:
            self._running.discard(running)


class _Thread(threading.local):
    """What a thread took, or one of its own."""

    def __init__(self) -> None:
        self.leash = Leash()


_thread = _Thread()


@dataclass(frozen=True, slots=True)
class _Command:
    """A program that could be started, and how."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: str | os.PathLike[str] | None
    stdout: int | None
    kept_lock: int | None

    @property
    def name(self) -> str:
        return os.path.basename(self.argv[0])

    def start(self) -> _Running:
        process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self.stdout is None else self.stdout,
            stderr=subprocess.PIPE,
            cwd=self.cwd,
            env={**os.environ, "LC_ALL": "C", **self.environment},
            process_group=None if self.kept_lock is None else 0,
            pass_fds=() if self.kept_lock is None else (self.kept_lock,),
        )
        return _Running(process, is_group=self.kept_lock is not None)

    def run(self, stdin: bytes) -> tuple[int, bytes, bytes]:
        """Return its exit status, stdout and stderr; whatever interrupts this ends the program."""
        leash = _thread.leash
        running = None
        try:
            with interruptions_deferred():
                running = leash.start(self)
            stdout, stderr = running.communicate(stdin)
        except BaseException:
            if running is not None:
                running.end()
            raise
        finally:
            if running is not None:
                with running.process:  # which closes its pipes
                    leash.release(running)
        return running.process.returncode, stdout, stderr


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """A program that was started; one with a process group of its own ends with the group."""

    process: subprocess.Popen[bytes]
    is_group: bool

    def communicate(self, stdin: bytes) -> tuple[bytes, bytes]:
        """Wait for its end, a short time and again (see NOTICE_SECONDS); return what it wrote.

        When a leash has ended it, children of it that still hold its pipes are not waited for.
        """
        unsent: bytes | None = stdin
        while True:
            try:
                stdout, stderr = self.process.communicate(unsent, NOTICE_SECONDS)
            except subprocess.TimeoutExpired:
                if self.process.returncode is not None:
                    return b"", b""
                unsent = None
            else:
                return stdout or b"", stderr

    def end(self) -> None:
        """Kill it and wait until it is dead; a group is asked first, and gets some seconds."""
        try:
            if self.is_group:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(self.process.pid, signal.SIGTERM)
                    self.process.wait(_TIDY_SECONDS)
        finally:
            self._kill()
            self.process.wait()

    def _kill(self) -> None:
        if self.is_group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()


# -- programs that run beside us --------------------------------------------------------------------------------------


class Child:
    """A program that runs beside us, in a session of its own, with pipes to its streams where they were asked for."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id, which is nobody else's before `status` has told its end."""
        return self._process.pid

    def write(self, data: bytes) -> None:
        """Write all of `data` to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def close_stdin(self) -> None:
        """Let it see the end of its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def read(self, most_bytes: int, *, timeout_seconds: float) -> bytes:
        """Return what it wrote to stdout as far as it is there, b"" at its end; raises TimeoutError."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        while not select.select([self._process.stdout], [], [], NOTICE_SECONDS)[0]:
            if time.monotonic() > deadline:
                raise TimeoutError
        return os.read(self._process.stdout.fileno(), most_bytes)

    def status(self, timeout_seconds: float = 0) -> int | None:
        """Return its exit status, or minus the signal that ended it; None while it runs."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it at once, and wait for that."""
        self._process.kill()
        self._process.wait()

    def let_go(self) -> None:
        """Close our ends of its pipes; it may outlive us, and nobody asks for its status any more."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._process.poll() is None:
            self._process.returncode = 0  # else Popen warns that nobody waited


def launch(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    user: tuple[int, int, Sequence[int]] | None = None,
    cwd: str | None = None,
) -> Child:
    """Start a program that goes on beside us, and perhaps after us, in a session of its own.

    What a program makes is for its user alone (umask 077).

    Streams are descriptors, DISCARD or PIPE. `environment`, when given, is all of its environment. `user` is whom it
    runs as: uid, gid and the further groups. Raises NoInputError when there is no such program, StorageError when it
    cannot be started.
    """
    uid, gid, groups = user or (None, None, None)
    program = find_program(argv[0])
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=None if groups is None else list(groups),
            umask=0o077,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageError(f"cannot start {argv[0]}: {error}") from error
    return Child(process)
