"""A guest that writes as fast as it can, and what is done to it, by umldisk's commands alone."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from running import BenchError

GUEST = "bench"
_PATIENCE_SECONDS = 300.0
_SETTINGS = """\
[guest.bench]
modules = false
overlay = "overlay"
memory = "96M"
drives.root.size = "64M"
drives.var.size = "1G"
drives.home.size = "16M"
drives.tmp.size = "16M"
drives.swap.size = "16M"
"""
# Records are synchronous, so that the file system's journal is written all the time.
_WORK = """\
#!/bin/sh
n=0
mkdir -p /var/records
mount -o remount,sync /var
while :; do
    n=$((n + 1))
    echo "record $n" >>/var/records/$((n % 100))
done
"""


class BusyGuest:
    """The guest; `start` makes it run."""

    def __init__(self, site: Path, umldisk: str) -> None:
        self._site = site
        self._umldisk = umldisk
        self._marks = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Build and start it; end it afterwards."""
        script = self._site / "overlay" / "usr" / "bin" / "work"
        script.parent.mkdir(parents=True)
        script.write_text(_WORK)
        script.chmod(0o755)
        (self._site / "umldisk.toml").write_text(_SETTINGS)
        self._command("build", "--quiet", GUEST)
        self._command("start", GUEST)
        try:
            self._wait_for(f"root@{GUEST}")
            yield
        finally:
            self._command("stop", GUEST)

    def write(self, mib: int) -> None:
        """Have it write so much, once."""
        self._shell(f"dd if=/dev/urandom of=/var/filling bs=1M count={mib} conv=fsync")

    def work(self) -> None:
        """Have it write without an end."""
        self._shell("work &")

    def rest(self) -> None:
        """Have it write no more."""
        self._shell("kill %1; wait; mount -o remount,async /var")

    def take(self) -> dict[str, Any]:
        """Take a checkpoint and return its report."""
        report: dict[str, Any] = json.loads(self._command("checkpoint", "take", "--json", GUEST))
        return report

    def is_sound(self, number: int) -> bool:
        """Whether the checkpoint's file system is clean once its journal was replayed."""
        image = self._site / "exported"
        self._command("checkpoint", "export", GUEST, str(number), str(image))
        replayed = subprocess.run(["e2fsck", "-p", image], capture_output=True, check=False)
        checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False)
        image.unlink()
        return replayed.returncode in (0, 1) and checked.returncode == 0

    def cow_bytes(self) -> int:
        """Return how much room the COW file takes."""
        return (self._site / "guests" / GUEST / "var_cow").stat().st_blocks * 512

    def _shell(self, command: str) -> None:
        self._marks += 1
        # The quotes keep the echo of what is typed from being taken for the answer.
        with (self._site / "run" / GUEST / "console.in").open("wb", buffering=0) as console:
            console.write(f"{command}\necho do''ne-{self._marks}-\n".encode())
        self._wait_for(f"done-{self._marks}-")

    def _wait_for(self, text: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        transcript = self._site / "run" / GUEST / "console.log"
        while text not in (said := transcript.read_text(errors="replace")):
            if time.monotonic() > deadline:
                raise BenchError(f"the guest does not say {text}: {said[-500:]}")
            time.sleep(0.05)

    def _command(self, *words: str) -> str:
        command = [self._umldisk, "--site", str(self._site), *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        return done.stdout
