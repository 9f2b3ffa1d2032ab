"""One workload of builds: its cases in turns, each time in a fresh site, from the same warm archive.

    NAME.tar         made once for each case that builds from an archive; cases with one way to make it share it
    run-N/           of one run: site/ with umldisk.toml and the guest, or what the peer makes

Round 0 is not counted: it warms the memory up, its memory is watched, and its disks are read back. In every later
round each case runs once, the first one changing from round to round, so that two cases can be compared round by round.
"""

import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import extents
from running import BenchError, Sample, measure, settle, touch_memory

from building.checks import Finding, check_disks
from building.workloads import Case, Workload

GUEST = "bench"
_TOUCHED_TIMES = 3
"""An archive's bytes are read, written to scratch files and written to disks."""

_PEER_SCRIPT = """\
set -e
mkdir tree
tar --numeric-owner --xattrs -xpf "$1" -C tree
truncate -s 1G root_fs
PATH=$PATH:/usr/sbin:/sbin
mke2fs -q -F -t ext4 -b 4096 -E assume_storage_prezeroed=1 -d tree root_fs
"""


@dataclass(slots=True)
class Results:
    """What a workload has given so far."""

    workload: Workload
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def seconds(self, case: str) -> float | None:
        """Return the median time of a case, or None when there was no run."""
        samples = self.samples.get(case)
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def ratio(self, case: str, other: str) -> float | None:
        """Return the median of the ratios of two cases, round by round, or None when there was no whole round."""
        pairs = zip(self.samples.get(case, ()), self.samples.get(other, ()), strict=False)
        return statistics.median(ratios) if (ratios := [one.seconds / two.seconds for one, two in pairs]) else None

    def count(self, case: str, sample: Sample) -> None:
        """Add a run that counts."""
        self.samples[case].append(sample)
        self.note_peak(case, sample)

    def note_peak(self, case: str, sample: Sample) -> None:
        """Keep the largest peak of memory of a case."""
        self.peaks[case] = max(self.peaks.get(case, 0), sample.peak_bytes)


class Contest:
    """A workload in a directory of its own; whatever is done stands in `results` at any time."""

    def __init__(
        self, results: Results, directory: Path, umldisk: str, *, timeout_seconds: float, has_peers: bool
    ) -> None:
        self._results = results
        self._directory = directory
        self._umldisk = umldisk
        self._timeout_seconds = timeout_seconds
        self._cases = [case for case in results.workload.cases if has_peers or not case.is_peer]
        self._archives: dict[Callable[[Path], None], Path] = {}
        self._run_count = 0

    def hold(self, rounds: int) -> None:
        """Make the archives, run everything; raises BenchError when a command fails."""
        name = self._results.workload.name
        for case in self._cases:
            self._make_archive(case)
        for case in self._cases:
            _say(f"{name}: looking at {case.name}")
            self._results.note_peak(case.name, self._run(case, watched=True))
            if not case.is_peer:
                self._results.findings += check_disks(self._guest_directory, self._archive(case), self._directory)
        for number in range(min(rounds, self._results.workload.most_rounds or rounds)):
            for case in _turned(self._cases, number):
                self._results.count(case.name, self._run(case))
            latest = (f"{case.name} {self._results.samples[case.name][-1].seconds:.2f}" for case in self._cases)
            _say(f"{name}, round {number + 1}: {', '.join(latest)}")

    def _make_archive(self, case: Case) -> None:
        make = case.make_archive
        if make is not None and make not in self._archives:
            path = self._directory / f"{len(self._archives)}.tar"
            _say(f"{self._results.workload.name}: making the archive of {case.name}")
            make(path)
            self._archives[make] = path

    def _archive(self, case: Case) -> Path | None:
        return None if case.make_archive is None else self._archives[case.make_archive]

    @property
    def _latest(self) -> Path:
        """The directory of the latest run; each has a new name, by which a file system finds a new place for it."""
        return self._directory / f"run-{self._run_count}"

    @property
    def _guest_directory(self) -> Path:
        return self._latest / "site" / "guests" / GUEST

    def _run(self, case: Case, *, watched: bool = False) -> Sample:
        """Measure one run; one that takes too long ends the workload."""
        if self._latest.exists():
            shutil.rmtree(self._latest)
        self._run_count += 1
        site = self._latest / "site"
        site.mkdir(parents=True)
        (site / "umldisk.toml").write_text(case.settings, encoding="utf-8")
        archive = self._archive(case)
        settle()
        if archive is not None:
            extents.warm(archive)
            touch_memory(_TOUCHED_TIMES * archive.stat().st_size)
        command = self._command(case, site, archive)
        sample = measure(command, self._latest, timeout_seconds=self._timeout_seconds, watched=watched)
        if sample.cut_off:
            raise BenchError(f"{case.name} took more than {self._timeout_seconds:g} s")
        return sample

    def _command(self, case: Case, site: Path, archive: Path | None) -> tuple[str, ...]:
        if case.is_peer:
            return ("/bin/sh", "-c", _PEER_SCRIPT, "peer", str(archive))
        base = () if archive is None else ("--base", str(archive))
        return (self._umldisk, "--site", str(site), "build", *base, GUEST)


def _turned(cases: list[Case], by: int) -> list[Case]:
    first = by % len(cases)
    return cases[first:] + cases[:first]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
