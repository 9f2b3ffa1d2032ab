"""What a workload gave, and what it is held against."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field

from building.checks import Finding
from report import MEGABYTE
from running import Sample

Judgement = tuple[str, bool | None]
"""What was measured, and whether that is enough; None when it was not measured."""


@dataclass(slots=True)
class Results:
    """What a workload has given so far; `samples` are by case and round, `sizes` are rooms in bytes."""

    samples: dict[str, dict[int, Sample]] = field(default_factory=lambda: defaultdict(dict))
    sizes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def seconds(self, case: str) -> float | None:
        """Return the median time of a case, or None when there was no run."""
        runs = self.samples.get(case)
        return statistics.median(sample.seconds for sample in runs.values()) if runs else None

    def ratio(self, case: str, other: str) -> float | None:
        """Return the median of the ratios of two cases in the rounds that both ran in, or None without one."""
        ours, theirs = self.samples.get(case, {}), self.samples.get(other, {})
        ratios = [ours[number].seconds / theirs[number].seconds for number in ours.keys() & theirs.keys()]
        return statistics.median(ratios) if ratios else None

    def peak_bytes(self, case: str) -> int:
        """Return the largest peak of memory of a case."""
        return max(sample.peak_bytes for sample in self.samples[case].values())


@dataclass(frozen=True, slots=True)
class TimesAsFast:
    """At least `times` as fast as another case."""

    case: str
    other: str
    times: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"no slower than {self.other}" if self.times == 1 else f"≥ {self.times:g} × as fast as {self.other}"

    def judge(self, results: Results) -> Judgement:
        """Compare two cases, round by round."""
        ratio = results.ratio(self.case, self.other)
        return ("-", None) if not ratio else (f"{1 / ratio:.2f} × as fast", 1 / ratio >= self.times)


@dataclass(frozen=True, slots=True)
class SecondsAtMost:
    """At most so many seconds."""

    case: str
    limit: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.limit:g} s"

    def judge(self, results: Results) -> Judgement:
        """Compare with the clock."""
        seconds = results.seconds(self.case)
        return ("-", None) if seconds is None else (f"{seconds:.2f} s", seconds <= self.limit)


@dataclass(frozen=True, slots=True)
class Alike:
    """The slowest of some cases takes at most `limit` times as long as the fastest."""

    case: str
    cases: tuple[str, ...]
    limit: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"slowest ≤ {self.limit:g} × fastest"

    def judge(self, results: Results) -> Judgement:
        """Compare the medians."""
        medians = [found for case in self.cases if (found := results.seconds(case)) is not None]
        if len(medians) < len(self.cases):
            return "-", None
        ratio = max(medians) / min(medians)
        return f"{ratio:.2f} ×", ratio <= self.limit


@dataclass(frozen=True, slots=True)
class RoomAtMost:
    """At most `limit` times the room of another."""

    case: str
    other: str
    limit: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.limit:g} × {self.other}"

    def judge(self, results: Results) -> Judgement:
        """Compare what both take on the disk."""
        if not {self.case, self.other} <= results.sizes.keys():
            return "-", None
        ratio = results.sizes[self.case] / results.sizes[self.other]
        return f"{ratio:.2f} ×", ratio <= self.limit


@dataclass(frozen=True, slots=True)
class MemoryAtMost:
    """At most so much memory in every run of umldisk; in units of 1,000,000 bytes."""

    case: str
    limit_mb: int

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.limit_mb} MB of memory"

    def judge(self, results: Results) -> Judgement:
        """Look for the largest peak."""
        peaks = [results.peak_bytes(case) for case in results.samples if case.startswith(self.case)]
        return ("-", None) if not peaks else (f"{max(peaks) / MEGABYTE:.0f} MB", max(peaks) <= self.limit_mb * MEGABYTE)


Target = TimesAsFast | SecondsAtMost | Alike | RoomAtMost | MemoryAtMost
