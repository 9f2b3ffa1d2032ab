"""The agent of real guests, on every init: it answers, runs commands, freezes, thaws, and thaws by itself."""

import contextlib
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.bases import debian_base
from tests.kit.guest import Guest
from tests.kit.peers import needs
from umldisk.config.settings import EMBEDDED_BASE, Init
from umldisk.config.site import Site
from umldisk.guest.agent import OUTPUT_BYTES, Agent, RefusedError
from umldisk.guest.agent_line import INPUT, OUTPUT
from umldisk.ops.provision import BuildOptions, BuildReport, build_guest

pytestmark = [
    needs("linux", "setarch", "mke2fs", "debugfs", "busybox"),
    pytest.mark.real,
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

_BOOT_SECONDS = 240.0
_ANSWER_SECONDS = 60.0
_GUARD_SECONDS = 300
"""So long that only a thaw ends a freeze."""
_TOML = """\
[guest.blackdance]
memory = "128M"
"""
_AGENT = """\
for p in /proc/[0-9]*; do
    read -r _ _ _ parent _ <$p/stat || continue
    case $(tr '\\0' ' ' <$p/cmdline) in
    *"sh /usr/local/sbin/host-agent ") [ "$parent" != 1 ] || echo ${p#/proc/} ;;
    esac
done 2>/dev/null
"""


@dataclass(frozen=True)
class _Running:
    """A guest, its agent, and what init it has."""

    guest: Guest
    agent: Agent
    init: str
    directory: Path

    def run(self, command: str, *, timeout_seconds: float = 60.0) -> str:
        """Run a command, which must succeed."""
        found = self.agent.run(command, timeout_seconds)
        assert found.status == 0, found
        return found.output.decode()

    def wait_for(self, command: str) -> None:
        """Wait until a command succeeds."""
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self.agent.run(command, 60).status != 0:
            assert time.monotonic() < deadline, f"{command} never succeeded"
            time.sleep(0.1)

    def type(self, command: str) -> None:
        """Run a command on the console."""
        self.guest.send("\n")
        self.guest.run(command, timeout=_ANSWER_SECONDS)

    def write_aside(self, file: str, mark: str) -> str:
        """Start a process that writes `file`, then makes `mark`; return its PID."""
        script = f"echo $$; exec >/dev/null 2>&1; echo written >{file}; echo done >{mark}"
        # It has left the command's session when it has closed the output.
        return self.run(f"echo $(setsid sh -c {shlex.quote(script)} &)").strip()

    def wait_blocked(self, pid: str) -> None:
        """Wait until a process can do nothing but wait."""
        self.wait_for(f"read -r _ _ state _ </proc/{pid}/stat && [ $state = D ]")


@contextlib.contextmanager
def _boot(report: BuildReport, run_directory: Path) -> Iterator[Guest]:
    with contextlib.ExitStack() as opened:
        numbers = []
        for name in (INPUT, OUTPUT):
            os.mkfifo(run_directory / name, 0o600)
            numbers.append(os.open(run_directory / name, os.O_RDWR))
            opened.callback(os.close, numbers[-1])
        line = f"ssl0=fd:{numbers[0]},fd:{numbers[1]}"
        with Guest([*report.boot_argv, line], pass_fds=numbers) as guest:
            guest.wait_ready(timeout=_BOOT_SECONDS)
            yield guest


@pytest.fixture(scope="module", params=["busybox", *(init.value for init in Init)])
def running(request: pytest.FixtureRequest) -> Iterator[_Running]:
    init: str = request.param
    base = EMBEDDED_BASE if init == "busybox" else str(debian_base(Init(init)))
    # The kernel's command line must carry eight paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        Path(directory, "umldisk.toml").write_text(_TOML)
        report = build_guest(Site(directory), "blackdance", BuildOptions(base=base))
        run = Path(directory, "line")
        run.mkdir()
        with _boot(report, run) as guest, Agent(run, timeout_seconds=_ANSWER_SECONDS) as agent:
            assert agent.ping()
            yield _Running(guest, agent, init, run)


def test_it_answers(running: _Running) -> None:
    assert running.agent.ping()
    assert running.run("hostname") == "blackdance\n"


def test_a_command_gives_output_errors_and_status(running: _Running) -> None:
    command = "printf '%s\\n' 'é  \\0041 $x'; echo '!x ok'; echo oops >&2; cat; exit 7"
    found = running.agent.run(command, 30)
    assert found.status == 7
    assert found.output.decode() == "é  \\0041 $x\n!x ok\noops\n"


def test_every_byte_comes_through(running: _Running) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in range(256))
    found = running.agent.run(f"printf '{octal}'", 30)
    assert found.output == bytes(range(256))


def test_output_is_bounded_and_the_command_goes_on(running: _Running) -> None:
    found = running.agent.run("head -c 1000000 /dev/zero && exit 4", 60)
    assert (found.status, found.truncated) == (4, True)
    assert found.output == bytes(OUTPUT_BYTES)


