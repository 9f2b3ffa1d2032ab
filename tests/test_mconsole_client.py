"""The client of mconsole against guests that answer, lie, stop half-way, say nothing or say too much."""

import contextlib
import os
import socket
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.mconsole_peer import (
    AnsweredByAStranger,
    AnswersLate,
    Behaviour,
    Peer,
    answers,
    answers_twice,
    closes,
    drips,
    never_ends,
    packet,
    pieces,
    sends,
    stays_silent,
)
from tests.kit.peers import needs
from umldisk.errors import CannotCreateError, DataError, NoInputError, StorageError, UmldiskError, UsageError
from umldisk.guest.mconsole import client as client_module
from umldisk.guest.mconsole.client import Mconsole, NoAnswerError, Refused
from umldisk.guest.mconsole.packets import Assembly, Reply

LONG_SECONDS = 60.0
SHORT_SECONDS = 0.2


@pytest.fixture
def uml_dir() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mc-", dir="/tmp") as directory:
        yield Path(directory)


def console(peer: Peer, *, timeout_seconds: float = LONG_SECONDS, owner_uid: int | None = None) -> Mconsole:
    return Mconsole(str(peer.path), timeout_seconds=timeout_seconds, owner_uid=owner_uid)


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def left_behind(uml_dir: Path) -> list[str]:
    return sorted(set(os.listdir(uml_dir)) - {"test"})


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


# -- whose sockets ----------------------------------------------------------------------------------------------------


def test_a_guest_that_ended_is_told_from_one_that_was_killed(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("x")) as peer:
        pass
    with pytest.raises(NoInputError, match="no guest listens here") as caught:
        console(peer).send("version")
    assert caught.value.hint
    with datagrams() as killed:
        killed.bind(str(peer.path))
    with pytest.raises(NoInputError, match="the guest is gone"):
        console(peer).send("version")
    assert left_behind(uml_dir) == []


def test_only_a_socket_itself_is_used(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("x"), umid="real") as peer:
        (uml_dir / "test").mkdir()
        path = uml_dir / "test/mconsole"
        path.symlink_to(peer.path)
        with pytest.raises(NoInputError, match=r"not an mconsole .*expected a socket, found lrwx"):
            Mconsole(str(path)).send("version")
        path.unlink()
        path.write_text("")
        with pytest.raises(NoInputError, match="expected a socket, found -rw"):
            Mconsole(str(path)).send("version")
        with pytest.raises(NoInputError, match="no guest listens here"):
            Mconsole(str(path / "mconsole")).send("version")
    assert peer.commands == []


def test_a_socket_of_another_kind_is_an_error(uml_dir: Path) -> None:
    (uml_dir / "test").mkdir()
    path = str(uml_dir / "test/mconsole")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(path)
        stream.listen()
        with pytest.raises(UmldiskError, match="connect to the guest's mconsole"):
            Mconsole(path).send("version")


def test_the_owner_must_be_the_one_that_is_expected(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("x")) as peer:
        assert console(peer, owner_uid=os.geteuid()).send("version") == "x"
        with pytest.raises(NoInputError, match=r"not the guest's .*expected owner 61234"):
            console(peer, owner_uid=61234).send("version")
    assert peer.commands == [b"version"]


def test_another_user_may_answer_whatever_the_umask(uml_dir: Path) -> None:
    modes = []

    def behave(peer: Peer, command: bytes, address: str) -> None:
        modes.append(stat.S_IMODE(os.stat(address).st_mode))
        peer.reply(pieces(command), address)

    before = os.umask(0o077)
    try:
        with Peer(uml_dir, behave) as peer:
            assert console(peer).send("go") == "go"
    finally:
        os.umask(before)
    assert modes == [0o666]


@pytest.mark.parametrize("kind", ["symlink", "file", "hardlink"])
def test_no_other_file_is_opened_to_the_world(uml_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The directory's owner puts something else in the place of our socket as soon as it is there."""
    victim = uml_dir / "test/victim"
    bind = client_module._bind

    def bind_and_lose(client: socket.socket, path: str) -> None:
        bind(client, path)
        os.unlink(path)
        if kind == "hardlink":
            os.link(uml_dir / "test/mconsole", path)
        elif kind == "file":
            os.link(victim, path)
        else:
            os.symlink(victim, path)

    with Peer(uml_dir, answers("x")) as peer:
        peer.path.chmod(0o700)
        victim.write_text("secret")
        victim.chmod(0o600)
        monkeypatch.setattr(client_module, "_bind", bind_and_lose)
        with pytest.raises(StorageError, match="somebody replaced the socket"):
            console(peer).send("version")
        assert stat.S_IMODE(victim.stat().st_mode) == 0o600
        assert stat.S_IMODE(peer.path.stat().st_mode) == 0o700
    assert peer.commands == []
    assert left_behind(uml_dir) == []


def test_answers_go_to_the_directory_that_is_named(uml_dir: Path) -> None:
    other = uml_dir / "test/answers"
    with Peer(uml_dir, answers("x")) as peer:
        other.mkdir()
        assert Mconsole(str(peer.path), reply_directory=str(other)).send("version") == "x"
        assert os.path.dirname(peer.addresses[0]) == str(other)
        with pytest.raises(CannotCreateError, match="No such file or directory"):
            Mconsole(str(peer.path), reply_directory=str(other / "missing")).send("version")
        long = other / ("x" * 90)
        long.mkdir()
        with pytest.raises(CannotCreateError, match=r"too long .*expected at most 107 bytes") as caught:
            Mconsole(str(peer.path), reply_directory=str(long)).send("version")
        assert "uml_dir" in (caught.value.hint or "")
    assert os.listdir(other) == [long.name]


def test_the_guests_own_path_may_be_longer_than_a_sockets(uml_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = uml_dir / "test" / ("d" * 120)
    deep.mkdir(parents=True)
    with Peer(uml_dir, answers("x"), umid="short") as peer:
        peer.path.rename(deep / "mconsole")
        assert Mconsole(str(deep / "mconsole"), reply_directory=str(uml_dir)).send("version") == "x"


@needs("root")
def test_another_users_guest_is_spoken_to_by_root_alone(uml_dir: Path) -> None:
    uid = 61_234
    with Peer(uml_dir, answers("x")) as peer:
        for path in (uml_dir, peer.path.parent, peer.path):
            os.chown(path, uid, uid)
        peer.path.chmod(0o755)
        assert console(peer, owner_uid=uid).send("version") == "x"
        uml_dir.chmod(0o711)
        os.seteuid(uid + 1)
        try:
            with pytest.raises(NoInputError, match="may not be used by this user"):
                console(peer).send("version")
        finally:
            os.seteuid(0)
