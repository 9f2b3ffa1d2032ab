"""The tables of checkpoints."""

import statistics
from collections.abc import Iterable

from disks import MIB
from report import MEGABYTE, table, yes

from checkpointing.results import Results
from checkpointing.workloads import Workload

Outcome = tuple[Workload, Results]


def render(outcomes: list[Outcome], machine: dict[str, str]) -> str:
    """Return targets, times, rooms, findings and the machine as one text."""
    parts = [
        "### Targets",
        table(("workload", "what", "to reach", "measured", "reached"), list(_target_rows(outcomes))),
        "### Seconds, and peak memory in MB",
        table(("workload", "what", "runs", "median", "fastest", "slowest", "memory"), list(_time_rows(outcomes))),
        "Ratios are medians of the ratios of single rounds, in which both ran one after the other.",
        "### Room after the last night",
        table(("workload", "whose", "MiB"), list(_room_rows(outcomes))),
        "### Results compared",
        table(("workload", "finding", "as it should be"), list(_finding_rows(outcomes))),
        "### Workloads",
        table(("workload", "what is recorded"), [(workload.name, workload.summary) for workload, _ in outcomes]),
        "### Machine",
        table(("what", "which"), list(machine.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _target_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for target in workload.targets:
            measured, reached = target.judge(results)
            yield workload.name, target.case, target.text, measured, yes(reached)


def _time_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for case in sorted(results.samples):
            seconds = [sample.seconds for sample in results.samples[case].values()]
            times = (f"{found:.2f}" for found in (statistics.median(seconds), min(seconds), max(seconds)))
            yield workload.name, case, str(len(seconds)), *times, f"{results.peak_bytes(case) / MEGABYTE:.0f}"


def _room_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for whose, size_bytes in results.sizes.items():
            yield workload.name, whose, f"{size_bytes / MIB:.0f}"


def _finding_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for finding in results.findings:
            yield workload.name, finding.text, yes(finding.holds)