def test_a_command_is_killed_with_its_children_after_its_time(running: _Running) -> None:
    found = running.agent.run("echo begun; sleep 98765 & sleep 98765", 1)
    assert (found.status, found.output) == (137, b"begun\n")
    left = running.agent.run("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep 'sleep 9876[5]'", 30)
    assert left.output == b""


def test_what_gets_away_does_not_hold_up_the_answer(running: _Running) -> None:
    # The one that got away shows its number, so that it can be ended.
    found = running.agent.run("setsid sh -c 'echo $$; exec sleep 98764' & sleep 1", 60)
    assert found.status == 0
    running.run(f"kill {int(found.output)}")


def test_a_new_request_ends_the_run_before_it(running: _Running) -> None:
    line = os.open(running.directory / INPUT, os.O_RDWR | os.O_NONBLOCK)
    os.write(line, b"\n?old run 9999 echo begun >/run/begun; sleep 9999\n")
    os.close(line)
    # A request before the agent has read this one would throw it away.
    running.type("until [ -e /run/begun ]; do sleep 1; done")
    assert running.agent.ping()


def test_a_frozen_file_system_takes_no_write_until_it_is_thawed(running: _Running) -> None:
    running.agent.freeze(["/var"], guard_seconds=_GUARD_SECONDS)
    pid = running.write_aside("/var/frozen", "/run/thawed")
    running.wait_blocked(pid)
    assert running.agent.run("test -e /run/thawed || test -e /var/frozen", 30).status == 1
    running.agent.thaw()
    running.wait_for("test -e /run/thawed")
    assert running.run("cat /var/frozen") == "written\n"


def test_a_command_that_waits_for_a_frozen_file_system_is_given_up(running: _Running) -> None:
    running.agent.freeze(["/var"], guard_seconds=_GUARD_SECONDS)
    found = running.agent.run("echo before; echo x >/var/given-up", 1)
    assert (found.status, found.output) == (137, b"before\n")
    running.agent.thaw()


def test_root_can_be_frozen_with_nothing_in_the_cache(running: _Running) -> None:
    running.agent.freeze(["/", "/var", "/home"], guard_seconds=_GUARD_SECONDS)
    pid = running.write_aside("/etc/frozen", "/run/root-thawed")
    running.wait_blocked(pid)
    running.run("echo 3 >/proc/sys/vm/drop_caches")
    assert running.agent.ping()
    running.agent.thaw()
    running.wait_for("test -e /run/root-thawed")


def test_the_guard_thaws_by_itself(running: _Running) -> None:
    running.agent.freeze(["/var", "/"], guard_seconds=2)
    running.write_aside("/var/guarded", "/run/guarded")
    running.wait_for("test -e /run/guarded")
    with pytest.raises(RefusedError, match="thawed before"):
        running.agent.thaw()


def test_the_guard_outlives_the_agent(running: _Running) -> None:
    before = running.run(_AGENT)
    running.agent.freeze(["/var", "/"], guard_seconds=5)
    running.write_aside("/var/orphaned", "/run/orphaned")
    # By the console: the kernel hangs up the line of an agent that dies, and no answer could come.
    running.type(f"kill -KILL {int(before)}")
    running.type("until [ -e /run/orphaned ]; do sleep 1; done")
    # What is asked between two agents may be lost.
    assert any(running.agent.ping() for _ in range(3))
    assert int(running.run(_AGENT)) != int(before)
    with pytest.raises(RefusedError, match="nothing is frozen"):
        running.agent.thaw()


def test_a_freeze_that_fails_leaves_nothing_frozen(running: _Running) -> None:
    with pytest.raises(RefusedError, match="/nowhere"):
        running.agent.freeze(["/var", "/nowhere", "/"], guard_seconds=_GUARD_SECONDS)
    assert running.run("echo x >/var/free && echo x >/etc/free && echo written") == "written\n"


def test_the_failed_units_are_named(running: _Running) -> None:
    assert running.agent.failed_units() == ()
    if running.init != Init.SYSTEMD.value:
        return
    running.run("printf '[Service]\\nExecStart=/bin/false\\n' >/run/systemd/system/broken.service")
    running.run("systemctl start broken.service")
    running.wait_for("systemctl is-failed broken.service")
    assert running.agent.failed_units() == ("broken.service",)
    running.run("systemctl reset-failed broken.service")


def test_a_guest_without_the_line_has_an_agent_that_sleeps() -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        report = build_guest(Site(directory), "blackdance")
        for lines in (["ssl=null"], ["ssl0=none"]):
            with Guest([*report.boot_argv, *lines]) as guest:
                guest.wait_ready()
                before = guest.run("until pidof host-agent; do sleep 1; done").split()
                assert guest.run("sleep 3; pidof host-agent").split() == before[-1:]
                guest.cad()
                assert guest.wait_exit() == 0
