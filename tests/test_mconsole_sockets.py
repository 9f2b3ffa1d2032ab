"""Whose sockets an mconsole client uses, and to whom it opens its own."""

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.kit.mconsole_peer import Peer, answers, console, datagrams, left_behind, pieces
from tests.kit.peers import needs
from umldisk.errors import CannotCreateError, NoInputError, StorageError, UmldiskError
from umldisk.guest.mconsole import client as client_module
from umldisk.guest.mconsole.client import Mconsole


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
