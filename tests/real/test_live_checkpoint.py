"""Real guests that write as fast as they can, recorded while they do.

The guest writes numbered records, each with O_SYNC, and acknowledges each on its console. What was acknowledged before
a take began must be in the checkpoint. The host's page cache is the guest's disk: what its kernel calls durable is
there, and nowhere else, which is what a checkpoint of a running guest is made of.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.record import Consistency
from umldisk.config.site import Site
from umldisk.guest.ladder import Ladder, Rung
from umldisk.guest.state import running
from umldisk.guest.waiting import Waited
from umldisk.ops.checkpoints.exporting import export_checkpoint
from umldisk.ops.checkpoints.storage import store_of
from umldisk.ops.checkpoints.take_report import TakeOptions, TakeReport
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.provision import build_guest
from umldisk.ops.running.starting import StartOptions, start_guest
from umldisk.ops.running.stopping import stop_guest
from umldisk.ops.running.waiting import wait_for_guest

pytestmark = [
    needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "e2fsck", "busybox"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

_ROUNDS, _FROZEN_ROUNDS = 50, 5
_PATIENCE_SECONDS = 120.0
_SETTINGS = """\
[guest.g]
modules = false
overlay = "overlay"
drives.root.size = "48M"
drives.var.size = "48M"
drives.home.size = "16M"
drives.home.fs = "ext2"
drives.tmp.size = "16M"
drives.swap.size = "8M"
"""
_WORK = """\
#!/bin/sh
# work DIRECTORY: numbered records, each on the disk before it is acknowledged, while directories come and go.
mount -o remount,sync "$1"
churn() {
    n=0
    while mkdir -p "$1/churn/$((n % 20))"; do
        n=$((n + 1))
        echo "$n" >"$1/churn/$((n % 20))/$n"
        mv "$1/churn/$((n % 20))/$n" "$1/churn/moved.$((n % 50))"
        rm -rf "$1/churn/$((n * 7 % 20))"
    done
}
mkdir -p "$1/churn"
churn "$1" &
exec 3>>"$1/records"
n=0
while :; do
    n=$((n + 1))
    echo "record $n" >&3
    echo "ack $1 $n"
