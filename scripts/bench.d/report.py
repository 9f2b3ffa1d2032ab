"""The tables, as Markdown that is also fit for a terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from contest import Results
from workloads import CONTENDERS, MEMORY_LIMIT_MB, UMLDISK, Mode

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Marks:
    """The two lines between which a file's tables stand."""

    begin: str
    end: str

    @classmethod
    def of(cls, program: str) -> Self:
        """Return the marks of what `program` writes."""
        return cls(f"<!-- what follows is written by {program} -->", f"<!-- end of what {program} writes -->")


def render(results: list[Results], machine: dict[str, str], *, rounds: int, floor_bytes: int) -> str:
    """Return targets, times, findings and the machine as one text."""
    parts = [
        "### Targets",
        table(("workload", "command", "to reach", "measured", "reached"), _target_rows(results)),
        f"### Medians of {rounds} runs: seconds, and peak memory in MB",
        table(("workload", "command", *CONTENDERS), _time_rows(results)),
        f"A peak below {floor_bytes / MEGABYTE:.0f} MB cannot be told. `>`: ended there.",
        "### Results compared",
        table(("workload", "finding", "as it should be"), _finding_rows(results)),
        "### Workloads",
        table(("workload", "disk"), [(r.workload.name, r.workload.summary) for r in results]),
        "### Machine",
        table(("what", "which"), list(machine.items())),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table whose columns also line up as text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _target_rows(results: list[Results]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for result in results:
        for target in result.workload.targets:
            own = result.seconds(target.mode, UMLDISK)
            peer = result.seconds(target.mode, target.peer) if target.peer else 0.0
            measured, reached = ("-", "-")
            if own is not None and peer is not None:
                measured, holds = target.judge(own, peer)
                measured = f"over {measured}" if _is_bound(result, target.mode, target.peer) else measured
                reached = yes(holds)
            rows.append((result.workload.name, target.mode.value, target.text, measured, reached))
    peaks = [result.peak_bytes(mode, UMLDISK) for result in results for mode in result.workload.modes]
    peak_mb = max((peak for peak in peaks if peak is not None), default=0) / MEGABYTE
    rows.append(("all", "all", f"≤ {MEMORY_LIMIT_MB} MB peak", f"{peak_mb:.1f} MB", yes(peak_mb <= MEMORY_LIMIT_MB)))
    return rows


def _is_bound(result: Results, mode: Mode, peer: str | None) -> bool:
    return peer is not None and result.is_cut_off(mode, peer)


def _time_rows(results: list[Results]) -> list[tuple[str, ...]]:
    return [
        (result.workload.name, mode.value, *(_cell(result, mode, contender) for contender in CONTENDERS))
        for result in results
        for mode in result.workload.modes
    ]


def _cell(result: Results, mode: Mode, contender: str) -> str:
    seconds, peak = result.seconds(mode, contender), result.peak_bytes(mode, contender)
    if seconds is None or peak is None:
        return "-"
    sign = "> " if result.is_cut_off(mode, contender) else ""
    digits = 3 if seconds < 1 else 2 if seconds < 10 else 1
    return f"{sign}{seconds:.{digits}f} / {peak / MEGABYTE:.0f}"


def _finding_rows(results: list[Results]) -> list[tuple[str, ...]]:
    return [(r.workload.name, finding.text, yes(finding.holds)) for r in results for finding in r.findings]


def yes(holds: bool | None) -> str:
    """Return the word for it; None is what could not be found out."""
    return {True: "yes", False: "no", None: "-"}[holds]


def write_into(path: Path, text: str, marks: Marks) -> None:
    """Put `text` between the two marks in the file, which is made when it is not there; the rest of it stays."""
    old = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n\n"
    before, found, rest = old.partition(marks.begin)
    after = rest.partition(marks.end)[2] if found else "\n"
    separator = "" if found or before.endswith("\n\n") else "\n"
    path.write_text(f"{before}{separator}{marks.begin}\n\n{text}\n{marks.end}{after}", encoding="utf-8")
