"""A real guest that is used by day and recorded by night, on two drives at once.

    boot ─▶ write to var and home ─▶ shut down, or have the power cut ─▶ image by uml_moo ─▶ take ─▶ next night

Both drives get the same kind of work: a log that grows and is rotated, a database whose pages are rewritten in place, a
spool file that is removed some nights later. One of the drives is merged after each take and the other one is not, so
that both ways are gone over the same nights. What a night's image was is kept as its SHA-256, by the checkpoint's
number; it is made by uml_moo, which knows nothing of checkpoints.
"""

import hashlib
import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.kit import oracle
from tests.kit.guest import Guest
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.store import Store, index_key
from umldisk.config.site import Site
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.exporting import export_checkpoint
from umldisk.ops.checkpoints.take_report import TakenDrive, TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.provision import BuildReport, build_guest

NAME = "blackdance"
DRIVES = ("var", "home")
_SETTINGS = f"""\
[guest.{NAME}]
modules = false
overlay = "overlay"
drives.var.size = "48M"
drives.home.size = "48M"
"""
# `work DIRECTORY NIGHT`; dd's conv=notrunc rewrites pages of the database where they lie.
_WORK = """\
#!/bin/sh
set -e
cd "$1"; night=$2
mkdir -p log db spool
seq -w 1 8000 | sed "s/.*/night $night request & answered with 200/" >>log/access.log
[ $((night % 4)) != 0 ] || { gzip -c log/access.log >log/access.log.$night.gz; : >log/access.log; }
[ -e db/pages ] || dd if=/dev/urandom of=db/pages bs=4096 count=256 2>/dev/null
for page in 0 1 2 3 4 5 6 7 8 9 10 11; do
    dd if=/dev/urandom of=db/pages bs=4096 seek=$(((night * 37 + page * 19) % 256)) count=1 conv=notrunc 2>/dev/null
done
dd if=/dev/urandom of=spool/$night bs=65536 count=8 2>/dev/null
rm -f spool/$((night - 5))
sha256sum db/pages log/access.log >sums
echo $night >night
"""


@dataclass
class Nights:
    """The guest and its store; `images` holds the digest of what each checkpoint has to be."""

    directory: Path
    store: Store
    merged: str
    now: datetime = datetime(2026, 11, 1, 3, 15, tzinfo=UTC)
    images: dict[int, str] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in DRIVES})

    @property
    def site(self) -> Site:
        return Site(str(self.directory))

    def drive(self, name: str) -> Drive:
        return next(drive for drive in self.site.guest(NAME).drives if drive.name == name)

    def base(self, name: str) -> Path:
        return Path(self.site.guest(NAME).base_path(self.drive(name)))

    def cow(self, name: str) -> Path:
        path = self.site.guest(NAME).cow_path(self.drive(name))
        assert path is not None
        return Path(path)

    def build(self) -> BuildReport:
        """Make the guest's disks, with the script of the day's work on them."""
        script = self.directory / "overlay" / "usr" / "bin" / "work"
        script.parent.mkdir(parents=True)
        script.write_text(_WORK)
        script.chmod(0o755)
        (self.directory / "umldisk.toml").write_text(_SETTINGS)
        return build_guest(self.site, NAME)

    def work(self, built: BuildReport, night: int, *, power_cut: bool = False) -> None:
        """Boot, write, end."""
        with Guest(built.boot_argv) as guest:
            guest.wait_ready()
            guest.run(f"work /var {night} && work /home {night}")
            if power_cut:
                guest.run("sync; echo lost >/var/lost")
                guest.kill()
            else:
                # What a shutdown does to a file system, without the seconds that init gives every process to end.
                guest.run("for point in /var /home /; do mount -o remount,ro $point; done")
                guest.send("poweroff -f\n")
                assert guest.wait_exit() == 0, guest.console[-3000:]

    def take(self) -> dict[str, TakenDrive]:
        """Record both drives, the one that is merged and the one that is not, and keep what they are."""
        saved = {name: self.image(name) for name in DRIVES}
        found = {}
        for name in DRIVES:
            options = TakeOptions(merge=name == self.merged)
            report = take_checkpoint(self.site, NAME, (name,), options, store=self.store, clock=lambda: self.now)
            (found[name],) = report.drives
            number = found[name].number
            assert number is not None
            self.numbers[name].append(number)
            self.images[number] = saved[name]
        self.now += timedelta(days=1)
        return found

    def image(self, name: str) -> str:
        """Return the digest of what a drive is now, by uml_moo."""
        new = self.directory / f"{name}.now"
        oracle.moo(self.cow(name), new)
        digest = sha256(new)
        new.unlink()
        return digest

    # -- what the store gives back --------------------------------------------------------------------------------

    def checkpoint(self, number: int) -> Checkpoint:
        with Catalog.open(self.directory / CATALOG_NAME, writable=False) as catalog:
            return catalog.checkpoint(NAME, number)

    def exported(self, number: int) -> str:
        """Return the digest of a checkpoint that umldisk exports."""
        out = self.directory / f"exported-{number}"
        export_checkpoint(self.store, self.checkpoint(number), out)
        digest = sha256(out)
        out.unlink()
        return digest

    def extracted(self, number: int, stored: Path) -> str:
        """Return the digest of a checkpoint that casync extracts from the files of the store below `stored`."""
        out = self.directory / f"extracted-{number}"
        casync("extract", f"--store={stored / 'chunks'}", stored / index_key(NAME, number), out)
        digest = sha256(out)
        out.unlink()
        return digest


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def casync(*arguments: str | Path) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    finished = subprocess.run(
        ["casync", *map(str, arguments)], check=False, capture_output=True, text=True, env=environment, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
