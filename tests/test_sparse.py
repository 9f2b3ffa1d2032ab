"""Where a file has data: never less than it has, on any file system."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.system.sparse import allocated_bytes, data_extents

PAGE = 4096
SIZE = 64 * PAGE


@pytest.fixture(scope="module")
def sparse_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    fd = os.open(tmp_path_factory.mktemp("sparse") / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@given(
    pages=st.sets(st.integers(0, 63), max_size=12),
    cut=st.integers(0, SIZE),
    bounds=st.tuples(st.integers(0, SIZE + PAGE), st.integers(0, SIZE + PAGE)),
)
def test_everything_outside_the_extents_reads_as_zeros(
    sparse_file: int, pages: set[int], cut: int, bounds: tuple[int, int]
) -> None:
    os.ftruncate(sparse_file, 0)
    os.ftruncate(sparse_file, SIZE)
    for page in pages:
        os.pwrite(sparse_file, b"x" * PAGE, page * PAGE)
    os.ftruncate(sparse_file, cut)
    start, end = min(bounds), max(bounds)
    contents = os.pread(sparse_file, SIZE, 0).ljust(SIZE + PAGE, b"\0")
    position = start
    for low, high in data_extents(sparse_file, start, end):
        assert start <= position <= low < high <= min(end, cut)
        assert not any(contents[position:low])
        position = high
    assert not any(contents[position:end])


def test_holes_are_told_where_the_file_system_tells_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 1 << 40)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"x" * PAGE, 1 << 39)
        extents = list(data_extents(file.fileno(), 0, 1 << 40))
        assert sum(high - low for low, high in extents) < 1 << 20
        assert any(low <= 1 << 39 < high for low, high in extents)
        assert PAGE <= allocated_bytes(file.fileno()) < 1 << 20


def test_an_empty_range_and_a_range_past_the_end_have_no_data(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as file:
        assert list(data_extents(file.fileno(), 10, 10)) == []
        assert list(data_extents(file.fileno(), 100, 200)) == []
        assert list(data_extents(file.fileno(), 5000, 9000)) == []
        assert list(data_extents(file.fileno(), 50, 5000)) == [(50, 100)]


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EOPNOTSUPP, errno.ESPIPE])
def test_where_holes_cannot_be_told_everything_counts_as_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(_fd: int, _position: int, whence: int) -> int:
        assert whence == os.SEEK_DATA
        raise OSError(refusal, os.strerror(refusal))

    path = tmp_path / "file"
    path.write_bytes(bytes(9000))
    with path.open("rb") as file:
        monkeypatch.setattr(os, "lseek", refuse)
        assert list(data_extents(file.fileno(), 100, 9000)) == [(100, 9000)]


def test_another_error_is_not_taken_for_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with (tmp_path / "file").open("w+b") as file:
        monkeypatch.setattr(os, "lseek", fail)
        with pytest.raises(OSError, match="Input/output") as caught:
            list(data_extents(file.fileno(), 0, 100))
    assert caught.value.errno == errno.EIO
