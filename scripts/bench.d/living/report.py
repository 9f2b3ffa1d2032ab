"""The tables of pauses."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from building.checks import Finding
from disks import MIB
from report import table, yes

from living.workloads import Workload


@dataclass(slots=True)
class Series:
    """The takes of one workload with so much changed before: pauses and whole takes in seconds."""

    changed_mib: int
    cow_bytes: int = 0
    pauses: list[float] = field(default_factory=list)
    takes: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    """What a workload has given so far."""

    series: list[Series] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


Outcome = tuple[Workload, Results]


def render(outcomes: list[Outcome], machine: dict[str, str]) -> str:
    """Return targets, pauses, findings and the machine as one text."""
    head = ("workload", "disks on", "changed MiB", "takes", "median", "shortest", "longest", "whole take, s")
    parts = [
        "### Targets",
        table(("workload", "what", "to reach", "measured", "reached"), list(_target_rows(outcomes))),
        "### Pauses in milliseconds",
        table(head, list(_pause_rows(outcomes))),
        "The guest writes synchronous records on ext4 all the time. Changed is the room that the COW file takes.",
        "### Results compared",
        table(("workload", "finding", "as it should be"), list(_finding_rows(outcomes))),
        "### Workloads",
        table(("workload", "what is recorded"), [(workload.name, workload.summary) for workload, _ in outcomes]),
        "### Machine",
        table(("what", "which"), list(machine.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _target_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for series in results.series:
            if workload.longest_seconds is not None and series.pauses:
                median = statistics.median(series.pauses)
                what = f"median pause, {series.changed_mib} MiB written"
                reached = yes(median <= workload.longest_seconds)
                limit = f"≤ {workload.longest_seconds * 1000:.0f} ms"
                yield workload.name, what, limit, f"{_milliseconds(median)} ms", reached


def _pause_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for series in results.series:
            if series.pauses:
                found = statistics.median(series.pauses), min(series.pauses), max(series.pauses)
                yield (
                    workload.name,
                    workload.file_system,
                    f"{series.cow_bytes / MIB:.0f}",
                    str(len(series.pauses)),
                    *map(_milliseconds, found),
                    f"{statistics.median(series.takes):.2f}",
                )


def _finding_rows(outcomes: list[Outcome]) -> Iterable[tuple[str, ...]]:
    for workload, results in outcomes:
        for finding in results.findings:
            yield workload.name, finding.text, yes(finding.holds)
