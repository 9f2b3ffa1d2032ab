"""A site with a built guest, and umldisk's commands on it, in the test's own process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.kit.command_line import CommandLine, Said
from umldisk.config.site import Site
from umldisk.guest.state import RunState, read_state
from umldisk.system.pids import end_all, session_members

NAME = "blackdance"
WAIT_SECONDS = 120.0
SMALL = """\
[defaults]
modules = false
drives.root.size = "48M"
drives.var.size = "48M"
drives.home.size = "16M"
drives.tmp.size = "16M"
drives.swap.size = "8M"
"""


@dataclass(frozen=True)
class BuiltSite(CommandLine):
    """A site in a directory whose path is short enough for anything."""

    def good(self, *words: str | Path) -> Said:
        """Run a command that has to succeed."""
        said = self(*words)
        assert said.code == 0, (words, said)
        return said

    def build(self, text: str = SMALL, *words: str, name: str = NAME) -> BuiltSite:
        """Write umldisk.toml and build the guest."""
        (self.directory / "umldisk.toml").write_text(text)
        self.good("build", "-q", *words, name)
        return self

    @property
    def guest(self) -> Path:
        return self.directory / "guests" / NAME

    @property
    def run(self) -> Path:
        return self.directory / "run" / NAME

    def state(self, name: str = NAME) -> RunState:
        """Return what is known of the guest's run."""
        state = read_state(Site(str(self.directory)).run_directory(name))
        assert state is not None
        return state

    @property
    def console(self) -> str:
        """What the newest part of the transcript holds."""
        return (self.run / "console.log").read_text(errors="replace").replace("\r\n", "\n")

    def type(self, text: str) -> None:
        """Type on the guest's console."""
        with open(self.run / "console.in", "wb", buffering=0) as keys:
            keys.write(text.encode())

    def shell(self, command: str) -> str:
        """Run a command in the guest's console, which root is logged in on, and return what it wrote."""
        until(lambda: "# " in self.console.rpartition(" is ready")[2])  # getty drops what comes before its login
        mark = f"{time.monotonic_ns()}"
        self.type(f"echo be''gin-{mark}; {{ {command}\n}} 2>&1; echo e''nd-{mark} $?\n")
        until(lambda: f"end-{mark} " in self.console)
        text = self.console.partition(f"\nbegin-{mark}\n")[2]
        output, _mark, status = text.partition(f"end-{mark} ")
        assert status.split("\n")[0].strip() == "0", self.console[-4000:]
        return output

    def end(self) -> None:
        """Kill whatever of any guest still runs."""
        for path in self.directory.glob("run/*/state.json"):
            state = read_state(str(path.parent))
            if state is not None:
                state.kernel.send(signal.SIGKILL)
                end_all(session_members(state.leader), signal.SIGKILL, timeout_seconds=WAIT_SECONDS)
                state.supervisor.wait(WAIT_SECONDS)


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
