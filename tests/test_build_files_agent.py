"""When a guest gets the agent, and the script itself, on a terminal of this machine in place of the serial line."""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.golden.cases import BUSYBOX_FACTS, PLAIN, SYSTEMD_FACTS, SYSVINIT_FACTS
from tests.kit.peers import needs
from umldisk.build.files.agent import PROGRAM, entries, has_agent
from umldisk.build.files.busybox_init import inittab as busybox_inittab
from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.files.inittab import inittab
from umldisk.config.guest import Guest
from umldisk.config.settings import Files

_SHELLS = {"dash": "/bin/dash", "bash": "/bin/bash", "busybox": "/bin/busybox sh"}
_ANSWER_SECONDS = 30.0
_FSFREEZE = """\
#!/bin/sh
echo "$*" >>{directory}/calls
case $* in
*nowhere) echo "fsfreeze:   cannot  open $2" >&2; exit 1 ;;
*--unfreeze*late*) exit 1 ;;
esac
"""


def _script() -> str:
    (program,) = entries(PLAIN, BUSYBOX_FACTS)
    return b"".join(data for _, data in program.inode.contents.pieces()).decode()


@pytest.mark.parametrize("facts", [BUSYBOX_FACTS, SYSVINIT_FACTS, SYSTEMD_FACTS], ids=lambda facts: facts.init.value)
@pytest.mark.parametrize(
    ("guest", "has_it"),
    [
        (PLAIN, True),
        (replace(PLAIN, files=Files(agent=False)), False),
        (replace(PLAIN, files=Files(consoles=("tty0", "ttyS0"))), False),
        (replace(PLAIN, files=Files(consoles=("tty0", "ttyS1"))), True),
    ],
    ids=["plain", "not wanted", "its line is a console", "another line is a console"],
)
def test_a_guest_has_an_agent_that_is_started_or_none_at_all(guest: Guest, facts: BaseFacts, has_it: bool) -> None:
    assert has_agent(guest, facts) is has_it
    assert any(entry.path == PROGRAM for entry in entries(guest, facts)) is has_it
    started = {
        InitSystem.BUSYBOX: lambda: busybox_inittab(guest, facts),
        InitSystem.SYSVINIT: lambda: inittab(guest, facts),
        InitSystem.SYSTEMD: lambda: " ".join(entry.path for entry in entries(guest, facts)),
    }[facts.init]()
    assert ("host-agent" in started) is has_it


@pytest.mark.parametrize("init", [InitSystem.OTHER, InitSystem.NONE])
def test_what_nothing_would_start_is_not_there(init: InitSystem) -> None:
    assert entries(PLAIN, BaseFacts(init)) == []


def test_an_inittab_that_has_the_agent_keeps_one() -> None:
    once = inittab(PLAIN, SYSVINIT_FACTS)
    files = {**SYSVINIT_FACTS.files, "/etc/inittab": replace(SYSVINIT_FACTS.files["/etc/inittab"], text=once)}
    assert inittab(PLAIN, replace(SYSVINIT_FACTS, files=files)) == once
    assert once.count("host-agent") == 1


@dataclass
class _Line:
    """The host's end of a terminal on whose other end the agent runs."""

    fd: int
    process: subprocess.Popen[bytes]
    directory: Path

    def ask(self, request: str, *, token: str = "t") -> list[str]:
        """Send a request and return its answers up to the last one."""
        os.write(self.fd, f"\n?{token} {request}\n".encode())
        deadline, seen = time.monotonic() + _ANSWER_SECONDS, ""
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                seen += os.read(self.fd, 65536).decode()
            found = re.findall(rf"^!{token} (.*?)\r?\n", seen, re.MULTILINE)
            if found and not found[-1].startswith("out "):
                return found
        raise AssertionError(f"no answer to {request!r}: {seen!r}")

    def calls(self) -> list[str]:
        """Return how fsfreeze was called since the last time."""
        log = self.directory / "calls"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found


