"""`scripts/bench live`: all workloads, one after the other."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import machine
import scratch
from building.checks import Finding
from report import Marks
from running import BenchError, settle

from living import report
from living.guest import BusyGuest
from living.report import Results, Series
from living.workloads import Workload, select


class LiveSuite:
    """What was asked of `scripts/bench live`, and what came out so far."""

    marks = Marks.of("scripts/bench live")

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._outcomes: list[tuple[Workload, Results]] = []
        self._about: dict[str, str] = {}

    @property
    def has_results(self) -> bool:
        """Whether any take has counted."""
        return any(series.pauses for _workload, results in self._outcomes for series in results.series)

    @property
    def is_wrong(self) -> bool:
        """Whether a command failed or recorded a damaged file system."""
        return any(not finding.holds for _workload, results in self._outcomes for finding in results.findings)

    def measure(self, directory: Path) -> None:
        """Run everything; a workload that fails is a finding, and the next one goes on."""
        umldisk = shutil.which(self._options.umldisk)
        if umldisk is None:
            raise BenchError(f"no umldisk at {self._options.umldisk}")
        chosen = select(self._options.workloads[1:])
        scratch.require_free(max(workload.volume_bytes for workload in chosen), directory)
        self._about = machine.describe(directory)
        for workload in chosen:
            obstacle = scratch.volume_obstacle(workload.file_system)
            if obstacle is None:
                self._hold(workload, directory / workload.name, os.path.abspath(umldisk))
            else:
                print(f"bench: {workload.name} is left out: {obstacle}", file=sys.stderr)

    def _hold(self, workload: Workload, place: Path, umldisk: str) -> None:
        results = Results()
        self._outcomes.append((workload, results))
        place.mkdir()
        try:
            with scratch.volume(workload.file_system, workload.volume_bytes, place):
                guest = BusyGuest(place / "site", umldisk)
                with guest.running():
                    for mib in workload.changed_mib:
                        self._take_some(workload, guest, results, mib)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            results.findings.append(Finding("a command failed, and takes are missing", False))
        place.rmdir()

    def _take_some(self, workload: Workload, guest: BusyGuest, results: Results, mib: int) -> None:
        """Change so much and take checkpoints; the first one, which reads all, does not count."""
        guest.write(mib)
        guest.work()
        series = Series(mib)
        results.series.append(series)
        report_of = guest.take()
        for number in range(self._options.runs):
            settle()
            started = time.perf_counter()
            report_of = guest.take()
            series.takes.append(time.perf_counter() - started)
            series.pauses.append(report_of["pause_seconds"])
            said = f"{series.pauses[-1] * 1000:.1f} ms of {series.takes[-1]:.2f} s"
            print(f"bench: {workload.name}, {mib} MiB, {number + 1}: {said}", file=sys.stderr, flush=True)
        series.cow_bytes = guest.cow_bytes()
        guest.rest()
        sound = guest.is_sound(report_of["drives"][0]["number"])
        results.findings.append(Finding(f"{mib} MiB: clean after the journal was replayed", sound))

    def render(self) -> str:
        """Return the tables."""
        return report.render(self._outcomes, self._about)
