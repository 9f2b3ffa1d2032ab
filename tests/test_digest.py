"""Digests of files with holes, against hashlib on whole byte strings."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umldisk.system.digest import BLOCK_BYTES, contents_sha256, sparse_sha256
from umldisk.system.files import open_disk


def _model(whole: bytes) -> str:
    """The digest as its description says."""
    digest = hashlib.sha256()
    for offset in range(0, len(whole), BLOCK_BYTES):
        block = whole[offset : offset + BLOCK_BYTES]
        if any(block):
            digest.update(offset.to_bytes(8, "little") + block)
    digest.update(len(whole).to_bytes(8, "little"))
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with open_disk(path) as disk:
        return sparse_sha256(disk)


def _write(path: Path, size_bytes: int, data: dict[int, bytes]) -> bytes:
    """Write a sparse file; return its contents."""
    whole = bytearray(size_bytes)
    with path.open("wb") as file:
        for offset, part in data.items():
            file.seek(offset)
            file.write(part)
            whole[offset : offset + len(part)] = part
        file.truncate(size_bytes)
    return bytes(whole)


_OFFSETS = st.integers(0, 300_000)
_PARTS = st.sampled_from([b"x", b"\0", b"ab" * 40_000, bytes(5000) + b"y"])


@settings(deadline=None)
@given(st.dictionaries(_OFFSETS, _PARTS, max_size=4), st.integers(400_000, 460_000))
def test_a_sparse_file_has_the_digest_that_is_described(
    tmp_path_factory: pytest.TempPathFactory, data: dict[int, bytes], size_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("digest") / "disk"
    whole = _write(path, size_bytes, data)
    assert _digest(path) == _model(whole)


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_sizes_around_a_block(size_bytes: int, tmp_path: Path) -> None:
    whole = _write(tmp_path / "disk", size_bytes, {0: b"z" * size_bytes} if size_bytes else {})
    assert _digest(tmp_path / "disk") == _model(whole)


def test_holes_and_written_zeros_are_the_same(tmp_path: Path) -> None:
    _write(tmp_path / "holes", 1 << 20, {70_000: b"x"})
    whole = (tmp_path / "holes").read_bytes()
    (tmp_path / "zeros").write_bytes(whole)
    assert os.stat(tmp_path / "holes").st_blocks < os.stat(tmp_path / "zeros").st_blocks
    assert _digest(tmp_path / "holes") == _digest(tmp_path / "zeros")


def test_size_and_place_count(tmp_path: Path) -> None:
    digests = set()
    for number, (size, place) in enumerate([(1 << 20, 0), (1 << 20, BLOCK_BYTES), ((1 << 20) + 1, 0)]):
        _write(tmp_path / str(number), size, {place: b"x"})
        digests.add(_digest(tmp_path / str(number)))
    assert len(digests) == 3


def test_a_tebibyte_of_nothing_is_quick(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(1 << 40)
    expected = hashlib.sha256((1 << 40).to_bytes(8, "little")).hexdigest()
    assert _digest(tmp_path / "disk") == expected


@given(st.lists(st.tuples(st.integers(0, 3_000_000), st.binary(max_size=20)), max_size=4), st.integers(0, 2_000_000))
def test_contents_are_hashed_with_their_holes(gaps: list[tuple[int, bytes]], tail: int) -> None:
    whole, pieces = b"", []
    for gap, data in gaps:
        whole += bytes(gap)
        pieces.append((len(whole), data))
        whole += data
    whole += bytes(tail)
    hashed = list[int]()
    assert contents_sha256(pieces, len(whole), when_hashed=hashed.append) == hashlib.sha256(whole).digest()
    assert sum(hashed) == len(whole)


def test_a_long_hole_is_hashed_in_small_steps() -> None:
    hashed = list[int]()
    contents_sha256([(1 << 25, b"x")], 1 << 26, when_hashed=hashed.append)
    assert sum(hashed) == 1 << 26
    assert max(hashed) <= 1 << 20