@contextmanager
def _agent(directory: Path, shell: str, *programs: str) -> Iterator[_Line]:
    ours, theirs = os.openpty()
    tty.setraw(ours)
    script = directory / "host-agent"
    text = _script().replace("#!/bin/sh", f"#!{shell}").replace("/dev/ttyS0", os.ttyname(theirs))
    # By its path: busybox would take its own, and freeze a file system of this machine.
    fake = directory / "freezer"
    text = text.replace("fsfreeze", str(fake))
    assert not re.search(r"(?<![/\w])fsfreeze", text)
    script.write_text(text)
    fake.write_text(_FSFREEZE.format(directory=directory))
    for program in (script, fake):
        program.chmod(0o755)
    process = subprocess.Popen([script], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield _Line(ours, process, directory)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(_ANSWER_SECONDS)
        os.close(theirs)
        os.close(ours)


@pytest.fixture(params=_SHELLS)
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Line]:
    shell = _SHELLS[request.param]
    if not os.path.exists(shell.split()[0]):
        pytest.skip(f"no {shell}")
    with _agent(tmp_path, shell) as line:
        assert line.ask("ping") == ["ok"]
        yield line


@needs("setsid", "stty")
def test_noise_and_unknown_requests_do_no_harm(line: _Line) -> None:
    os.write(line.fd, b"\x03\x04\x1a\n?\n? \n!t ok\n?x\n*\n?t2 \\0044(reboot) * `date`\n")
    assert line.ask("ping") == ["ok"]
    assert line.ask("halt now", token="u") == ["err unsupported: halt"]
    assert line.ask("freeze 5", token="v") == ["err incomplete: freeze"]
    assert line.ask("run", token="w") == ["err incomplete: run"]
    assert line.process.poll() is None


@needs("setsid", "stty")
def test_file_systems_are_thawed_in_the_other_order(line: _Line) -> None:
    assert line.ask("freeze 60 /none/var /none/a\\0040b /none") == ["ok"]
    assert line.calls() == ["--freeze /none/var", "--freeze /none/a b", "--freeze /none"]
    assert line.ask("thaw") == ["ok"]
    assert line.calls() == ["--unfreeze /none", "--unfreeze /none/a b", "--unfreeze /none/var"]
    assert line.ask("thaw") == ["err nothing is frozen"]
    assert line.calls() == []


@needs("setsid", "stty")
def test_a_freeze_that_fails_thaws_what_was_frozen(line: _Line) -> None:
    assert line.ask("freeze 60 /none/var /none/nowhere /none") == ["err fsfreeze: cannot open /none/nowhere"]
    assert line.calls() == ["--freeze /none/var", "--freeze /none/nowhere", "--unfreeze /none/var"]
    assert line.ask("thaw") == ["err nothing is frozen"]


@needs("setsid", "stty")
def test_a_thaw_that_comes_too_late_says_so(line: _Line) -> None:
    assert line.ask("freeze 60 /none/late /none/var") == ["ok"]
    assert line.ask("thaw") == ["err thawed before"]
    assert line.calls()[2:] == ["--unfreeze /none/var", "--unfreeze /none/late"]


@needs("setsid", "stty")
def test_the_guard_thaws_everything_and_a_new_freeze_has_a_new_one(line: _Line) -> None:
    assert line.ask("freeze 60 /none/old") == ["ok"]
    assert line.ask("freeze 1 /none/var /none") == ["ok"]
    wanted = ["--freeze /none/old", "--unfreeze /none/old", "--freeze /none/var", "--freeze /none"]
    wanted += ["--unfreeze /none", "--unfreeze /none/var"]
    deadline, seen = time.monotonic() + _ANSWER_SECONDS, line.calls()
    while seen != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
        seen += line.calls()
    assert seen == wanted


@needs("setsid", "stty")
def test_an_agent_that_is_told_to_end_thaws(line: _Line) -> None:
    assert line.ask("freeze 20 /none/var") == ["ok"]
    deadline = time.monotonic() + _ANSWER_SECONDS
    while line.process.poll() is None and time.monotonic() < deadline:
        line.process.terminate()  # again, since a shell notices it late that comes just before it reads
        with contextlib.suppress(subprocess.TimeoutExpired):
            line.process.wait(2)
    assert line.process.returncode == 0
    assert line.calls() == ["--freeze /none/var", "--unfreeze /none/var"]


@needs("setsid", "stty")
def test_output_looks_like_no_answer(line: _Line) -> None:
    *output, end = line.ask("run 20 printf '\\0134n!t\\0040\\0040ok\\0134n'; echo oops >&2; exit 9")
    assert end == "end 9"
    assert bytes.fromhex("".join(row.removeprefix("out ") for row in output)) == b"\n!t  ok\noops\n"


@needs("setsid", "stty")
def test_a_command_is_killed_after_its_time(line: _Line) -> None:
    assert line.ask("run 1 trap '' TERM INT HUP; echo x; sleep 60") == ["out 78 0a", "end 137"]
