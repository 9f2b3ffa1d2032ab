"""What the host asks the agent in a guest for: an answer, a freeze, a thaw, a command.

    host   ?TOKEN ping                          guest  !TOKEN ok
           ?TOKEN freeze SECONDS POINT...              !TOKEN ok | !TOKEN err WORDS
           ?TOKEN thaw                                 !TOKEN ok | !TOKEN err WORDS
           ?TOKEN run SECONDS COMMAND                  !TOKEN out HEX... (any number), !TOKEN end STATUS

The agent is a shell script that `build` puts into the guest. The host chose it and may ask for anything; its answers
are whatever root in the guest wants them to be. They are believed only as far as nothing on the host depends on them: a
guest can say that it froze its file systems and go on writing, and gets the checkpoint that it deserves.

Every request has a token that was never used before; a line without it is not an answer to this request and is passed
over, as is one that makes no sense. That covers late answers, the echo of a tty, and noise.

A freeze ends by the guard of the agent after some seconds, whoever dies meanwhile. When leaving, and when a freeze was
not answered, the agent is told to thaw; a caller that must be sure sends `sysrq j` to the mconsole as well. Which units
failed is a command like any other, and no request of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from umldisk.errors import StorageError, UsageError, printable
from umldisk.guest.agent_line import MOST_REQUEST_BYTES, AgentError, AgentLine, NoAnswerError

__all__ = ["OUTPUT_BYTES", "Agent", "AgentError", "AgentRun", "NoAnswerError", "RefusedError"]

OUTPUT_BYTES = 64 << 10
"""How much of a command's output there is at most."""
KILLED_STATUS = 137
"""The status of a command that was killed (128 and SIGKILL), as it is after its time."""
TIMEOUT_SECONDS = 10.0
GUARD_SECONDS = 30
_GRACE_SECONDS = 5
"""The agent gives up on what cannot be killed 3 seconds after the command's time, and then ends the answer."""
_MOST_WORDS = 200
_FAILED_UNITS = "if [ -d /run/systemd/system ]; then systemctl --failed --plain --no-legend --no-pager; fi"


class RefusedError(AgentError):
    """The agent answered that it could not do it; `found` holds the guest's words, made printable."""


@dataclass(frozen=True, slots=True)
class AgentRun:
    """A command that ran in the guest: its exit status, and its output and errors in one.

    `status` is 137 when it was killed, as after its time. `truncated` tells that there was more than OUTPUT_BYTES.
    """

    status: int
    output: bytes
    truncated: bool


