"""`scripts/bench checkpoint`: all workloads of checkpoints, one after the other."""

import argparse
import shutil
import sys
from pathlib import Path

import machine
import scratch
from building.checks import Finding
from report import Marks
from running import BenchError

from checkpointing import report
from checkpointing.contenders import BORG, RESTIC, Programs
from checkpointing.results import Results
from checkpointing.workloads import Setting, Workload, select

_TIMEOUT_SECONDS = 600.0


class CheckpointSuite:
    """What was asked of `scripts/bench checkpoint`, and what came out so far."""

    marks = Marks.of("scripts/bench checkpoint")

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._outcomes: list[tuple[Workload, Results]] = []
        self._about: dict[str, str] = {}

    @property
    def has_results(self) -> bool:
        """Whether any run has counted."""
        return any(results.samples for _workload, results in self._outcomes)

    @property
    def is_wrong(self) -> bool:
        """Whether a command failed or gave a wrong disk."""
        return any(not finding.holds for _workload, results in self._outcomes for finding in results.findings)

    def measure(self, directory: Path) -> None:
        """Run everything; a workload that fails is a finding, and the next one goes on."""
        programs = Programs.find(self._options.umldisk)
        chosen = select(self._options.workloads[1:])
        scratch.require_free(max(workload.needed_bytes for workload in chosen), directory)
        for name, path in ((RESTIC, programs.restic), (BORG, programs.borg)):
            if path is None:
                print(f"bench: {name} is left out: it is not on this machine", file=sys.stderr)
        self._about = machine.describe(directory) | machine.backup_tools(programs.umldisk)
        for workload in chosen:
            self._hold(workload, directory / workload.name, programs)

    def _hold(self, workload: Workload, place: Path, programs: Programs) -> None:
        place.mkdir()
        scratch.spread(place)
        results = Results()
        self._outcomes.append((workload, results))
        timeout = self._options.timeout or _TIMEOUT_SECONDS
        try:
            workload.hold(results, Setting(self._options.runs, place, programs, timeout))
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            results.findings.append(Finding("a command failed or took too long, and runs are missing", False))
        shutil.rmtree(place)

    def render(self) -> str:
        """Return the tables."""
        return report.render(self._outcomes, self._about)
