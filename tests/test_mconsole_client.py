"""The client of mconsole against guests that answer, lie, stop half-way, say nothing or say too much."""

import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.mconsole_peer import (
    SHORT_SECONDS,
    AnsweredByAStranger,
    AnswersLate,
    Behaviour,
    Peer,
    answers,
    answers_twice,
    closes,
    console,
    datagrams,
    drips,
    left_behind,
    never_ends,
    packet,
    pieces,
    sends,
    stays_silent,
)
from umldisk.errors import DataError, StorageError, UsageError
from umldisk.guest.mconsole import client as client_module
from umldisk.guest.mconsole.client import Mconsole, NoAnswerError, Refused
from umldisk.guest.mconsole.packets import Assembly, Reply


def test_a_command_is_answered_and_no_socket_stays(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("Linux test 6.1\n")) as peer:
        assert console(peer).send("version") == "Linux test 6.1"
    assert peer.requests == [struct.pack("=III", 0xCAFEBABE, 2, 7) + b"version"]
    assert left_behind(uml_dir) == []


@pytest.mark.parametrize("piece_bytes", [1, 3, 100, 511])
def test_pieces_are_joined_whatever_they_cut(uml_dir: Path, piece_bytes: int) -> None:
    text = "größer – 表\n" * 6
    with Peer(uml_dir, answers(text, piece_bytes=piece_bytes)) as peer:
        assert console(peer).send("proc version") == text.strip("\n")


def test_line_breaks_around_an_answer_go_and_those_in_it_stay(uml_dir: Path) -> None:
    with Peer(uml_dir, sends(packet(b"\n", more=True), packet(b"a\n\nb\n", more=True), packet(b""))) as peer:
        assert console(peer).send("proc stat") == "a\n\nb"


def test_an_error_is_raised_with_the_guests_words(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("Already stopped", error=1)) as peer, pytest.raises(Refused) as caught:
        console(peer).send("stop")
    assert str(caught.value).startswith("mconsole refused stop: Already stopped")
    assert (caught.value.answer, caught.value.code) == ("Already stopped", 1)
    assert isinstance(caught.value, StorageError)
    with Peer(uml_dir, answers("", error=-19)) as peer, pytest.raises(Refused, match="remove ubd1: error -19"):
        console(peer).send("remove ubd1")


def test_a_command_that_is_not_known_is_not_sent_but_raw(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("shutting down")) as peer:
        with pytest.raises(UsageError, match="no such mconsole command"):
            console(peer).send("cad2")
        assert console(peer).send("cad2", raw=True) == "shutting down"
    assert peer.commands == [b"cad2"]


# -- who sends what ---------------------------------------------------------------------------------------------------


def test_many_threads_get_each_its_own_answer(uml_dir: Path) -> None:
    with Peer(uml_dir, answers(lambda command: command * 20)) as peer, ThreadPoolExecutor(8) as threads:
        shared = console(peer)
        commands = [f"stack {number}" for number in range(1, 81)]
        assert list(threads.map(shared.send, commands)) == [command * 20 for command in commands]
    assert len(set(peer.addresses)) == 80
    assert left_behind(uml_dir) == []


def test_what_comes_after_the_end_is_for_nobody(uml_dir: Path) -> None:
    with Peer(uml_dir, answers_twice) as peer:
        shared = console(peer)
        assert [shared.send(command) for command in ("version", "help", "go")] == ["version", "help", "go"]


def test_a_late_answer_is_for_nobody(uml_dir: Path) -> None:
    behaviour = AnswersLate()
    with Peer(uml_dir, behaviour) as peer:
        shared = console(peer)
        with pytest.raises(NoAnswerError):
            shared.send("version", timeout_seconds=SHORT_SECONDS)
        behaviour.now.set()
        assert shared.send("help") == "help"
        assert behaviour.gone.is_set()


def test_nobody_else_can_answer(uml_dir: Path) -> None:
    behaviour = AnsweredByAStranger()
    with Peer(uml_dir, behaviour) as peer:
        assert console(peer).send("version") == "version"
    assert isinstance(behaviour.refusal, PermissionError)


