"""The transcript of a console: rotated, bounded, and never in the way of whoever writes it."""

import errno
import itertools
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import StorageError
from umldisk.guest.console_log import ConsoleLog, MarkerWatch, last_lines, transcript_end


def _newest_to_oldest(directory: Path) -> list[Path]:
    number = lambda path: int(path.suffix[1:]) if path.suffix[1:].isdecimal() else 0  # noqa: E731
    return sorted(directory.glob("console.log*"), key=number)


@given(
    pieces=st.lists(st.binary(max_size=50), max_size=30),
    log_bytes=st.integers(1, 40),
    files=st.integers(2, 4),
)
def test_the_newest_bytes_are_kept_and_no_more_than_allowed(
    pieces: list[bytes], log_bytes: int, files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = ConsoleLog(str(directory), log_bytes=log_bytes, files=files)
    for piece in pieces:
        log.write(piece)
    log.close()
    found = _newest_to_oldest(directory)
    kept = b"".join(path.read_bytes() for path in reversed(found))
    stream = b"".join(pieces)
    assert stream.endswith(kept)
    assert len(found) <= files
    # A piece is not torn between files unless it is longer than one, hence twice the size.
    assert all(path.stat().st_size <= 2 * log_bytes for path in found)
    if len(found) < files:
        assert kept == stream


def test_a_new_run_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = ConsoleLog(str(tmp_path))
        log.write(text)
        log.close()
    assert (tmp_path / "console.log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_symlink_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "console.log").symlink_to("victim")
    with pytest.raises(StorageError):
        ConsoleLog(str(tmp_path))
    assert (tmp_path / "victim").read_bytes() == b"precious"


@contextmanager
def _no_file_longer_than(length: int) -> Iterator[None]:
    """Let writes beyond fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_a_full_disk_loses_is_told_later(tmp_path: Path) -> None:
    log = ConsoleLog(str(tmp_path))
    log.write(b"before\n")
    with _no_file_longer_than(7):
        log.write(b"x" * 100)
        log.write(b"y" * 23)
    log.write(b"after\n")
    log.close()
    text = (tmp_path / "console.log").read_bytes()
    assert text == b"before\n\n[123 bytes of the console were lost]\nafter\n"


def test_no_room_for_another_file_costs_nothing_of_the_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ConsoleLog(str(tmp_path), log_bytes=10)
    for number in range(4):
        log.write(f"file {number}".encode().ljust(10, b"."))
    real, is_full = os.open, True

    def no_new_file(path: str, flags: int, *arguments: int, **options: int) -> int:
        if is_full and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", no_new_file)
    for _ in range(5):
        log.write(b"lost")
    assert [path.read_bytes()[:6] for path in _newest_to_oldest(tmp_path)] == [
        b"file 3",
        b"file 2",
        b"file 1",
        b"file 0",
    ]
    assert last_lines(str(tmp_path)) == ["file 3...."]
    is_full = False
    log.write(b"kept")
    log.close()
    newest, next_newest, *_ = _newest_to_oldest(tmp_path)
    assert newest.read_bytes() == b"\n[20 bytes of the console were lost]\nkept"
    assert next_newest.read_bytes() == b"file 3...."


@given(before=st.binary(max_size=20), after=st.binary(max_size=20), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_a_marker_is_seen_wherever_the_stream_is_cut(before: bytes, after: bytes, cuts: list[int]) -> None:
    marker = b"umldisk: blackdance is ready"
    stream = before + marker + after
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    watch = MarkerWatch(marker)
    assert sum(watch.saw(piece) for piece in pieces)


@given(stream=st.binary(max_size=80), size=st.integers(1, 9))
def test_a_marker_that_is_not_there_is_not_seen(stream: bytes, size: int) -> None:
    marker = b"abc"
    watch = MarkerWatch(marker)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert (sum(watch.saw(piece) for piece in pieces) > 0) == (marker in stream)


def test_the_last_lines_are_for_people(tmp_path: Path) -> None:
    assert last_lines(str(tmp_path)) == []
    text = "".join(f"line {number}\r\n\r\n" for number in range(3000))
    (tmp_path / "console.log").write_text(text)
    assert last_lines(str(tmp_path), most=2) == ["line 2998", "line 2999"]
    assert os.listdir(tmp_path) == ["console.log"]


@pytest.mark.parametrize("lines", [0, 1, 3, 4, 5, 30])
@pytest.mark.parametrize("before", [b"", b"of the run before"])
def test_the_last_lines_of_this_run_are_of_no_other(tmp_path: Path, before: bytes, lines: int) -> None:
    """Also when the file that it began in is older by now, or gone: three lines are more than one holds."""
    old = ConsoleLog(str(tmp_path), log_bytes=40)
    old.write(before)
    old.close()
    log = ConsoleLog(str(tmp_path), log_bytes=40)
    assert log.began == transcript_end(str(tmp_path))
    for number in range(lines):
        log.write(f"line {number:8}\n".encode())
    log.close()
    found = last_lines(str(tmp_path), since=log.began)
    assert found[-1:] == [f"line {number:8}" for number in range(lines)][-1:]
    assert all(line.startswith("line ") for line in found)


def test_the_last_lines_have_no_colours_and_keep_what_is_odd(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"[\x1b[32m ok \x1b[0;1m] \x1b[mdone\x1b[H\n\x1b[0m\n")
    assert last_lines(str(tmp_path)) == ["[ ok ] done\x1b[H"]
