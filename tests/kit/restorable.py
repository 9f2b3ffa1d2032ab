"""A small guest that was recorded and then broken into, for restoring: made without a build, in milliseconds.

    night 1, night 2    recorded from var, which changes in between
    then                the intruder: other sectors in the COW files of root, var and home, words in tmp and swap

Disks are a megabyte, tmp is ext2 and not copy-on-write, so that every way of coming back is there.
"""

import json
import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.kit.model import merged, write_cow, write_image
from umldisk.build.manifest import FORMAT, describe_drive
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest, require_guest_name
from umldisk.config.site import Site
from umldisk.image.drives import Content, Drive
from umldisk.ops.checkpoints.take_report import TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.restoring.planning import Wish
from umldisk.ops.restoring.reporting import RestoreReport
from umldisk.ops.restoring.restore import RestoreOptions, restore_guest
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import open_disk

SIZE = 1 << 20
ROOT = Drive("root", 0, "/", SIZE)
VAR = Drive("var", 1, "/var", SIZE)
HOME = Drive("home", 2, "/home", SIZE)
TMP = Drive("tmp", 3, "/tmp", 2 << 20, Content.EXT2, copy_on_write=False, mount_mode=0o1777)
SWAP = Drive("swap", 4, None, 64 << 10, Content.SWAP, copy_on_write=False)
LAYOUT = (ROOT, VAR, HOME, TMP, SWAP)
WITHOUT_TMP = (ROOT, VAR, HOME, SWAP)
"""For tests that restore many times: making an ext file system takes longer than all the rest."""
FIRST_NIGHT = datetime(2026, 11, 18, 3, 15, tzinfo=UTC)


class SmallSite(Site):
    """A site whose guests have other drives; like every site a value."""

    drives: tuple[Drive, ...] = LAYOUT

    def guest(self, name: str) -> Guest:
        return Guest(require_guest_name(name), f"{self.directory}/guests/{name}", self.drives)


class SmallerSite(SmallSite):
    """The same without tmp."""

    drives = WITHOUT_TMP


@dataclass
class Clock:
    """Tells the time that it is set to; `tick` moves it on by a day."""

    now: datetime = FIRST_NIGHT

    def __call__(self) -> datetime:
        return self.now

    def tick(self) -> None:
        self.now += timedelta(days=1)


@dataclass
class Broken:
    """The guest; `nights` are what var held on each, by the number of its checkpoint."""

    site: SmallSite
    name: str = "blackdance"
    store: Store | None = None
    clock: Clock = field(default_factory=Clock)
    nights: dict[int, bytes] = field(default_factory=dict)
    bases: dict[str, bytes] = field(default_factory=dict)

    @property
    def guest(self) -> Guest:
        return self.site.guest(self.name)

    @property
    def directory(self) -> Path:
        return Path(self.guest.directory)

    def make(self) -> "Broken":
        """Put the disks and their manifest in place."""
        self.directory.mkdir(parents=True)
        for drive in self.guest.drives:
            contents = noise(drive.name, drive.size_bytes)
            self.bases[drive.name] = contents
            write_image(self.directory / drive.file_name, contents)
        self.write_manifest()
        return self

    def write_manifest(self) -> None:
        rows = []
        for drive in self.guest.drives:
            with open_disk(self.guest.base_path(drive)) as disk:
                rows.append(describe_drive(self.guest, drive, sparse_sha256(disk)))
        text = {"format": FORMAT, "guest": self.name, "base": {}, "drives": rows, "files": []}
        (self.directory / "manifest.json").write_text(json.dumps(text))

    def write(self, drive: Drive, *sectors: int, word: str) -> bytes:
        """Let the guest have changed these sectors of a drive and nothing else; return what it sees then."""
        assert drive.cow_name
        base = self.directory / drive.file_name
        changes = {sector: noise(f"{word} {sector}", 512) for sector in sectors}
        write_cow(self.directory / drive.cow_name, base, changes)
        return merged(base.read_bytes(), changes)

    def take(self, *drives: str, merge: bool = False) -> int:
        """Record drives (var) and return the number of the last checkpoint; a day passes."""
        report = take_checkpoint(
            self.site, self.name, drives, TakeOptions(merge=merge), store=self.store, clock=self.clock
        )
        self.clock.tick()
        number = report.drives[-1].number
        assert number is not None
        return number

    def night(self, *sectors: int, merge: bool = False) -> int:
        """Let var change, and record it."""
        seen = self.write(VAR, *sectors, word=f"night {len(self.nights)}")
        number = self.take(merge=merge)
        self.nights[number] = seen
        return number

    def break_in(self) -> None:
        """Change what an intruder would."""
        for drive in (ROOT, VAR, HOME):
            self.write(drive, 1, 2, 3, 900, word="intruder")
        for drive in self.guest.drives:
            if not drive.copy_on_write:
                with open(self.guest.base_path(drive), "r+b") as file:
                    file.write(b"intruder")

    def spoil(self, drive: Drive) -> None:
        """Change a base as somebody would who does not want it to be noticed."""
        path = self.guest.base_path(drive)
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(b"intruder")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def restore(self, wish: Wish | None = None, *, dry_run: bool = False) -> RestoreReport:
        """Restore the guest, by default all of it."""
        options = RestoreOptions(dry_run=dry_run)
        return restore_guest(self.site, self.name, wish or Wish(), store=self.store, options=options, clock=self.clock)

    def files(self) -> dict[str, bytes]:
        """Return name and contents of everything in the guest's directory, locks apart."""
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }

    @property
    def names(self) -> set[str]:
        """What lies in the guest's directory, the lock apart."""
        return {name for name in os.listdir(self.directory) if name != ".lock"}

    @property
    def evidence(self) -> list[Path]:
        """The directories of evidence that the site has, oldest first."""
        place = Path(self.site.directory, "evidence")
        return sorted(place.iterdir()) if place.exists() else []

    def seen(self, drive: Drive) -> bytes:
        """Return what the guest would see on a drive now."""
        from umldisk.cow.file import CowFile

        cow = self.guest.cow_path(drive)
        if cow is None:
            return Path(self.guest.base_path(drive)).read_bytes()
        with CowFile.open(cow) as disk:
            return disk.read(0, disk.size_bytes)


def noise(word: str, size_bytes: int) -> bytes:
    """Return bytes that are the same every time: a quarter of them zeros, in one piece."""
    data = random.Random(word).randbytes(size_bytes)
    return data[: size_bytes // 2] + bytes(size_bytes // 4) + data[size_bytes - size_bytes // 4 :]


def broken_guest(site: SmallSite, *, store: Store | None = None, merge: bool = False) -> Broken:
    """Make a guest, record two nights of it, and let it be broken into."""
    broken = Broken(site, store=store).make()
    broken.night(8, 9, 10, 1500, merge=merge)
    broken.night(8, 64, 65, merge=merge)
    broken.break_in()
    return broken
