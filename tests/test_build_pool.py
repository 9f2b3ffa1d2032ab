"""The pool against a plain model: digest, holes, page counts, placing."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umldisk.build.pool import Pool, Stored
from umldisk.build.tree import Entry, FileType, HardLink, Inode, Text, directory, file
from umldisk.errors import DataError, StorageError

_PAGE = 4096


@dataclass(frozen=True)
class _Pieces:
    """Contents made of given pieces."""

    size_bytes: int
    parts: tuple[tuple[int, bytes], ...]

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        yield from self.parts

    def whole(self) -> bytes:
        image = bytearray(self.size_bytes)
        for offset, data in self.parts:
            image[offset : offset + len(data)] = data
        return bytes(image)


@st.composite
def _contents(draw: st.DrawFn) -> _Pieces:
    position, parts = 0, []
    for _ in range(draw(st.integers(0, 5))):
        position += draw(st.sampled_from([0, 1, 100, _PAGE - 1, _PAGE, 3 * _PAGE]))
        length = draw(st.sampled_from([1, 10, _PAGE - 1, _PAGE, _PAGE + 1, 4 * _PAGE]))
        data = draw(st.sampled_from([b"\0", b"x", b"\0x", b"x" + bytes(2 * _PAGE)]))
        parts.append((position, (data * length)[:length]))
        position += length
    return _Pieces(position + draw(st.sampled_from([0, 1, _PAGE, 100_000])), tuple(parts))


@settings(deadline=None)
@given(contents=_contents())
def test_what_is_stored_is_what_was_given(contents: _Pieces, tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = Pool(str(tmp_path_factory.mktemp("pool") / "p"))
    stored = pool.store(contents)
    whole = contents.whole()
    assert Path(stored.path).read_bytes() == whole
    assert stored.sha256 == hashlib.sha256(whole).digest()
    assert stored.size_bytes == len(whole)
    pages = [whole[place : place + _PAGE] for place in range(0, len(whole), _PAGE)]
    needed = sum(any(page) for page in pages)
    assert needed <= stored.pages <= len(pages)
    if all(offset % _PAGE == 0 for offset, _data in contents.parts):
        assert stored.pages == needed
    again = _Pieces(stored.size_bytes, tuple(stored.pieces())).whole()
    assert again == whole


def test_holes_take_no_room(tmp_path: Path) -> None:
    stored = Pool(str(tmp_path / "p")).store(_Pieces(1 << 32, ((1 << 31, b"x"),)))
    assert os.stat(stored.path).st_size == 1 << 32
    assert os.stat(stored.path).st_blocks * 512 <= 2 * _PAGE
    assert stored.pages == 1


def test_only_files_are_stored_and_all_else_passes(tmp_path: Path) -> None:
    entries = [directory("/d"), file("/f", "text", 0o640, gid=4, mtime_ns=9), HardLink("/g", "/f")]
    first, second, third = Pool(str(tmp_path / "p")).take(iter(entries))
    assert (first, third) == (entries[0], entries[2])
    assert isinstance(second, Entry)
    assert isinstance(second.inode.contents, Stored)
    assert (second.inode.mode, second.inode.gid, second.inode.mtime_ns) == (0o640, 4, 9)


def test_what_is_read_is_told_with_its_holes(tmp_path: Path) -> None:
    told = list[int]()
    sparse = Entry("/s", Inode(FileType.FILE, 0o600, contents=_Pieces(1 << 24, ((1 << 23, b"x"),))))  # type: ignore[arg-type]
    for _entry in Pool(str(tmp_path / "p")).take(iter([sparse, file("/f", "text")]), when_read=told.append):
        pass
    assert sum(told) == (1 << 24) + 4
    assert max(told) <= 1 << 20


def test_a_stored_file_is_moved_or_linked_into_place(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "p"))
    stored = pool.store(Text(b"data"))
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        Pool.place(stored, b"one", dir_fd=top, again=True)
        Pool.place(stored, b"two", dir_fd=top, again=False)
    finally:
        os.close(top)
    assert os.stat(tmp_path / "one").st_ino == os.stat(tmp_path / "two").st_ino
    assert (tmp_path / "two").read_bytes() == b"data"
    assert os.listdir(tmp_path / "p") == []


def test_a_pool_takes_no_more_than_it_may(tmp_path: Path) -> None:
    pool = Pool(str(tmp_path / "p"), most_bytes=3 * _PAGE)
    assert pool.store(Text(b"x" * 2 * _PAGE)).pages == 2
    assert pool.store(Text(bytes(9 * _PAGE))).pages == 0
    assert pool.store(Text(b"x")).pages == 1
    with pytest.raises(DataError, match="more than all drives"):
        pool.store(Text(b"x"))


def test_no_umask_locks_the_builder_out(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        stored = Pool(str(tmp_path / "p")).store(Text(b"x"))
    finally:
        os.umask(before)
    assert os.stat(tmp_path / "p").st_mode & 0o777 == 0o700
    assert os.stat(stored.path).st_mode & 0o777 == 0o600


def test_a_pool_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="scratch"):
        Pool(str(tmp_path / "missing" / "p"))


def test_an_inode_keeps_its_type(tmp_path: Path) -> None:
    fifo = Entry("/p", Inode(FileType.FIFO, 0o600))
    assert list(Pool(str(tmp_path / "p")).take(iter([fifo]))) == [fifo]
