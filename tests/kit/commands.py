"""Commands of checkpoints as people give them, on a small site, in the test's own process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.kit.children import child
from tests.kit.command_line import CommandLine
from tests.kit.restorable import Broken, Clock, SmallerSite

FIRST_NIGHT = datetime(2024, 11, 18, 3, 15, tzinfo=UTC)
LAYOUT = '[guest.blackdance]\nlayout = ["root", "var", "home", "swap"]\n'


@dataclass(frozen=True)
class Commands(CommandLine):
    """A site with the guest blackdance, of whose var two nights were recorded before it was broken into."""

    broken: Broken

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


@contextlib.contextmanager
def holding(path: Path) -> Iterator[int]:
    """Let another process lock a file for writing, as a guest does; return its id."""
    lock = "import fcntl; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with child(lock, str(path)) as holder:
        yield holder.pid


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