done
"""


class Machine:
    """A guest that runs."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.site = Site(directory)
        script = self.directory / "overlay" / "usr" / "bin" / "work"
        script.parent.mkdir(parents=True)
        script.write_text(_WORK)
        script.chmod(0o755)
        (self.directory / "umldisk.toml").write_text(_SETTINGS)
        build_guest(self.site, "g")
        start_guest(self.site, "g", StartOptions(answer_seconds=_PATIENCE_SECONDS))
        assert wait_for_guest(self.site, "g", timeout_seconds=_PATIENCE_SECONDS).outcome is Waited.REACHED
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while b"root@g" not in self._console_tail():  # what is typed before the prompt gets lost
            assert time.monotonic() < deadline, self._console_tail().decode(errors="replace")
            time.sleep(0.05)

    @property
    def run_directory(self) -> Path:
        return Path(self.site.run_directory("g"))

    def type(self, line: str) -> None:
        with (self.run_directory / "console.in").open("wb", buffering=0) as console:
            console.write(line.encode() + b"\n")

    def acknowledged(self, point: str) -> int:
        """Return the last record that was acknowledged by now."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        pattern = re.compile(rf"^ack {point} (\d+)\r?\n".encode(), re.MULTILINE)
        while not (found := pattern.findall(self._console_tail())):
            assert time.monotonic() < deadline, self._console_tail().decode(errors="replace")
            time.sleep(0.05)
        return int(found[-1])

    def _console_tail(self) -> bytes:
        return b"".join(path.read_bytes()[-65536:] for path in self._transcripts())

    def _transcripts(self) -> list[Path]:
        older = [self.run_directory / "console.log.1"]
        return [*(path for path in older if path.exists()), self.run_directory / "console.log"]

    def wait_working(self, point: str) -> None:
        """Wait until further records are acknowledged."""
        before, deadline = self.acknowledged(point), time.monotonic() + _PATIENCE_SECONDS
        while self.acknowledged(point) <= before + 2:
            assert time.monotonic() < deadline, "the guest does not write"
            time.sleep(0.01)

    def take(self, *drives: str, options: TakeOptions | None = None) -> TakeReport:
        return take_checkpoint(self.site, "g", drives, options)

    def export(self, number: int) -> Path:
        """Write a checkpoint as an image."""
        out = self.directory / "exported"
        out.unlink(missing_ok=True)
        with Catalog.open(self.directory / CATALOG_NAME, writable=False) as catalog:
            export_checkpoint(store_of(self.site, self.site.guest("g")), catalog.checkpoint("g", number), out)
        return out


def tool(*words: str | Path, accepted: tuple[int, ...] = (0,)) -> str:
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run([*map(str, words)], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode in accepted, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def assert_has_records(image: Path, last: int) -> None:
    """All records up to `last` are in the image's file, in order, and whole but for one that was being written.

    Of that one ext4 may know the length and not yet the bytes: data=ordered is about newly allocated blocks, and the
    other writer's commits take the file's new size with them.
    """
    records = tool("debugfs", "-R", "cat /records", image).splitlines()
    expected = [f"record {number}" for number in range(1, len(records) + 1)]
    if records[-1:] != expected[-1:]:
        assert expected.pop().startswith(records.pop().rstrip("\0"))
    assert records == expected
    assert len(records) >= last


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        try:
            machine = Machine(directory)
            machine.type("work /var & work /home &")
            yield machine
        finally:
            site = Site(directory)
            if running(site.run_directory("g")) is not None:
                stop_guest(site, "g", Ladder.of(first=Rung.KILL))


def test_a_journal_recovers_all_that_was_acknowledged(machine: Machine) -> None:
    pauses = []
    machine.wait_working("/var")
    for _round in range(_ROUNDS):
        last = machine.acknowledged("/var")
        report = machine.take("var")
        (taken,) = report.drives
        assert report.consistency is Consistency.JOURNAL
        assert report.pause_seconds is not None
        assert taken.number is not None
        pauses.append(report.pause_seconds)
        image = machine.export(taken.number)
        tool("e2fsck", "-p", image, accepted=(0, 1))
        tool("e2fsck", "-fn", image)
        assert_has_records(image, last)
    machine.wait_working("/var")
    milliseconds = sorted(1000 * pause for pause in pauses)
    said = f"pause: median {milliseconds[len(pauses) // 2]:.1f} ms, most {milliseconds[-1]:.1f} ms"
    sys.stderr.write(f"\n{said}; {last} records\n")


def test_a_frozen_file_system_is_clean_as_it_is(machine: Machine) -> None:
    machine.wait_working("/home")
    for _round in range(_FROZEN_ROUNDS):
        last = machine.acknowledged("/home")
        report = machine.take("home")
        (taken,) = report.drives
        assert report.consistency is Consistency.FROZEN
        assert taken.number is not None
        image = machine.export(taken.number)
        tool("e2fsck", "-fn", image)
        assert_has_records(image, last)
        machine.wait_working("/home")


def test_a_journal_that_was_frozen_has_nothing_to_replay(machine: Machine) -> None:
    last = machine.acknowledged("/var")
    report = machine.take("var", options=TakeOptions(freeze=True))
    (taken,) = report.drives
    assert report.consistency is Consistency.FROZEN
    assert taken.number is not None
    image = machine.export(taken.number)
    assert "needs_recovery" not in tool("dumpe2fs", "-h", image)
    tool("e2fsck", "-fn", image)
    assert_has_records(image, last)
    machine.wait_working("/var")


def test_all_drives_are_of_one_moment(machine: Machine) -> None:
    report = machine.take("root", "var", "home", "tmp")
    assert [taken.drive for taken in report.drives] == ["root", "var", "home", "tmp"]
    for taken in report.drives:
        assert taken.number is not None
        tool("e2fsck", "-fn", machine.export(taken.number))
    machine.wait_working("/home")


_KILLED = """
import os, signal, sys
from umldisk.config.site import Site
from umldisk.ops.checkpoints.frozen import Room
from umldisk.ops.checkpoints.take_report import TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint

def fill(room, check):
    os.kill(os.getpid(), signal.SIGKILL)

Room.fill = fill
take_checkpoint(Site(sys.argv[1]), "g", [sys.argv[2]])
"""


@pytest.mark.parametrize("drive", ["var", "home"])
def test_killed_in_the_pause_the_guest_goes_on_writing(machine: Machine, drive: str) -> None:
    command = [sys.executable, "-c", _KILLED, str(machine.directory), drive]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE_SECONDS)
    assert done.returncode == -signal.SIGKILL, done.stderr
    machine.wait_working(f"/{drive}")
    assert machine.take(drive).drives[0].number is not None
    machine.wait_working(f"/{drive}")
