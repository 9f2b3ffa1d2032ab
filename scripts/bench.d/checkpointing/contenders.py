"""The three programs, each with its repository: how a disk's first state and every later one goes in, and out again.

umldisk records the guest's drive, base and COW file; restic and borg back up an image of the same disk. All of them
make sure that what they stored is on the disk before they end, and keep whatever caches they like.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from running import BenchError

from checkpointing.image import BASE, COW

GUEST = "bench"
UMLDISK, RESTIC, BORG = "umldisk", "restic", "borg"
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs lie; the peers may be missing."""

    umldisk: str
    restic: str | None
    borg: str | None

    @classmethod
    def find(cls, umldisk: str) -> "Programs":
        """Look for them; raises BenchError without umldisk."""
        found = shutil.which(umldisk)
        if found is None:
            raise BenchError(f"no umldisk at {umldisk}")
        return cls(os.path.abspath(found), shutil.which(RESTIC), shutil.which(BORG))


class Peer(Protocol):
    """A backup program with an empty repository of its own, which `prepare` makes."""

    name: ClassVar[str]
    repository: Path

    def prepare(self) -> None:
        """Make the repository."""

    def back_up(self, image: Path, night: int) -> Command:
        """Return the command that backs the image up."""

    def restore(self, image: Path, night: int) -> Command:
        """Return the command that brings a night back below the working directory."""

    def restored(self, place: Path, image: Path) -> Path:
        """Where that puts the image."""


class Site:
    """A site with one guest, whose var is all that it has."""

    def __init__(self, directory: Path, umldisk: str) -> None:
        self.directory = directory
        self._start = (umldisk, "--site", str(directory), "checkpoint")

    @property
    def base(self) -> Path:
        """The drive's backing file."""
        return self.directory / "guests" / GUEST / BASE

    @property
    def cow(self) -> Path:
        """The drive's COW file."""
        return self.directory / "guests" / GUEST / COW

    @property
    def store(self) -> Path:
        """Where the checkpoints are."""
        return self.directory / "store"

    def make(self) -> None:
        """Make the directories."""
        self.base.parent.mkdir(parents=True)
        (self.directory / "umldisk.toml").touch()

    def take(self, *options: str) -> Command:
        """Return the command that takes a checkpoint."""
        return (*self._start, "take", *options, GUEST)

    def export(self, number: int, out: Path) -> Command:
        """Return the command that writes a checkpoint as an image."""
        return (*self._start, "export", GUEST, str(number), str(out))

    def listing(self) -> Command:
        """Return the command that lists all checkpoints."""
        return (*self._start, "list", GUEST)

    def rebuild(self) -> Command:
        """Return the command that makes the catalog from the store."""
        return (*self._start, "rebuild")


class Restic:
    """restic with its newer format, which packs, and a password, without which it does nothing."""

    name: ClassVar[str] = RESTIC

    def __init__(self, program: str, directory: Path) -> None:
        self.repository = directory / "restic"
        self._environment = {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_CACHE_DIR": str(directory / "restic-cache"),
        }
        self._program = program

    def prepare(self) -> None:
        """Make the repository."""
        _succeed(self._command("init", "--repository-version", "2"))

    def back_up(self, image: Path, night: int) -> Command:
        """Return the command that backs the image up."""
        return self._command("backup", "--tag", f"night-{night}", str(image))

    def restore(self, image: Path, night: int) -> Command:
        """Return the command that brings a night back below the working directory."""
        return self._command("restore", "--tag", f"night-{night}", "--target", ".", "latest")

    def restored(self, place: Path, image: Path) -> Path:
        """Where that puts the image."""
        return place / image.relative_to("/")

    def _command(self, *words: str) -> Command:
        return _with_environment(self._environment, self._program, *words)


class Borg:
    """borg without encryption, as fast as it comes."""

    name: ClassVar[str] = BORG

    def __init__(self, program: str, directory: Path) -> None:
        self.repository = directory / "borg"
        self._environment = {"BORG_BASE_DIR": str(directory / "borg-home")}
        self._program = program

    def prepare(self) -> None:
        """Make the repository."""
        _succeed(self._command("init", "--encryption", "none", str(self.repository)))

    def back_up(self, image: Path, night: int) -> Command:
        """Return the command that backs the image up."""
        return self._command("create", f"{self.repository}::night-{night}", str(image))

    def restore(self, image: Path, night: int) -> Command:
        """Return the command that brings a night back below the working directory."""
        return self._command("extract", "--sparse", f"{self.repository}::night-{night}")

    def restored(self, place: Path, image: Path) -> Path:
        """Where that puts the image."""
        return place / image.relative_to("/")

    def _command(self, *words: str) -> Command:
        return _with_environment(self._environment, self._program, *words)


def _with_environment(environment: Mapping[str, str], *command: str) -> Command:
    return ("/usr/bin/env", *(f"{name}={value}" for name, value in environment.items()), *command)


def _succeed(command: Command) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def find_peers(programs: Programs, directory: Path) -> list[Peer]:
    """Return the peers that are on this machine, with repositories below `directory`."""
    found: list[Peer] = []
    if programs.restic is not None:
        found.append(Restic(programs.restic, directory))
    if programs.borg is not None:
        found.append(Borg(programs.borg, directory))
    return found
