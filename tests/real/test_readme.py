"""The README's first guest, typed as it stands there: build, boot, change, look, merge.

Every `console` block is run in order. `$ ` lines go to a shell in a directory of their own, the boot command to a real
kernel, `root@...# ` lines to that guest's console. What the README shows must be what comes, numbers aside.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.guest import Guest, run_script
from tests.kit.peers import needs
from tests.kit.sites import BuiltSite

pytestmark = needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "e2fsck", "busybox", "root")

_CHECKOUT = Path(__file__).resolve().parents[2]
_SITE = "/var/uml"
_GUEST_PROMPT = "root@blackdance:~# "


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the README and the lines that are shown below it."""

    command: str
    in_guest: bool
    shown: tuple[str, ...]


def steps() -> list[Step]:
    text = (_CHECKOUT / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.+?)^```$", text, re.MULTILINE | re.DOTALL)
    found: list[Step] = []
    for line in "".join(blocks).splitlines():
        if line.startswith(("$ ", _GUEST_PROMPT)):
            in_guest = not line.startswith("$ ")
            found.append(Step(line.partition(_GUEST_PROMPT if in_guest else "$ ")[2], in_guest, ()))
        else:
            found[-1] = Step(found[-1].command, found[-1].in_guest, (*found[-1].shown, line))
    return found


def pattern(shown: tuple[str, ...]) -> str:
    """Turn shown lines into an expression: `...` stands for any lines, a number, unit or plural for any other."""
    parts = []
    for line in shown:
        if line == "...":
            parts.append(r"(?:.*\n)*?")
            continue
        loose = loosened(re.sub(r" +", " ", line))
        parts.append(re.escape(loose).replace(r"\ ", r"\s+") + r"\s*\n")
    return "".join(parts)


def loosened(text: str) -> str:
    without_units = re.sub(r"\b([KMG]i)?B\b", "U", re.sub(r"\bruns\b", "run", text))
    return re.sub(r"\d+(\.\d+)?", "0", without_units)


class Reader:
    """Somebody who types what the README says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site"
        self.guests: list[Guest] = []

    def local(self, text: str) -> str:
        return text.replace(_SITE, str(self.site)).replace("./scripts/umldisk", str(_CHECKOUT / "scripts" / "umldisk"))

    def follow(self, step: Step) -> None:
        if step.in_guest:
            self._in_guest(step.command)
        elif "--foreground" in step.command:
            # The kit adds a word for kernels that it starts itself; here a shell gets it and does nothing with it.
            command = f"exec {self.local(step.command)}"
            guest = Guest(["env", f"UMLDISK_SITE={self.site}", "sh", "-c", command]).__enter__()
            self.guests.append(guest)
            guest.wait_ready()
        else:
            self._in_shell(step)

    def _in_guest(self, command: str) -> None:
        if command == "poweroff":
            self.guests[-1].send(f"{command}\n")
            assert self.guests[-1].wait_exit(timeout=30) == 0
        else:
            self.guests[-1].run(command)

    def _in_shell(self, step: Step) -> None:
        environment = {**os.environ, "UMLDISK_SITE": str(self.site)}
        done = subprocess.run(
            ["bash", "-c", self.local(step.command)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (step.command, done.stderr)
        shown = tuple(self.local(line) for line in step.shown)
        assert re.fullmatch(pattern(shown), loosened(done.stdout)), (step.command, done.stdout)


@pytest.fixture
def reader() -> Iterator[Reader]:
    # The kernel's command line must carry the paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        someone = Reader(Path(directory))
        yield someone
        for guest in someone.guests:
            guest.__exit__(None, None, None)
        BuiltSite(someone.site).end()


def test_the_readme_works_as_it_is_typed(reader: Reader) -> None:
    script = steps()
    merging = next(
        number for number, step in enumerate(script) if " merge " in step.command and "-d" not in step.command
    )
    for step in script[: merging + 1]:
        reader.follow(step)
    disks = reader.site / "guests" / "blackdance"
    pairs = [f"{disks / f'{name}_cow'},{disks / f'{name}_fs'}" for name in ("root", "var")]
    seen = run_script("sha256sum /dev/ubda /dev/ubdb", pairs, timeout=120).output
    assert sha256(reader.directory / "new_root_fs") in seen
    for step in script[merging + 1 :]:
        reader.follow(step)
    assert sha256(disks / "var_fs") in seen


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
