"""The tables of builds."""

from report import MEGABYTE, table, yes

from building.contest import Results
from building.workloads import MEMORY_LIMIT_MB, Case


def render(results: list[Results], machine: dict[str, str]) -> str:
    """Return targets, times, findings and the machine as one text."""
    parts = [
        "### Targets",
        table(("workload", "what", "to reach", "measured", "reached"), _target_rows(results)),
        "### Seconds, and peak memory in MB of all processes together",
        table(("workload", "what", "runs", "median", "fastest", "slowest", "memory"), _time_rows(results)),
        "Ratios are medians of the ratios of single rounds, in which both ran one after the other.",
        "### Results looked at",
        table(("workload", "finding", "as it should be"), _finding_rows(results)),
        "### Workloads",
        table(("workload", "what is built"), [(r.workload.name, r.workload.summary) for r in results]),
        "### Machine",
        table(("what", "which"), list(machine.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _target_rows(results: list[Results]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for result in results:
        for target in result.workload.targets:
            measured, reached = target.judge(result)
            rows.append((result.workload.name, target.case, target.text, measured, yes(reached)))
    peaks = [peak for result in results for case, peak in _own_peaks(result)]
    if peaks:
        measured = f"{max(peaks) / MEGABYTE:.0f} MB"
        holds = yes(max(peaks) <= MEMORY_LIMIT_MB * MEGABYTE)
        rows.append(("all", "umldisk", f"≤ {MEMORY_LIMIT_MB} MB of memory", measured, holds))
    return rows


def _own_peaks(result: Results) -> list[tuple[Case, int]]:
    return [(case, result.peaks[case.name]) for case in result.workload.cases if _is_own(result, case)]


def _is_own(result: Results, case: Case) -> bool:
    return not case.is_peer and case.name in result.peaks


def _time_rows(results: list[Results]) -> list[tuple[str, ...]]:
    return [
        (result.workload.name, case.name, *_times(result, case.name))
        for result in results
        for case in result.workload.cases
    ]


def _times(result: Results, case: str) -> tuple[str, ...]:
    seconds = [sample.seconds for sample in result.samples.get(case, [])]
    peak = f"{result.peaks[case] / MEGABYTE:.0f}" if case in result.peaks else "-"
    median = result.seconds(case)
    if median is None:
        return ("0", "-", "-", "-", peak)
    return (str(len(seconds)), f"{median:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", peak)


def _finding_rows(results: list[Results]) -> list[tuple[str, ...]]:
    return [(r.workload.name, finding.text, yes(finding.holds)) for r in results for finding in r.findings]
