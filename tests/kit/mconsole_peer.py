"""Made-up guests that listen on an mconsole socket, and behave badly.

A peer answers each request with what its behaviour makes of it. `answers` does it as a kernel does; the others lie,
stop half-way, say nothing, or say too much.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from umldisk.guest.mconsole.client import Mconsole

MAGIC = 0xCAFEBABE
PIECE_BYTES = 511
LONG_SECONDS = 60.0
SHORT_SECONDS = 0.2
_HEADER = struct.Struct("=iII")
_REQUEST = struct.Struct("=III")

Behaviour = Callable[["Peer", bytes, str], None]
"""What a peer does with a command that came from an address."""


def packet(data: bytes, *, error: int = 0, more: bool = False) -> bytes:
    """Return one packet of an answer as the kernel makes it: with a NUL, which counts."""
    return _HEADER.pack(error, more, len(data) + 1) + data + b"\0"


def pieces(data: bytes, *, error: int = 0, piece_bytes: int = PIECE_BYTES) -> list[bytes]:
    """Return the packets of a whole answer; only the first has the error."""
    parts = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)] or [b""]
    last = len(parts) - 1
    return [packet(part, error=0 if n else error, more=n < last) for n, part in enumerate(parts)]


class Peer:
    """A guest's side, as a context manager; `path` is its socket, `commands` what it was asked, as bytes."""

    def __init__(self, uml_dir: Path, behaviour: Behaviour, *, umid: str = "test") -> None:
        self.path = uml_dir / umid / "mconsole"
        self.behaviour = behaviour
        self.requests: list[bytes] = []
        self.addresses: list[str] = []
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a request
        self._thread.join(timeout=30)
        self.socket.close()
        self.path.unlink(missing_ok=True)

    @property
    def commands(self) -> list[bytes]:
        return [request[_REQUEST.size :] for request in self.requests]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while not self.stopping.is_set():
                request, address = self.socket.recvfrom(65536)
                if self.stopping.is_set():
                    return
                magic, version, length = _REQUEST.unpack_from(request)
                assert (magic, version, length) == (MAGIC, 2, len(request) - _REQUEST.size)
                self.requests.append(request)
                self.addresses.append(address)
                self.behaviour(self, request[_REQUEST.size :], address)

    def reply(self, packets: list[bytes], address: str) -> int:
        """Send packets as a kernel does, which neither waits nor tries again; return how many went off."""
        sent = 0
        for one in packets:
            with contextlib.suppress(OSError):
                self.socket.sendto(one, socket.MSG_DONTWAIT, address)
                sent += 1
        return sent


# -- our side ---------------------------------------------------------------------------------------------------------


def console(peer: Peer, *, timeout_seconds: float = LONG_SECONDS, owner_uid: int | None = None) -> Mconsole:
    return Mconsole(str(peer.path), timeout_seconds=timeout_seconds, owner_uid=owner_uid)


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def left_behind(uml_dir: Path) -> list[str]:
    return sorted(set(os.listdir(uml_dir)) - {"test"})


# -- behaviours -------------------------------------------------------------------------------------------------------


def answers(
    text: str | bytes | Callable[[bytes], bytes], *, error: int = 0, piece_bytes: int = PIECE_BYTES
) -> Behaviour:
    """Answer honestly; a callable makes the answer of the command."""

    def behave(peer: Peer, command: bytes, address: str) -> None:
        data = text(command) if callable(text) else text.encode() if isinstance(text, str) else text
        peer.reply(pieces(data, error=error, piece_bytes=piece_bytes), address)

    return behave


def sends(*packets: bytes) -> Behaviour:
    """Send just these bytes, whatever they are."""
    return lambda peer, _command, address: (peer.reply(list(packets), address), None)[1]


def stays_silent(_peer: Peer, _command: bytes, _address: str) -> None:
    """Take the request and say nothing."""


def closes(peer: Peer, _command: bytes, _address: str) -> None:
    """Be killed by the request: the socket's file stays."""
    peer.socket.close()


def never_ends(peer: Peer, _command: bytes, address: str) -> None:
    """Send full pieces as fast as they are taken, until the other side is gone or the test is over."""
    one = packet(b"x" * PIECE_BYTES, more=True)
    peer.socket.settimeout(0.1)
    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
        while not peer.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                peer.socket.sendto(one, address)
    peer.socket.settimeout(None)


def drips(peer: Peer, _command: bytes, address: str) -> None:
    """Send a byte now and then, for ever: each packet comes in time, the answer does not."""
    while not peer.stopping.wait(0.01):
        if not peer.reply([packet(b".", more=True)], address) or not os.path.lexists(address):
            return


def answers_twice(peer: Peer, command: bytes, address: str) -> None:
    """Send the whole answer two times."""
    peer.reply(pieces(command) * 2, address)


class AnswersLate:
    """Answer the first command only when `now` is set; `gone` says that nobody took it. The others at once."""

    def __init__(self) -> None:
        self.now = threading.Event()
        self.gone = threading.Event()
        self._first = True

    def __call__(self, peer: Peer, command: bytes, address: str) -> None:
        if self._first:
            self._first = False
            self.now.wait(timeout=30)
            if not peer.reply(pieces(b"late"), address):
                self.gone.set()
        else:
            peer.reply(pieces(command), address)


class AnsweredByAStranger:
    """Let another socket answer before the guest does; `refusal` is what became of it."""

    def __init__(self) -> None:
        self.refusal: OSError | None = None

    def __call__(self, peer: Peer, command: bytes, address: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            try:
                stranger.sendto(packet(b"forged"), address)
            except OSError as error:
                self.refusal = error
        peer.reply(pieces(command), address)
