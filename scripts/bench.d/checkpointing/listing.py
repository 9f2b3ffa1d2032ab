"""A long history, listed.

Its records are written as the store keeps them, each with the digest of the one before; the catalog is made from them
by `checkpoint rebuild`. That all are listed is found out by counting.
"""

import hashlib
import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from building.checks import Finding
from disks import GIB, MIB

from checkpointing.contenders import GUEST, UMLDISK, Programs, Site
from checkpointing.nights import run, say
from checkpointing.results import Results

LIST = f"{UMLDISK}: list"
_FIRST_NIGHT = datetime(2000, 1, 1, 3, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Listing:
    """The course of it."""

    results: Results
    count: int
    rounds: int
    directory: Path
    programs: Programs
    timeout_seconds: float

    def hold(self) -> None:
        """Write the history and list it; raises BenchError when a command fails."""
        say(f"writing a history of {self.count} checkpoints")
        site = Site(self.directory / "site", self.programs.umldisk)
        site.make()
        _write_history(site.store / "guests" / GUEST, self.count)
        run(site.rebuild(), self.directory, timeout_seconds=self.timeout_seconds)
        self.results.findings.append(_counted(site, self.count))
        for number in range(1, self.rounds + 1):
            sample = run(site.listing(), self.directory, timeout_seconds=self.timeout_seconds)
            self.results.samples[LIST][number] = sample
            say(f"{LIST}, {number}: {sample.seconds:.2f} s")


def _write_history(directory: Path, count: int) -> None:
    directory.mkdir(parents=True)
    previous = ""
    for number in range(1, count + 1):
        data = json.dumps(_record(number, previous), sort_keys=True, indent=1).encode() + b"\n"
        (directory / f"{number:08d}.json").write_bytes(data)
        previous = hashlib.sha256(data).hexdigest()


def _record(number: int, previous: str) -> dict[str, object]:
    return {
        "format": 1,
        "guest": GUEST,
        "number": number,
        "time": (_FIRST_NIGHT + timedelta(days=number)).isoformat(),
        "kind": "checkpoint",
        "previous": previous,
        "host": "host",
        "version": "1",
        "taken": {
            "drive": "var",
            "size_bytes": 4 * GIB,
            "index_sha256": hashlib.sha256(str(number).encode()).hexdigest(),
            "parent": number - 1 or None,
            "base_index_sha256": None,
            "changed_bytes": 32 * MIB,
            "stored_bytes": 20 * MIB + number,
            "read_bytes": 32 * MIB,
            "read_whole": number == 1,
            "consistency": "off",
            "merged": True,
            "duration_seconds": 0.5,
            "reason": "",
            "tags": [],
        },
    }


def _counted(site: Site, count: int) -> Finding:
    done = subprocess.run(site.listing(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = done.stdout.count(" var ")
    return Finding(f"{found} of {count} checkpoints are listed", found == count and done.returncode == 0)
