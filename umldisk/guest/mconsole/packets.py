"""What mconsole's packets say (how they are laid out, `layout` knows).

    request ──▶ guest
    guest   ──▶ reply more=1, reply more=1, ..., reply more=0         one text in pieces of at most 511 bytes

*error* is 0 or not: some commands answer 1, others a negative errno, and only the first packet of an answer has it.
The pieces are cut anywhere, within a character too, so they are joined first and decoded then.

Everything a guest sends may be a lie. A packet counts only when its header agrees with its size, and an answer is
bounded: `proc kcore` alone would go on for terabytes. Packets carry no number, so that an answer out of turn cannot be
told from a good one: a client uses a new socket for each request instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from umldisk.errors import DataError
from umldisk.guest.mconsole import layout

MAX_REQUEST_BYTES = layout.DATA_BYTES - 1
"""What a command may have; a kernel refuses more."""

MAX_PACKET_BYTES = layout.REPLY_HEADER_BYTES + layout.DATA_BYTES
MAX_ANSWER_BYTES = 1 << 20
"""What all packets of an answer may have together, headers included."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One packet of an answer: `data` without its NUL."""

    error: int
    more: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `error` is 0 when the command was carried out.

    Bytes of `text` that are no UTF-8 are lone surrogates, as in names of files.
    """

    text: str
    error: int = 0


def build_request(data: bytes) -> bytes:
    """Return the packet that asks for a command, which has at most MAX_REQUEST_BYTES."""
    assert len(data) <= MAX_REQUEST_BYTES
    fields = {"magic": layout.MAGIC, "version": layout.VERSION, "length": len(data), "data": data}
    packet: bytes = layout.REQUEST.build(fields)
    return packet


def parse_piece(packet: bytes, *, where: str) -> Piece:
    """Read one packet of an answer; raises DataError naming the field that cannot be true."""
    try:
        fields = layout.REPLY.parse(packet)
    except layout.LayoutError:
        raise _bad(where, "length of a packet", f"at least {layout.REPLY_HEADER_BYTES + 1}", len(packet)) from None
    if not 1 <= fields.length <= layout.DATA_BYTES or fields.length != len(fields.data):
        expected = f"{len(fields.data)}, the bytes that follow" if fields.data else "1 to 512"
        raise _bad(where, "length", expected, fields.length)
    if fields.more not in (0, 1):
        raise _bad(where, "more", "0 or 1", fields.more)
    if fields.data[-1]:
        raise _bad(where, "last byte", "NUL", f"{fields.data[-1]:#04x}")
    return Piece(fields.error, bool(fields.more), fields.data[:-1])


def _bad(where: str, field: str, expected: str, found: object) -> DataError:
    return DataError(f"the guest's mconsole answers nonsense: {field}", where=where, expected=expected, found=found)


class Assembly:
    """An answer that is being received; `where` is the guest's socket, for messages."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._error: int | None = None
        self._data = bytearray()
        self._received_bytes = 0

    @property
    def text(self) -> str:
        """What has come so far."""
        return self._data.decode("utf-8", "surrogateescape")

    def add(self, packet: bytes) -> Reply | None:
        """Take the next packet and return the answer, or None when more is to come.

        Raises DataError when the packet is damaged or the answer too long.
        """
        self._received_bytes += len(packet)
        if self._received_bytes > MAX_ANSWER_BYTES:
            raise DataError("the guest's mconsole answers without end", where=self._where, expected="at most 1 MiB")
        piece = parse_piece(packet, where=self._where)
        if self._error is None:
            self._error = piece.error
        self._data += piece.data
        return None if piece.more else Reply(self.text, self._error)
