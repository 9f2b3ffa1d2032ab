"""Moving bytes between files: everything, or an error, by whichever way the files allow."""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.faults import Way, failing
from umldisk.system import transfer
from umldisk.system.sparse import allocated_bytes
from umldisk.system.transfer import CHUNK_BYTES, PAGE_BYTES

CONTENTS = bytes(range(1, 252)) * 2400  # more than two chunks, no page like another
assert len(CONTENTS) > 2 * CHUNK_BYTES
NOT_POSSIBLE = [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.ETXTBSY]


class Pair:
    """Two open files, the first with contents."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target

    def written(self) -> bytes:
        """Return what the target holds."""
        return os.pread(self.target, 1 << 24, 0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as opened:
        files = [opened.enter_context((tmp_path / name).open("w+b", buffering=0)) for name in ("source", "target")]
        files[0].write(CONTENTS)
        yield Pair(files[0].fileno(), files[1].fileno())


# -- copying --------------------------------------------------------------------------------------

EDGES = [0, 1, 511, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(CONTENTS) - 7]


@pytest.mark.parametrize("length", EDGES)
@pytest.mark.parametrize("kernel", [True, False], ids=["in-the-kernel", "through-memory"])
def test_a_copy_moves_exactly_what_it_is_told(pair: Pair, length: int, kernel: bool) -> None:
    with failing(None if kernel else 0, Way.FULL, error=errno.EXDEV, calls=["copy_file_range"]):
        transfer.copy(pair.source, 7, pair.target, 3, length)
    assert pair.written() == (bytes(3) + CONTENTS[7 : 7 + length] if length else b"")


@pytest.mark.parametrize("refusal", NOT_POSSIBLE)
@pytest.mark.parametrize("after", [0, 1])
def test_a_copy_goes_on_through_memory_where_the_kernel_refuses(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, refusal: int, after: int
) -> None:
    real, calls = os.copy_file_range, []

    def some_then_refuse(source: int, target: int, count: int, low: int, high: int) -> int:
        calls.append(count)
        if len(calls) > after:
            raise OSError(refusal, os.strerror(refusal))
        return real(source, target, 5000, low, high)

    monkeypatch.setattr(os, "copy_file_range", some_then_refuse)
    transfer.copy(pair.source, 0, pair.target, 0, len(CONTENTS))
    assert pair.written() == CONTENTS


def test_a_kernel_that_copies_nothing_is_not_asked_for_ever(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_arguments: 0)  # so do some file systems of the kernel's own
    transfer.copy(pair.source, 0, pair.target, 0, len(CONTENTS))
    assert pair.written() == CONTENTS


@pytest.mark.parametrize("kernel", [True, False], ids=["in-the-kernel", "through-memory"])
def test_a_source_that_ends_early_is_an_error(pair: Pair, kernel: bool) -> None:
    with (
        failing(None if kernel else 0, Way.FULL, error=errno.EXDEV, calls=["copy_file_range"]),
        pytest.raises(OSError, match="ends early") as caught,
    ):
        transfer.copy(pair.source, 0, pair.target, 0, len(CONTENTS) + 1)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_error_of_the_copy_is_no_reason_to_try_another_way(pair: Pair, error: int) -> None:
    with failing(0, error=error, calls=["copy_file_range"]), pytest.raises(OSError) as caught:
        transfer.copy(pair.source, 0, pair.target, 0, 100)
    assert caught.value.errno == error


COPY_CALLS = ("copy_file_range", "preadv", "pwrite")


@pytest.mark.parametrize("way", [Way.RAISE, Way.SHORT, Way.TORN, Way.FULL])
@pytest.mark.parametrize("kernel", [True, False], ids=["in-the-kernel", "through-memory"])
def test_whichever_call_fails_the_copy_is_whole_or_an_error(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, way: Way, kernel: bool
) -> None:
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", lambda *_arguments: 0)
    calls = [name for name in COPY_CALLS if kernel or name != "copy_file_range"]
    after, struck = 0, True
    while struck:
        os.ftruncate(pair.target, 0)
        with failing(after, way, calls=calls) as tally:
            try:
                transfer.copy(pair.source, 0, pair.target, 0, len(CONTENTS))
            except OSError as error:
                assert way is not Way.SHORT
                assert error.errno == errno.EIO  # noqa: PT017  (no error is right as well)
            else:
                assert way is Way.SHORT or not tally.struck
                assert pair.written() == CONTENTS
        after, struck = after + 1, tally.struck is not None
    assert after >= (2 if kernel else 7)


# -- reading and writing --------------------------------------------------------------------------


def test_reading_into_a_buffer_says_how_much_there_was(pair: Pair) -> None:
    buffer = memoryview(bytearray(b"." * 100))
    assert transfer.read_into(pair.source, 50, buffer) == 100
    assert buffer == CONTENTS[50:150]
    assert transfer.read_into(pair.source, len(CONTENTS) - 30, buffer) == 30
    assert transfer.read_into(pair.source, len(CONTENTS) + 30, buffer) == 0
    assert transfer.read_into(pair.source, 0, buffer[:0]) == 0


@given(st.integers(0, 5), st.integers(1, 300))
def test_writing_all_of_it_whatever_the_kernel_takes_at_once(after: int, most: int) -> None:
    fd = os.memfd_create("target")
    real = os.pwrite
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, memoryview(data)[:most], offset))
            transfer.write_all(fd, after, CONTENTS[:1000])
        assert os.pread(fd, 2000, 0) == bytes(after) + CONTENTS[:1000]
    finally:
        os.close(fd)


# -- holes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(0, 4096), (1, 9000), (4096, 8192), (100, 0), (500_000, 200_000)])
@pytest.mark.parametrize("possible", [True, False], ids=["punched", "written"])
def test_a_punched_range_reads_as_zeros_and_nothing_else_changes(
    pair: Pair, offset: int, length: int, possible: bool
) -> None:
    os.pwrite(pair.target, CONTENTS, 0)
    with failing(None if possible else 0, error=errno.EOPNOTSUPP, calls=["ioctl"]):
        transfer.punch(pair.target, offset, length)
    end = min(offset + length, len(CONTENTS))
    expected = CONTENTS[:offset] + bytes(end - offset) + CONTENTS[end:]
    assert pair.written()[: len(CONTENTS)] == expected
    assert not any(pair.written()[len(CONTENTS) :])


def test_punching_gives_blocks_back_and_keeps_the_length(pair: Pair) -> None:
    os.pwrite(pair.target, CONTENTS, 0)
    os.fsync(pair.target)
    before = allocated_bytes(pair.target)
    transfer.punch(pair.target, 0, 65536 * 4)
    assert os.fstat(pair.target).st_size == len(CONTENTS)
    assert allocated_bytes(pair.target) <= before - 65536 * 4 + 65536


def test_a_device_is_asked_to_zero_the_range(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    device = os.stat_result((stat.S_IFBLK, *[0] * 9))
    monkeypatch.setattr(os, "fstat", lambda _fd: device)
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: asked.append(call))
    transfer.punch(pair.target, 4096, 512)
    assert asked == [(pair.target, 0x127F, struct.pack("QQ", 4096, 512))]


def test_an_error_while_punching_is_not_hidden_by_writing(pair: Pair) -> None:
    with failing(0, error=errno.EIO, calls=["ioctl"]), pytest.raises(OSError, match="Input/output"):
        transfer.punch(pair.target, 0, 4096)


def test_real_zeros_over_several_chunks(pair: Pair) -> None:
    os.pwrite(pair.target, CONTENTS, 0)
    transfer.write_zeros(pair.target, 10, 2 * CHUNK_BYTES + 5)
    end = 10 + 2 * CHUNK_BYTES + 5
    assert pair.written() == CONTENTS[:10] + bytes(end - 10) + CONTENTS[end:]


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY])
def test_no_reflink_is_no_error_where_there_is_none(pair: Pair, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refuse(*_arguments: int) -> int:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert not transfer.reflink(pair.source, pair.target)
    assert pair.written() == b""


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_reflink_that_fails_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fail(*_arguments: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(OSError) as caught:
        transfer.reflink(pair.source, pair.target)
    assert caught.value.errno == error


# -- zeros ----------------------------------------------------------------------------------------

# Pages of a few kinds: zeros, data, data at one end only; and rests that are no whole page.
_pages = st.sampled_from(
    [bytes(PAGE_BYTES), b"x" * PAGE_BYTES, b"x" + bytes(PAGE_BYTES - 1), bytes(PAGE_BYTES - 1) + b"x"]
)
_rests = st.integers(0, PAGE_BYTES - 1).flatmap(
    lambda size: st.sampled_from([bytes(size), b"x" * size, bytes(size)[:-1] + b"x" if size else b""])
)


@given(st.lists(_pages, max_size=9), _rests, st.integers(0, 2 * PAGE_BYTES))
def test_the_spans_are_the_pages_that_are_not_zero(pages: list[bytes], rest: bytes, spare: int) -> None:
    contents = b"".join(pages) + rest
    buffer = bytearray(contents + b"y" * spare)
    in_spans: set[int] = set()
    position = 0
    for start, end in transfer.nonzero_spans(buffer, len(contents)):
        assert position <= start < end <= len(contents)
        in_spans.update(range(start, end))
        position = end
    for page in range(0, len(contents), PAGE_BYTES):
        part = contents[page : page + PAGE_BYTES]
        covered = {offset in in_spans for offset in range(page, page + len(part))}
        assert covered == {any(part)}


@given(st.binary(max_size=300))
def test_zero_means_every_byte(data: bytes) -> None:
    assert transfer.is_zero(data) == (not any(data))
    assert transfer.is_zero(bytearray(data)) == (not any(data))


def test_a_whole_chunk_of_zeros_but_for_its_last_byte() -> None:
    assert transfer.is_zero(bytes(CHUNK_BYTES))
    assert not transfer.is_zero(bytes(CHUNK_BYTES - 1) + b"x")
