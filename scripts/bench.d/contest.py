"""One workload: every contender in every mode, in turns, on the same warm files.

    new/       base cow            never changed; `out` appears here and is removed
    in-place/  base cow            copied afresh from new/ before every run

Round 0 is not counted. It warms the memory up, and its results are compared: umldisk's with uml_moo's, byte for byte.
In every later round each contender runs once, the first one changing from round to round. Before each run the disk is
left to settle, the inputs are read once, and memory for the output is made ready.
"""

import os
import shutil
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import disks
import extents
from disks import BASE, COW, Disk
from running import BenchError, Sample, measure, settle, touch_memory
from workloads import CONTENDERS, CP, QEMU_IMG, UML_MOO, UMLDISK, Check, Mode, Workload

OUT = "out"

_ARGUMENTS = {
    (UMLDISK, Mode.NEW): ("merge", "--no-sync", COW, OUT),
    (UMLDISK, Mode.IN_PLACE): ("merge", "-d", "--no-sync", COW),
    (UMLDISK, Mode.VERSION): ("--version",),
    (UMLDISK, Mode.INFO): ("info", COW),
    (UML_MOO, Mode.NEW): (COW, OUT),
    (UML_MOO, Mode.IN_PLACE): ("-d", COW),
    (CP, Mode.NEW): ("--sparse=auto", BASE, OUT),
    (QEMU_IMG, Mode.NEW): ("convert", "-f", "raw", "-O", "raw", BASE, OUT),
}
_SHARED_SLACK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must be true of the results, and whether it is; None where it could not be found out."""

    text: str
    holds: bool | None


@dataclass(slots=True)
class Results:
    """Everything that one workload gave."""

    workload: Workload
    samples: dict[tuple[Mode, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    findings: list[Finding] = field(default_factory=list)

    def seconds(self, mode: Mode, contender: str) -> float | None:
        """Return the median time, or None when there was no run."""
        samples = self.samples.get((mode, contender))
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def peak_bytes(self, mode: Mode, contender: str) -> int | None:
        """Return the largest peak of memory, or None when there was no run."""
        return max((sample.peak_bytes for sample in self.samples.get((mode, contender), [])), default=None)

    def is_cut_off(self, mode: Mode, contender: str) -> bool:
        """Whether the runs were ended before they were done."""
        return any(sample.cut_off for sample in self.samples.get((mode, contender), []))


def find_programs(umldisk: str) -> dict[str, str]:
    """Return the contenders that are on this machine, with their paths."""
    found = {UMLDISK: shutil.which(umldisk), **{name: shutil.which(name) for name in CONTENDERS[1:]}}
    if found[UMLDISK] is None:
        raise BenchError(f"no umldisk at {umldisk}")
    return {name: os.path.abspath(path) for name, path in found.items() if path is not None}


class Contest:
    """A workload between the making of its files and the last round."""

    def __init__(
        self, workload: Workload, directory: Path, programs: dict[str, str], *, timeout_seconds: float
    ) -> None:
        self._workload = workload
        self._programs = programs
        self._timeout_seconds = timeout_seconds
        self._new = directory / "new"
        self._in_place = directory / "in-place"
        self._disk = workload.disk()
        self._cut_off: dict[tuple[Mode, str], Sample] = {}

    def hold(self, rounds: int) -> Results:
        """Make the files, run everything, and return what came out."""
        for directory in (self._new, self._in_place):
            directory.mkdir()
        disks.make(self._disk, self._new)
        results = Results(self._workload)
        _say(f"{self._workload.name}: comparing")
        self._compare(results)
        for number in range(rounds):
            for mode in self._workload.modes:
                for contender in _turned(self._contenders(mode), number):
                    results.samples[mode, contender].append(self._run(mode, contender))
                    self._clear()
                latest = (f"{name} {results.samples[mode, name][-1].seconds:.3f}" for name in self._contenders(mode))
                _say(f"{self._workload.name} {mode.value}, round {number + 1} of {rounds}: {', '.join(latest)}")
        return results

    def _contenders(self, mode: Mode) -> list[str]:
        timed = self._workload.timed or CONTENDERS
        return [name for name in self._programs if name in timed and (name, mode) in _ARGUMENTS]

    def _run(self, mode: Mode, contender: str) -> Sample:
        """Measure one run; one that was cut off before is not tried again."""
        if (mode, contender) in self._cut_off:
            return self._cut_off[mode, contender]
        directory = self._new
        if mode is Mode.IN_PLACE:
            directory = self._in_place
            for name in (BASE, COW):
                extents.duplicate(self._new / name, directory / name)
        settle()
        for name in (BASE, COW):
            extents.warm(directory / name)
        touch_memory(self._disk.base_bytes + self._disk.cow_bytes)
        command = (self._programs[contender], *_ARGUMENTS[contender, mode])
        sample = measure(command, directory, timeout_seconds=self._timeout_seconds)
        if sample.cut_off:
            self._cut_off[mode, contender] = sample
        return sample

    def _clear(self) -> None:
        """Remove what a run made, before it costs the disk more than it must."""
        for path in (self._new / OUT, self._in_place / BASE, self._in_place / COW):
            path.unlink(missing_ok=True)

    # -- the round that is not counted --------------------------------------------------------------------------

    def _compare(self, results: Results) -> None:
        """Run everything once and look at the results.

        What uml_moo makes of the disk is kept as long as needed: its new image, or where that takes too long the
        backing file it merged into.
        """
        for mode in self._workload.modes:
            for contender in self._contenders(mode):
                if contender not in (UMLDISK, UML_MOO):
                    self._run(mode, contender)
                    self._clear()
        if Mode.IN_PLACE not in self._workload.modes:
            for mode in self._workload.modes:
                self._run(mode, UMLDISK)
            return
        reference = self._reference()
        for mode in self._workload.modes:
            self._run(mode, UMLDISK)
            made = self._new / OUT if mode is Mode.NEW else self._in_place / BASE
            results.findings.append(_compared(made, reference, mode))
            if self._workload.check is not None:
                results.findings.append(_checked(made, self._workload.check, self._disk, mode))
            self._clear()
        if reference is not None:
            reference.unlink()

    def _reference(self) -> Path | None:
        """Return uml_moo's result, or None when there is none."""
        kept = self._new / "reference"
        for mode in reversed(self._workload.modes) if UML_MOO in self._programs else ():
            if kept.exists() and UML_MOO not in self._contenders(mode):
                break
            cut_off = self._run(mode, UML_MOO).cut_off
            made = self._new / OUT if mode is Mode.NEW else self._in_place / BASE
            if not cut_off and not kept.exists():
                made.rename(kept)
            self._clear()
        return kept if kept.exists() else None