class Agent:
    """The agent of a running guest, as a context manager; one process at a time can use it.

    `timeout_seconds` is how long an answer may take, on top of what the request itself may take. Entering raises
    BusyError while somebody else uses the agent, and NoInputError when the guest was started without its line. Every
    request raises NoAnswerError when there is no answer, AgentError when there is no end of it. Leaving thaws.
    """

    def __init__(self, run_directory: str | os.PathLike[str], *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._directory = os.fspath(run_directory)
        self._line = AgentLine(self._directory)
        self._timeout_seconds = timeout_seconds
        self._frozen = False

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._frozen:
                with contextlib.suppress(StorageError):
                    self.thaw()
        finally:
            self._line.__exit__(kind, error, trace)

    def ping(self) -> bool:
        """Return whether the agent answers."""
        try:
            self._do("ping")
        except AgentError:
            return False
        return True

    def freeze(self, mount_points: Sequence[str], *, guard_seconds: int = GUARD_SECONDS) -> None:
        """Freeze the file systems mounted there, root last; the guest thaws them after `guard_seconds` by itself.

        When it fails nothing stays frozen, as far as the guest can be reached. Raises RefusedError with the reason,
        and UsageError for what is no absolute path.
        """
        points = sorted(mount_points, key=lambda point: point == "/")
        if not points or not all(point.startswith("/") and "\0" not in point for point in points):
            raise UsageError("no mount points to freeze", expected="absolute paths", found=", ".join(points) or "none")
        self._do("ping")
        self._frozen = True
        try:
            words = [str(guard_seconds), *(_word(point) for point in points)]
            self._do("freeze", *words, seconds=max(0, guard_seconds - self._timeout_seconds))
        except RefusedError:
            self._frozen = False
            raise
        except AgentError:
            with contextlib.suppress(StorageError):
                self._send("thaw", (), time.monotonic() + self._timeout_seconds)
            raise

    def thaw(self) -> None:
        """Thaw what was frozen.

        Raises RefusedError when something was not frozen any more: what was copied meanwhile may not be consistent.
        """
        self._do("thaw")
        self._frozen = False

    def run(self, command: str, timeout_seconds: float) -> AgentRun:
        """Run a shell command as the guest's root, and kill it with all of its session after `timeout_seconds`.

        Raises UsageError for a command that no request can carry.
        """
        seconds = max(1, math.ceil(timeout_seconds))
        output = bytearray()
        for kind, rest in self._ask("run", (str(seconds), _words(command)), seconds + _GRACE_SECONDS):
            if kind == b"out" and len(output) <= OUTPUT_BYTES:
                output += _from_hex(rest)
            elif kind == b"end" and (status := _status(rest)) is not None:
                return AgentRun(status, bytes(output[:OUTPUT_BYTES]), len(output) > OUTPUT_BYTES)
            elif kind == b"err":
                raise self._refusal("run", rest)
        raise self._silence("run")

    def failed_units(self) -> tuple[str, ...]:
        """Return the names of systemd's failed units; none on any other init. Raises RefusedError when it fails."""
        found = self.run(_FAILED_UNITS, self._timeout_seconds)
        if found.status != 0:
            raise self._refusal("list the failed units", found.output)
        rows = (line.split() for line in found.output.splitlines())
        return tuple(_text(row[0]) for row in rows if row)

    def _do(self, verb: str, *words: str, seconds: float = 0) -> None:
        for kind, rest in self._ask(verb, words, seconds):
            if kind == b"ok":
                return
            if kind == b"err":
                raise self._refusal(verb, rest)
        raise self._silence(verb)

    def _ask(self, verb: str, words: Sequence[str], seconds: float) -> Iterator[tuple[bytes, bytes]]:
        """Send a request and yield kind and rest of its answers, until they would come too late."""
        deadline = time.monotonic() + seconds + self._timeout_seconds
        mark = b"!" + self._send(verb, words, deadline) + b" "
        for line in self._line.lines(deadline):
            if line.startswith(mark):
                kind, _, rest = line[len(mark) :].partition(b" ")
                yield kind, rest

    def _send(self, verb: str, words: Sequence[str], deadline: float) -> bytes:
        token = secrets.token_hex(8)
        request = f"\n?{' '.join((token, verb, *words))}\n".encode("ascii")
        if len(request) > MOST_REQUEST_BYTES:
            raise UsageError(
                "too long for the guest's agent", expected=f"at most {MOST_REQUEST_BYTES} bytes", found=len(request)
            )
        self._line.drain()
        self._line.send(request, deadline)
        return token.encode("ascii")

    def _refusal(self, verb: str, words: bytes) -> RefusedError:
        reason = _text(words) or "no reason"
        return RefusedError(f"the guest's agent could not {verb}", where=self._directory, found=reason)

    def _silence(self, verb: str) -> NoAnswerError:
        return NoAnswerError(f"the guest's agent did not answer to {verb}", where=self._directory)


def _text(words: bytes) -> str:
    return printable(words[:_MOST_WORDS].decode("utf-8", "surrogateescape").strip())


def _word(text: str) -> str:
    """Return `text` as one word that printf's %b turns back."""
    return "".join(_byte(byte) for byte in os.fsencode(text))


def _words(command: str) -> str:
    """Return a command as words of which the agent makes one line again, with one blank between two."""
    if "\0" in command or not command.strip():
        raise UsageError("no command for the guest", found=repr(command[:_MOST_WORDS]))
    return " ".join(map(_word, re.split(r"(?<=[^ ]) (?=[^ ])", command)))


def _byte(byte: int) -> str:
    plain = 0x21 <= byte <= 0x7E and byte != ord("\\")
    return chr(byte) if plain else f"\\0{byte:03o}"


def _from_hex(text: bytes) -> bytes:
    """Return the bytes, none when this is no hexadecimal."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return b""


def _status(text: bytes) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isdigit() and len(digits) <= 3 and int(digits) <= 255 else None
