"""Chunks: what comes out is what its name says, or nothing does, and never more than was asked for."""

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.memory_store import MemoryStore
from tests.kit.nights import sha
from umldisk.checkpoint.chunks import pack, read_chunk, unpack
from umldisk.checkpoint.store import chunk_key
from umldisk.errors import DataError

DATA = b"what the guest wrote; " * 200


def stored(data: bytes, name: bytes) -> MemoryStore:
    return MemoryStore({chunk_key(name): data})


@given(st.one_of(st.binary(max_size=2000), st.integers(0, 100_000).map(bytes)))
def test_a_chunk_comes_out_as_it_went_in(data: bytes) -> None:
    packed = pack(data)
    assert zstandard.get_frame_parameters(packed).content_size == len(data)
    assert pack(memoryview(data)) == packed
    assert unpack(packed, sha(data), most_bytes=len(data)) == data
    assert read_chunk(stored(packed, sha(data)), sha(data), len(data)) == data


def test_a_frame_that_does_not_say_its_length_is_read() -> None:
    """As casync writes them."""
    packer = zstandard.ZstdCompressor(write_content_size=False)
    packed = packer.compress(DATA)
    assert zstandard.get_frame_parameters(packed).content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert unpack(packed, sha(DATA), most_bytes=len(DATA)) == DATA
    with pytest.raises(DataError):
        unpack(packed, sha(DATA), most_bytes=len(DATA) - 1)


@given(st.integers(0, len(pack(DATA)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_damage_or_does_no_harm(at: int, flip: int) -> None:
    packed = bytearray(pack(DATA))
    packed[at] ^= flip
    try:
        found = unpack(bytes(packed), sha(DATA), most_bytes=len(DATA))
    except DataError as error:
        found, where = None, error.where
    assert found == DATA or where == chunk_key(sha(DATA))


@given(st.integers(0, len(pack(DATA)) - 1))
def test_a_truncated_chunk_is_damage(length: int) -> None:
    with pytest.raises(DataError):
        unpack(pack(DATA)[:length], sha(DATA), most_bytes=len(DATA))


def test_what_follows_a_chunk_is_damage() -> None:
    with pytest.raises(DataError, match="damaged"):
        unpack(pack(DATA) + b"\0", sha(DATA), most_bytes=len(DATA))


def test_a_frame_that_claims_more_than_the_index_is_not_unpacked() -> None:
    bomb = pack(bytes(1 << 26))
    assert len(bomb) < 10_000
    with pytest.raises(DataError, match=rf"expected {1 << 20}, found {1 << 26}"):
        unpack(bomb, sha(bytes(1 << 26)), most_bytes=1 << 20)


def test_another_chunk_under_the_name_is_damage() -> None:
    store = stored(pack(b"other"), sha(DATA))
    with pytest.raises(DataError, match="not hold what its name says"):
        read_chunk(store, sha(DATA), len(DATA))


def test_a_chunk_of_another_length_than_the_index_says_is_damage() -> None:
    with pytest.raises(DataError, match=f"expected {len(DATA) + 1}, found {len(DATA)}"):
        read_chunk(stored(pack(DATA), sha(DATA)), sha(DATA), len(DATA) + 1)
    with pytest.raises(DataError):
        read_chunk(stored(pack(DATA), sha(DATA)), sha(DATA), len(DATA) - 1)


def test_a_missing_chunk_is_damage() -> None:
    with pytest.raises(DataError, match="missing"):
        read_chunk(MemoryStore(), sha(DATA), len(DATA))
