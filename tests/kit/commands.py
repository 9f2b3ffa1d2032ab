"""Commands of checkpoints as people give them, on a small site, in the test's own process."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kit.restorable import Broken, Clock, SmallerSite
from umldisk.cli.main import main

FIRST_NIGHT = datetime(2024, 11, 18, 3, 15, tzinfo=UTC)
LAYOUT = '[guest.blackdance]\nlayout = ["root", "var", "home", "swap"]\n'


@dataclass(frozen=True)
class Said:
    """What a command ended with and wrote."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Commands:
    """A site with the guest blackdance, of whose var two nights were recorded before it was broken into."""

    directory: Path
    broken: Broken

    def __call__(self, *words: str | Path) -> Said:
        """Run umldisk on the site."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["--site", str(self.directory), *map(str, words)])
        return Said(code, out.getvalue(), err.getvalue())

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def guest(self) -> Path:
        return self.directory / "guests/blackdance"


def commands(directory: Path) -> Commands:
    """Make the site in an empty directory; the nights are long ago for every machine's clock."""
    (directory / "umldisk.toml").write_text(LAYOUT)
    broken = Broken(SmallerSite(str(directory)), clock=Clock(FIRST_NIGHT)).make()
    broken.night(8, 9, 10, 1500)
    broken.night(8, 64, 65)
    broken.break_in()
    return Commands(directory, broken)


_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holding(path: Path) -> Iterator[int]:
    """Let another process lock a file for writing, as a guest does; return its id."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder.pid
        holder.communicate()


@contextlib.contextmanager
def time_zone(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let clocks on this machine show another zone."""
    monkeypatch.setenv("TZ", name)
    time.tzset()
    try:
        yield
    finally:
        monkeypatch.undo()
        time.tzset()
