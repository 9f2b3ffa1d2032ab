"""The client of mconsole against real kernels: as they are started in tests, in a jail, and as another user."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.guest import ScriptGuest
from tests.kit.peers import needs
from umldisk.errors import NoInputError
from umldisk.guest.mconsole.client import Mconsole, NoAnswerError, Refused
from umldisk.guest.mconsole.commands import COMMANDS, PROC_FILES

pytestmark = [needs("linux", "setarch", "busybox", "mke2fs"), pytest.mark.slow]

_UID = 61_236
_WAIT_SECONDS = 60.0
_WAITS = """\
echo 7 >/proc/sys/kernel/printk
mount -t tmpfs none /mnt
echo script-is-ready
read line
echo script-goes-on
"""
_JAIL = (
    *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp"),
    *("--tmpfs", "/dev/shm", "--proc", "/proc"),
)


class _OtherUsers(ScriptGuest):
    def __init__(self, script: str) -> None:
        super().__init__(script)
        self._uid = _UID


class _Jailed(ScriptGuest):
    """In namespaces of its own, network included; of /tmp it sees its directory alone."""

    def _prepare(self) -> None:
        super()._prepare()
        place = str(self.directory)
        self.argv = [*_JAIL, "--bind", place, place, "--chdir", place, "--", *self.argv]


def ready(guest: ScriptGuest) -> Mconsole:
    guest.wait_for("script-is-ready")
    return Mconsole(str(guest.directory / guest.umid / "mconsole"), timeout_seconds=_WAIT_SECONDS)


def sockets(guest: ScriptGuest) -> list[str]:
    return [path.name for path in guest.directory.iterdir() if path.is_socket()]


@pytest.fixture(scope="module")
def guest() -> Iterator[ScriptGuest]:
    with ScriptGuest(_WAITS) as guest:
        guest.wait_for("script-is-ready")
        yield guest


@pytest.fixture
def console(guest: ScriptGuest) -> Mconsole:
    return Mconsole(str(guest.directory / guest.umid / "mconsole"), timeout_seconds=_WAIT_SECONDS)


def test_a_kernel_says_who_it_is(guest: ScriptGuest, console: Mconsole) -> None:
    assert re.match(r"Linux \S+ \d+\.\d+", console.send("version"))
    assert sockets(guest) == []


def test_a_kernel_knows_all_our_commands(console: Mconsole) -> None:
    told = set(re.findall(r"^ {4}(\w+)", console.send("help"), re.MULTILINE))
    assert told == set(COMMANDS)


def test_a_kernel_matches_by_the_beginning(console: Mconsole) -> None:
    assert console.send("versions", raw=True) == console.send("version")


def test_devices_are_asked_for_and_refused(console: Mconsole) -> None:
    assert console.send("config con0").startswith("fd:0")
    with pytest.raises(Refused, match="mconsole refused config eth9"):
        console.send("config eth9")
    with pytest.raises(Refused) as caught:
        console.send("remove ubd7")
    assert (caught.value.code, caught.value.answer) == (-19, "Device doesn't exist")


def test_a_disk_is_plugged_in_and_out(guest: ScriptGuest, console: Mconsole) -> None:
    disk = guest.directory / "disk with ünïcode"
    disk.write_bytes(bytes(1 << 20))
    console.send(f"config ubd5={disk}")
    assert console.send("config ubd5") == str(disk)
    assert "ubdf" in console.send("proc partitions")
    console.send("remove ubd5")
    assert "ubdf" not in console.send("proc partitions")


@pytest.mark.parametrize("name", sorted(PROC_FILES))
def test_each_file_of_proc_is_answered(console: Mconsole, name: str) -> None:
    """Kernels differ in what they have: a file that is missing is refused. None is without end."""
    with contextlib.suppress(Refused):
        console.send(f"proc {name}")
    assert console.send("version")


def test_a_file_of_several_packets_comes_whole(console: Mconsole) -> None:
    lines = console.send("proc meminfo").splitlines()
    assert lines[0].startswith("MemTotal:")
    assert all(re.fullmatch(r"\S+: +\d+( kB)?", line) for line in lines)
    assert len("\n".join(lines)) > 512


_NO_TRACE = "Received SIGSEGV in SIGSEGV handler, aborting stack trace!"
"""What UML 6.1 says at times of a task that runs again while its stack is looked at."""


def test_answers_of_many_packets_come_whole_each_time(guest: ScriptGuest, console: Mconsole) -> None:
    stacks = []
    for _ in range(20):
        assert console.send("sysrq m").splitlines()[-1].endswith("pages reserved")
        stacks.append(console.send("stack 1"))
    traced = [text for text in stacks if _NO_TRACE not in text]
    assert len(traced) > 10
    assert all("Call Trace:" in text for text in traced)


def test_a_line_is_logged(guest: ScriptGuest, console: Mconsole) -> None:
    """The kernel shows it when the next message comes, because the text has no line break."""
    console.send("log said by the host – ünïcode")
    console.send("log and more")
    guest.wait_for("said by the host – ünïcode")


@pytest.mark.parametrize("letter", ["h", "s", "j", "m", "0", "9", "7"])
def test_letters_that_change_no_process_leave_the_guest_running(console: Mconsole, letter: str) -> None:
    console.send(f"sysrq {letter}")
    assert console.send("version")


def test_a_guest_is_frozen_and_goes_on(console: Mconsole) -> None:
    assert console.send("stop") == "stopped"
    assert console.send("version")
    with pytest.raises(Refused, match="Already stopped"):
        console.send("stop")
    assert console.send("go") == ""
    with pytest.raises(Refused, match="Not stopped"):
        console.send("go")


@needs("bwrap")
def test_a_jailed_guest_answers_from_its_own_network() -> None:
    with _Jailed(_WAITS) as guest:
        assert ready(guest).send("sysrq m").splitlines()[-1].endswith("pages reserved")
        assert sockets(guest) == []
        guest.send("go\n")
        guest.wait_for("script-goes-on")


@needs("root")
def test_another_users_guest_answers_root() -> None:
    with _OtherUsers(_WAITS) as guest:
        guest.wait_for("script-is-ready")
        path = str(guest.directory / guest.umid / "mconsole")
        before = os.umask(0o077)
        try:
            assert Mconsole(path, owner_uid=_UID, timeout_seconds=_WAIT_SECONDS).send("stop") == "stopped"
        finally:
            os.umask(before)
        with pytest.raises(NoInputError, match="not the guest's"):
            Mconsole(path, owner_uid=_UID + 1).send("go")
        assert sockets(guest) == []


@pytest.mark.parametrize("command", ["halt", "sysrq o"])
def test_a_guest_that_is_halted_is_no_longer_there(command: str) -> None:
    with ScriptGuest(_WAITS) as guest:
        console = ready(guest)
        console.send(command)
        guest.wait_exit()
        with pytest.raises(NoInputError, match="no guest listens here"):
            console.send("version")


@pytest.mark.parametrize("command", ["reboot", "sysrq b"])
def test_a_guest_that_is_restarted_is_there_again(command: str) -> None:
    with ScriptGuest(_WAITS) as guest:
        console = ready(guest)
        console.send(command)
        guest.wait_for("script-is-ready")
        assert console.send("version")


@pytest.mark.parametrize("letter", ["e", "i"])
def test_all_processes_but_init_end(letter: str) -> None:
    with ScriptGuest(_WAITS) as guest:
        ready(guest).send(f"sysrq {letter}")
        guest.wait_exit()
        assert "script-goes-on" not in guest.console


def test_file_systems_become_read_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    script = (
        "mke2fs -q /dev/ubda && mount -t ext2 /dev/ubda /mnt && touch /mnt/a && echo script-is-ready\n"
        "read line\n"
        "while touch /mnt/b; do sleep 0.1; done\n"
        "echo now-read-only\n"
    )
    with ScriptGuest(script, [disk]) as guest:
        console = ready(guest)
        console.send("sysrq u")
        guest.send("go\n")
        guest.wait_for("now-read-only")


def test_a_panic_cuts_an_answer_off_and_the_guest_is_gone() -> None:
    with ScriptGuest(_WAITS) as guest:
        console = ready(guest)
        with pytest.raises(NoAnswerError, match="cut off") as caught:
            console.send("sysrq t", raw=True, timeout_seconds=5)
        assert caught.value.partial.startswith("sysrq: Show State")
        assert guest.wait_exit() == -signal.SIGABRT
        with pytest.raises(NoInputError, match="the guest is gone"):
            console.send("version")


def test_a_suspended_kernel_is_given_up_at_the_deadline() -> None:
    with ScriptGuest(_WAITS) as guest:
        console = ready(guest)
        os.killpg(guest.pid, signal.SIGSTOP)
        with pytest.raises(NoAnswerError, match=r"does not answer within 0\.5 s"):
            console.send("version", timeout_seconds=0.5)
        os.killpg(guest.pid, signal.SIGCONT)
        assert console.send("help").startswith("Commands:")