def test_nobody_is_let_in_before_the_guest_is_asked(uml_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bind, refusals = client_module._bind, []

    def bind_and_intrude(client: socket.socket, path: str) -> None:
        bind(client, path)
        with datagrams() as stranger, contextlib.suppress(PermissionError):
            stranger.sendto(packet(b"forged"), path)
            return
        refusals.append(path)

    monkeypatch.setattr(client_module, "_bind", bind_and_intrude)
    with Peer(uml_dir, answers("x")) as peer:
        assert console(peer).send("version") == "x"
    assert refusals == peer.addresses


def test_an_answer_longer_than_the_queue_of_a_socket_comes_whole(
    uml_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer sends without waiting, and all of it before the client looks at the first packet."""
    all_sent, gone_off = threading.Event(), []
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    packets = [packet(b"%d." % number, more=True) for number in range(2 * limit + 20)] + [packet(b"end")]

    class _Waits(Assembly):
        def add(self, packet: bytes) -> Reply | None:
            assert all_sent.wait(30)
            return super().add(packet)

    def behave(peer: Peer, _command: bytes, address: str) -> None:
        gone_off.append(peer.reply(packets, address))
        all_sent.set()

    monkeypatch.setattr(client_module, "Assembly", _Waits)
    with Peer(uml_dir, behave) as peer:
        text = console(peer).send("sysrq m")
    assert gone_off == [len(packets)]
    assert text == "".join(f"{number}." for number in range(len(packets) - 1)) + "end"


# -- lies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ([b""], "length of a packet"),
        ([b"\0" * 7], "length of a packet"),
        ([struct.pack("=iII", 0, 0, 1000) + b"short\0"], "expected 6, the bytes that follow, found 1000"),
        ([struct.pack("=iII", 0, 0, 2) + b"longer\0"], "expected 7, the bytes that follow, found 2"),
        ([struct.pack("=iII", 0, 7, 1) + b"\0"], "more"),
        ([packet(b"x" * 512)], "length"),
        ([packet(b"x" * 60000)], "length"),
        ([packet(b"good", more=True), b"bad"], "length of a packet"),
        ([struct.pack("=III", 0xCAFEBABE, 2, 7) + b"version"], "mconsole answers nonsense"),
    ],
)
def test_a_lie_is_bad_data(uml_dir: Path, packets: list[bytes], message: str) -> None:
    with Peer(uml_dir, sends(*packets)) as peer, pytest.raises(DataError, match=message) as caught:
        console(peer).send("version")
    assert caught.value.where == str(peer.path)
    assert left_behind(uml_dir) == []


def test_a_flood_is_cut_off(uml_dir: Path) -> None:
    with Peer(uml_dir, never_ends) as peer, pytest.raises(DataError, match="without end"):
        console(peer).send("proc kcore", raw=True)
    assert left_behind(uml_dir) == []


# -- silence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [stays_silent, closes])
def test_silence_ends_at_the_deadline(uml_dir: Path, behaviour: Behaviour) -> None:
    with Peer(uml_dir, behaviour) as peer:
        begun = time.monotonic()
        with pytest.raises(NoAnswerError, match=r"does not answer within 0\.2 s, asked for go") as caught:
            console(peer).send("go", timeout_seconds=SHORT_SECONDS)
        assert time.monotonic() - begun >= SHORT_SECONDS
    assert caught.value.partial == ""
    assert caught.value.exit_code == 74
    assert left_behind(uml_dir) == []


def test_an_answer_whose_end_is_lost_says_so_and_keeps_what_came(uml_dir: Path) -> None:
    behaviour = sends(*pieces(b"begin" * 300)[:-1])
    with Peer(uml_dir, behaviour) as peer, pytest.raises(NoAnswerError, match="cut off") as caught:
        console(peer).send("sysrq m", timeout_seconds=SHORT_SECONDS)
    assert caught.value.partial == ("begin" * 300)[:1022]


def test_the_deadline_is_for_the_whole_answer(uml_dir: Path) -> None:
    with Peer(uml_dir, drips) as peer, pytest.raises(NoAnswerError, match="cut off") as caught:
        console(peer).send("stack 1", timeout_seconds=SHORT_SECONDS)
    assert set(caught.value.partial) == {"."}


def test_a_guest_that_takes_no_request_ends_at_the_deadline(uml_dir: Path) -> None:
    (uml_dir / "test").mkdir()
    path = str(uml_dir / "test/mconsole")
    with datagrams() as frozen, datagrams() as other:
        frozen.bind(path)
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while other.sendto(b"x", path):
                pass
        with pytest.raises(NoAnswerError):
            Mconsole(path).send("version", timeout_seconds=SHORT_SECONDS)
    assert left_behind(uml_dir) == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_timeout_is_a_time(uml_dir: Path, seconds: float) -> None:
    with pytest.raises(UsageError, match="not a timeout"):
        Mconsole(str(uml_dir / "test/mconsole"), timeout_seconds=seconds)
    with Peer(uml_dir, answers("x")) as peer, pytest.raises(UsageError, match="not a timeout"):
        console(peer).send("version", timeout_seconds=seconds)
    assert peer.commands == []
