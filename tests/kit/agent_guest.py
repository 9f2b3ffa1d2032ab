"""A guest at the other end of the agent line, on real FIFOs: it answers as it is told to."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from umldisk.guest import agent_line
from umldisk.guest.agent import Agent

SHORT_SECONDS = 0.3
LONG_SECONDS = 60.0

Answering = Callable[[str, str, str], Iterable[bytes]]


class AgentGuest:
    """Holds both ends as a kernel does; `answering` gets token, verb and the rest of every request."""

    def __init__(self, directory: Path, answering: Answering) -> None:
        self.requests: list[str] = []
        self.seen: list[str] = []
        self._answering = answering
        for name in (agent_line.INPUT, agent_line.OUTPUT):
            os.mkfifo(directory / name, 0o600)
        self.input = os.open(directory / agent_line.INPUT, os.O_RDWR)
        self.output = os.open(directory / agent_line.OUTPUT, os.O_RDWR | os.O_NONBLOCK)
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stopped)
        self._thread.join()
        for fd in (self._stop, self.input, self.output):
            os.close(fd)

    def _serve(self) -> None:
        begun = b""
        while self._ready(self.input, select.POLLIN):
            *lines, begun = (begun + os.read(self.input, 1 << 16)).split(b"\n")
            for line in filter(None, lines):
                self.requests.append(line.decode("ascii"))
                token, verb, rest = [*line.decode("ascii").removeprefix("?").split(" ", 2), ""][:3]
                self.seen.append(f"{verb} {rest}".strip())
                for piece in self._answering(token, verb, rest):
                    if not self._write(piece):
                        return

    def _write(self, piece: bytes) -> bool:
        while piece:
            if not self._ready(self.output, select.POLLOUT):
                return False
            try:
                piece = piece[os.write(self.output, piece) :]
            except BlockingIOError:  # room, but not for all of a short piece
                time.sleep(0.001)
        return True

    def _ready(self, fd: int, event: int) -> bool:
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self._stop, select.POLLIN)
        return all(found == fd for found, _ in poll.poll())


@contextmanager
def talking(
    directory: Path, answering: Answering, *, timeout_seconds: float = LONG_SECONDS
) -> Iterator[tuple[Agent, AgentGuest]]:
    guest = AgentGuest(directory, answering)
    try:
        with Agent(directory, timeout_seconds=timeout_seconds) as agent:
            yield agent, guest
    finally:
        guest.close()


def line(text: str) -> bytes:
    return f"\n!{text}\n".encode()


def obedient(token: str, verb: str, rest: str) -> Iterable[bytes]:
    if verb == "run":
        seconds, _, words = rest.partition(" ")
        yield line(f"{token} out {f'{seconds} {read_back(words)}'.encode().hex(' ')}")
        yield line(f"{token} end 3")
    else:
        yield line(f"{token} ok")


def silent(token: str, verb: str, rest: str) -> Iterable[bytes]:
    return ()


def read_back(words: str) -> str:
    """What printf's %b makes of it."""
    octal = rb"\\0([0-7]{3})"
    return re.sub(octal, lambda found: bytes([int(found[1], 8)]), words.encode("ascii")).decode()
