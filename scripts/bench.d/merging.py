"""`scripts/bench`: merging, beside its peers, one workload after the other."""

import argparse
import sys
from pathlib import Path

import machine
import report
import scratch
from contest import Contest, Results, find_programs
from report import Marks
from running import BenchError, floor_bytes
from workloads import Workload, select

_TIMEOUT_SECONDS = 60.0


class MergeSuite:
    """What was asked of `scripts/bench`, and what came out so far."""

    marks = Marks.of("scripts/bench")

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._results: list[Results] = []
        self._about: dict[str, str] = {}

    @property
    def has_results(self) -> bool:
        """Whether any workload is done."""
        return bool(self._results)

    @property
    def is_wrong(self) -> bool:
        """Whether a result was wrong."""
        return any(finding.holds is False for result in self._results for finding in result.findings)

    def measure(self, directory: Path) -> None:
        """Run everything; what is done is kept when somebody stops the rest."""
        programs = find_programs(self._options.umldisk)
        chosen = _possible(select(self._options.workloads))
        scratch.require_room(chosen, directory)
        self._about = machine.describe(directory) | machine.merge_tools(programs)
        for workload in chosen:
            with scratch.place_for(workload, directory) as place:
                timeout = self._options.timeout or _TIMEOUT_SECONDS
                contest = Contest(workload, place, programs, timeout_seconds=timeout)
                self._results.append(contest.hold(self._options.runs))

    def render(self) -> str:
        """Return the tables."""
        return report.render(self._results, self._about, rounds=self._options.runs, floor_bytes=floor_bytes())


def _possible(workloads: list[Workload]) -> list[Workload]:
    """Leave out, aloud, what cannot be run on this machine."""
    possible = []
    for workload in workloads:
        reason = scratch.obstacle(workload)
        if reason is None:
            possible.append(workload)
        else:
            print(f"bench: {workload.name} is left out: {reason}", file=sys.stderr)
    if not possible:
        raise BenchError("nothing is left to run")
    return possible
