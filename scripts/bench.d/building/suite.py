"""`scripts/bench build`: all workloads of builds, one after the other."""

import argparse
import os
import shutil
import sys
from pathlib import Path

import machine
import scratch
from report import Marks
from running import BenchError

from building import report
from building.checks import Finding
from building.contest import Contest, Results
from building.workloads import Workload, select, workloads

MARKS = Marks.of("scripts/bench build")
_TIMEOUT_SECONDS = 300.0


class BuildSuite:
    """What was asked of `scripts/bench build`, and what came out so far."""

    marks = MARKS

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._results: list[Results] = []
        self._about: dict[str, str] = {}

    @property
    def has_results(self) -> bool:
        """Whether any run has counted."""
        return any(result.samples for result in self._results)

    @property
    def is_wrong(self) -> bool:
        """Whether a build failed or gave wrong disks."""
        return any(not finding.holds for result in self._results for finding in result.findings)

    def measure(self, directory: Path) -> None:
        """Run everything; a workload that fails is a finding, and the next one goes on."""
        umldisk = shutil.which(self._options.umldisk)
        if umldisk is None:
            raise BenchError(f"no umldisk at {self._options.umldisk}")
        umldisk = os.path.abspath(umldisk)
        chosen = select(workloads(self._options.archive), self._options.workloads[1:])
        scratch.require_free(max(workload.needed_bytes for workload in chosen), directory)
        if os.geteuid() != 0:
            print("bench: the peer is left out: only root can unpack a Debian", file=sys.stderr)
        self._about = machine.describe(directory) | machine.build_tools(umldisk)
        for workload in chosen:
            self._results.append(Results(workload))
            self._hold(workload, directory / workload.name, umldisk)

    def _hold(self, workload: Workload, place: Path, umldisk: str) -> None:
        place.mkdir()
        scratch.spread(place)
        result = self._results[-1]
        timeout = self._options.timeout or _TIMEOUT_SECONDS
        contest = Contest(result, place, umldisk, timeout_seconds=timeout, has_peers=os.geteuid() == 0)
        try:
            contest.hold(self._options.runs)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            result.findings.append(Finding("a command failed or took too long, and runs are missing", False))
        shutil.rmtree(place)

    def render(self) -> str:
        """Return the tables."""
        return report.render(self._results, self._about)
