"""The steps of a drill, as data: in which order, what ends it, and what all of it comes to.

    check DRIVE      e2fsck on every file system that comes back      one failed: the guest is not booted
    boot             the kernel starts and answers                    failed: that is all
    ready            the guest has started everything                 failed: that is all
    mounts           every drive is where it belongs        ┐
    probe            the command from umldisk.toml          │ each, whatever became of the others
    units            none has failed                        ┘
    power off        ctrl-alt-del, and everything unmounted
    check DRIVE      e2fsck on every disk that the guest has written to

Which hands do a step is nobody's business here: a `Bench` has a method for each, which tells what was found. A step
that was not to be done is skipped with its reason; a drill passes when no step failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Step(Enum):
    """What a drill does."""

    RESTORE = "restore"
    CHECK = "check"
    BOOT = "boot"
    READY = "ready"
    MOUNTS = "mounts"
    PROBE = "probe"
    UNITS = "units"
    POWER_OFF = "power off"
    CHECK_AFTER = "check afterwards"


class Outcome(Enum):
    """What came of a step."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Found:
    """What a step found, in one line; `output` are the last words of whoever said more."""

    outcome: Outcome
    what: str
    output: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step; `drive` is the one it was about, "" where it is about none."""

    step: Step
    drive: str
    outcome: Outcome
    what: str
    output: tuple[str, ...]
    seconds: float

    @property
    def line(self) -> str:
        """Return it in words: the step, the drive, what was found."""
        return ": ".join(part for part in (self.step.value, self.drive, self.what) if part)


def passed(what: str) -> Found:
    """Tell of a step that passed."""
    return Found(Outcome.PASSED, what)


def failed(what: str, output: Sequence[str] = ()) -> Found:
    """Tell of a step that failed, with its last words."""
    return Found(Outcome.FAILED, what, tuple(output))


def skipped(why: str) -> Found:
    """Tell of a step that was not to be done."""
    return Found(Outcome.SKIPPED, why)


class Bench(Protocol):
    """The hands of a drill; a step raises UmldiskError when it could not be done at all."""

    @property
    def drives(self) -> Sequence[str]:
        """The names of the drives with a file system."""

    @property
    def ready_seconds(self) -> float | None:
        """How long the guest took from its start until it was ready; None when it is not."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the start of the guest warned of."""

    def check(self, drive: str) -> Found:
        """Look at the file system of a drive as it comes back."""

    def boot(self) -> Found:
        """Start the kernel."""

    def ready(self) -> Found:
        """Wait until the guest has started everything."""

    def mounts(self) -> Found:
        """Look whether every drive is in use."""

    def probe(self) -> Found:
        """Run the guest's own probe."""

    def units(self) -> Found:
        """Ask for failed units."""

    def power_off(self) -> Found:
        """End the guest as gently as it lets itself be ended."""

    def check_after(self, drive: str) -> Found:
        """Look at the file system of a drive as the guest has left it."""


def run_steps(bench: Bench, *, clock: Callable[[], float] = time.monotonic) -> Iterator[StepResult]:
    """Do one step after the other and yield what came of each."""

    def done(step: Step, action: Callable[[], Found], drive: str = "") -> StepResult:
        began = clock()
        found = action()
        return StepResult(step, drive, found.outcome, found.what, found.output, round(clock() - began, 3))

    checks = []
    for drive in bench.drives:
        checks.append(done(Step.CHECK, lambda drive=drive: bench.check(drive), drive))  # type: ignore[misc]
        yield checks[-1]
    if failures(checks):
        return
    for step, action in ((Step.BOOT, bench.boot), (Step.READY, bench.ready)):
        result = done(step, action)
        yield result
        if failures([result]):
            return
    yield done(Step.MOUNTS, bench.mounts)
    yield done(Step.PROBE, bench.probe)
    yield done(Step.UNITS, bench.units)
    yield done(Step.POWER_OFF, bench.power_off)
    for drive in bench.drives:
        yield done(Step.CHECK_AFTER, lambda drive=drive: bench.check_after(drive), drive)  # type: ignore[misc]


def failures(results: Sequence[StepResult]) -> list[StepResult]:
    """Return the steps that failed."""
    return [result for result in results if result.outcome is Outcome.FAILED]


def how_far(results: Sequence[StepResult], *, ready_seconds: float | None) -> str:
    """Return in a few words without a colon how far a drill came."""
    if ready_seconds is not None:
        probed = any(result.step is Step.PROBE and result.outcome is not Outcome.SKIPPED for result in results)
        return f"ready in {ready_seconds:.1f} s" + (", probed" if probed else "")
    booted = any(result.step is Step.BOOT for result in results)
    return "not ready" if booted else "not booted" if results else "not restored"
