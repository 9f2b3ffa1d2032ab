"""mconsole's packets against a model made with struct, and against hostile bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import DataError
from umldisk.guest.mconsole.packets import (
    MAX_ANSWER_BYTES,
    MAX_PACKET_BYTES,
    MAX_REQUEST_BYTES,
    Assembly,
    Piece,
    Reply,
    build_request,
    parse_piece,
)

I32 = st.integers(min_value=-(1 << 31), max_value=(1 << 31) - 1)
U32 = st.integers(min_value=0, max_value=(1 << 32) - 1)
PIECE = st.binary(max_size=511)


def model_packet(error: int, more: int, data: bytes) -> bytes:
    """A packet as the kernel fills its struct: three numbers, the text, a NUL."""
    return struct.pack("=iII", error, more, len(data) + 1) + data + b"\0"


@given(st.binary(max_size=MAX_REQUEST_BYTES))
def test_a_request_is_the_kernels_struct(data: bytes) -> None:
    assert build_request(data) == struct.pack("=III", 0xCAFEBABE, 2, len(data)) + data


@given(I32, st.booleans(), PIECE)
def test_a_piece_says_what_was_put_in(error: int, more: bool, data: bytes) -> None:
    assert parse_piece(model_packet(error, more, data), where="x") == Piece(error, more, data)


def test_the_largest_packet_is_the_kernels() -> None:
    assert len(model_packet(0, 0, b"x" * 511)) == MAX_PACKET_BYTES


@given(I32, st.text(max_size=120), st.data())
def test_an_answer_is_the_same_however_it_is_cut(error: int, text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(min_value=0, max_value=len(whole)), max_size=8)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assembly = Assembly("x")
    for number, part in enumerate(parts[:-1]):
        assert assembly.add(model_packet(0 if number else error, 1, part)) is None
    reply = assembly.add(model_packet(0 if cuts else error, 0, parts[-1]))
    assert reply == Reply(whole.decode("utf-8", "surrogateescape"), error)


def test_an_error_counts_in_the_first_packet_alone() -> None:
    assembly = Assembly("x")
    assert assembly.add(model_packet(0, 1, b"a")) is None
    assert assembly.add(model_packet(1, 0, b"b")) == Reply("ab", 0)


@given(st.binary(max_size=255))
def test_no_byte_of_a_text_is_lost(data: bytes) -> None:
    reply = Assembly("x").add(model_packet(0, 0, data))
    assert reply is not None
    assert reply.text.encode("utf-8", "surrogateescape") == data


def _header(error: int, more: int, length: int, data: bytes) -> bytes:
    return struct.pack("=iII", error, more, length) + data


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"", "length of a packet.*expected at least 13, found 0"),
        (b"\0", "length of a packet.*expected at least 13, found 1"),
        (bytes(4), "found 4"),
        (bytes(11), "found 11"),
        (_header(0, 0, 0, b""), "length .*expected 1 to 512, found 0"),
        (_header(0, 0, 1, b""), "length .*found 1"),
        (_header(0, 0, 2, b"a\0b"), "length .*expected 3, the bytes that follow, found 2"),
        (_header(0, 0, 9, b"a\0"), "length .*expected 2, the bytes that follow, found 9"),
        (_header(0, 0, 0xFFFFFFFF, b"a\0"), "found 4294967295"),
        (_header(0, 0, 513, bytes(513)), "length .*found 513"),
        (_header(0, 2, 1, b"\0"), "more .*expected 0 or 1, found 2"),
        (_header(0, 0xFFFFFFFF, 1, b"\0"), "more .*found 4294967295"),
        (_header(0, 0, 3, b"abc"), "last byte .*expected NUL, found 0x63"),
        (b"ERR Version 0 mconsole clients are not supported by this driver", "length"),
    ],
)
def test_a_packet_that_cannot_be_is_refused(packet: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_piece(packet, where="/uml/x/mconsole")
    assert caught.value.where == "/uml/x/mconsole"


HOSTILE = st.one_of(
    st.binary(max_size=600),
    st.builds(_header, I32, st.one_of(st.integers(0, 2), U32), st.one_of(st.integers(0, 600), U32), PIECE),
)


@given(st.lists(HOSTILE, max_size=20))
def test_hostile_bytes_end_in_an_answer_or_a_clear_error(packets: list[bytes]) -> None:
    refusal = first_refusal(packets)
    assert refusal is None or refusal.isprintable()


def first_refusal(packets: list[bytes]) -> str | None:
    """Return the line of the DataError that one of the packets meets; any other error goes on."""
    assembly = Assembly("x")
    try:
        for packet in packets:
            assembly.add(packet)
    except DataError as error:
        return error.line()
    return None


@pytest.mark.parametrize("size", [40, 511])
def test_an_answer_without_end_is_refused_at_the_limit(size: int) -> None:
    packet, assembly = model_packet(0, 1, b"x" * size), Assembly("x")
    for _ in range(MAX_ANSWER_BYTES // len(packet)):
        assert assembly.add(packet) is None
    with pytest.raises(DataError, match="without end"):
        assembly.add(packet)
    assert len(assembly.text) <= MAX_ANSWER_BYTES
