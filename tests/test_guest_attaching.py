"""A terminal on a console: whatever happens to the transcript meanwhile, to the terminal, to the guest."""

import os
import pty
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import NoInputError
from umldisk.guest.attaching import LEAVE, Attachment
from umldisk.guest.console_log import FILES, ConsoleLog, Place, transcript_end
from umldisk.guest.rundir import CONSOLE_IN

LOG_BYTES = 100


@dataclass
class Recorder:
    """A supervisor that lives for so many looks."""

    looks: int = 0

    def is_alive(self) -> bool:
        self.looks -= 1
        return self.looks >= 0

    def wait(self, _timeout_seconds: float) -> bool:
        return False


class Console:
    """A transcript with small files, a screen that is a pipe, and the FIFO for the keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = ConsoleLog(str(directory), log_bytes=LOG_BYTES)
        os.mkfifo(directory / CONSOLE_IN)
        self.keys = os.open(directory / CONSOLE_IN, os.O_RDWR | os.O_NONBLOCK)
        self.reader, self.screen = os.pipe()

    def attach(self, *, looks: int = 0, since: Place = Place()) -> Attachment:  # noqa: B008  (a frozen value)
        state: Any = SimpleNamespace(supervisor=Recorder(looks))
        return Attachment(str(self.directory), state, since=since)

    def shown(self) -> bytes:
        os.close(self.screen)
        self.screen = os.open(os.devnull, os.O_WRONLY)
        with os.fdopen(os.dup(self.reader), "rb") as reader:
            return reader.read()

    def close(self) -> None:
        self.log.close()
        for fd in (self.keys, self.reader, self.screen):
            os.close(fd)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    console = Console(tmp_path)
    yield console
    console.close()


@given(pieces=st.lists(st.binary(min_size=1, max_size=90), max_size=40), looks=st.lists(st.integers(0, 40), max_size=5))
def test_nothing_is_lost_by_rotation_and_nothing_twice(
    pieces: list[bytes], looks: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    console = Console(tmp_path_factory.mktemp("run"))
    console.log.write(b"of the run before\n")
    with console.attach(since=transcript_end(str(console.directory))) as attachment:
        unseen = 0
        for number, piece in enumerate(pieces):
            if number in looks or unseen + len(piece) > (FILES - 1) * LOG_BYTES:
                assert attachment.relay(None, console.screen)
                unseen = 0
            console.log.write(piece)
            unseen += len(piece)
        assert attachment.relay(None, console.screen)
        assert console.shown() == b"".join(pieces)
    console.close()


def test_what_is_written_just_before_a_rotation_is_shown(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    read = os.read
    late = [b"late" * 30, b"new"]

    def read_and_go_on(fd: int, most_bytes: int) -> bytes:
        piece = read(fd, most_bytes)
        if not piece:  # the end was seen, and only now it goes on
            while late:
                console.log.write(late.pop(0))
        return piece

    console.log.write(b"first")
    with console.attach() as attachment:
        monkeypatch.setattr(os, "read", read_and_go_on)
        assert attachment.relay(None, console.screen)
    assert console.shown() == b"first" + b"late" * 30 + b"new"


def test_a_screen_that_is_too_slow_is_told_so(console: Console) -> None:
    console.log.write(b"first\n")
    with console.attach() as attachment:
        for number in range(50):
            console.log.write(f"line {number:50}\n".encode())
        assert attachment.relay(None, console.screen)
    shown = console.shown()
    assert shown.startswith(b"first\n")
    assert b"some of it is left out" in shown
    assert shown.endswith(b" 49\n")


def test_a_place_in_a_file_that_is_older_by_now(console: Console) -> None:
    console.log.write(b"before\n")
    since = transcript_end(str(console.directory))
    for _ in range(3):
        console.log.write(b"x" * LOG_BYTES)
    with console.attach(since=since) as attachment:
        assert attachment.relay(None, console.screen)
    assert console.shown() == b"x" * 3 * LOG_BYTES


def test_what_was_typed_before_leaving_is_typed(console: Console) -> None:
    reader, keyboard = os.pipe()
    os.write(keyboard, b"poweroff\n" + LEAVE + b"not this")
    with console.attach(looks=5) as attachment:
        assert not attachment.relay(reader, console.screen)
    assert os.read(console.keys, 100) == b"poweroff\n"
    os.close(reader)
    os.close(keyboard)


def test_a_keyboard_that_ends_leaves_the_screen(console: Console) -> None:
    keyboard = os.open(os.devnull, os.O_RDONLY)
    console.log.write(b"goes on")
    with console.attach(looks=3) as attachment:
        assert attachment.relay(keyboard, console.screen)
    os.close(keyboard)
    assert console.shown() == b"goes on"


def test_a_terminal_that_hung_up_is_a_keyboard_that_ended(console: Console) -> None:
    ours, theirs = pty.openpty()
    os.close(ours)
    with console.attach(looks=3) as attachment:
        assert attachment.relay(theirs, console.screen)
    os.close(theirs)


def test_a_guest_that_has_just_ended_takes_no_keys(console: Console) -> None:
    reader, keyboard = os.pipe()
    os.write(keyboard, b"x")
    with console.attach(looks=1) as attachment:
        os.close(console.keys)
        console.keys = os.open(os.devnull, os.O_RDONLY)
        assert attachment.relay(reader, console.screen)
    os.close(reader)
    os.close(keyboard)


def test_a_screen_that_is_gone_is_an_error(console: Console) -> None:
    console.log.write(b"x")
    os.close(console.reader)
    console.reader = os.open(os.devnull, os.O_RDONLY)
    with console.attach(looks=3) as attachment, pytest.raises(BrokenPipeError):
        attachment.relay(None, console.screen)


def test_a_screen_that_does_not_wait_is_waited_for(console: Console) -> None:
    os.set_blocking(console.screen, False)
    while True:
        try:
            os.write(console.screen, b"-" * 4096)
        except BlockingIOError:
            break
    pieces: list[bytes] = []
    reader = threading.Thread(target=lambda: pieces.extend(iter(lambda: os.read(console.reader, 1 << 16), b"")))
    console.log.write(b"text")
    with console.attach() as attachment:
        reader.start()
        assert attachment.relay(None, console.screen)
    os.close(console.screen)
    reader.join()
    console.screen = os.open(os.devnull, os.O_WRONLY)
    assert b"".join(pieces).endswith(b"-text")


def test_a_guest_without_a_console(console: Console) -> None:
    os.unlink(console.directory / CONSOLE_IN)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NoInputError, match="no console"):
        console.attach()
    assert os.listdir("/proc/self/fd") == before