def _compared(made: Path, reference: Path | None, mode: Mode) -> Finding:
    if reference is None:
        return Finding(f"{mode.value}: nothing to compare the result with", None)
    difference = extents.first_difference(made, reference)
    if difference is None:
        return Finding(f"{mode.value}: same bytes as uml_moo", True)
    return Finding(f"{mode.value}: differs from uml_moo's result: {difference}", False)


def _checked(made: Path, check: Check, disk: Disk, mode: Mode) -> Finding:
    try:
        if check is Check.NO_BLOCKS:
            found = sum(extents.allocation(made, start, end).allocated_bytes for start, end in disk.changed)
            return Finding(f"{mode.value}: {_mib(found)} allocated for the zeros", found == 0)
        allocated, shared = extents.allocation(made)
    except OSError as error:
        return Finding(f"{mode.value}: {check.value}: not to be told here ({error.strerror})", None)
    text = f"{mode.value}: {_mib(shared)} of {_mib(allocated)} shared"
    return Finding(text, allocated - shared <= _SHARED_SLACK_BYTES)


def _mib(count: int) -> str:
    return f"{count / disks.MIB:.0f} MiB"


def _turned(names: list[str], by: int) -> list[str]:
    first = by % len(names) if names else 0
    return names[first:] + names[:first]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
