"""A restore that is only tried: whether a guest would come back from its checkpoints, and run.

    plan      as a restore would; the bases that stay are vouched for and held                     (--dry-run ends here)
    make      a scratch site with the disks
    steps     check, boot, ready, mounts, probe, units, power off, check again: `steps` tells the order
    clear     the guest is ended and the scratch site removed, whatever happened
    record    a DRILL record about the checkpoints, then the metrics, whose place was tried before all else

The guest itself may be running: nothing of it is written, and only bases and the manifest are read. What is wrong with
the store ends a drill as it would end a restore; where checkpoints were chosen by then, that is recorded, too.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from umldisk.checkpoint import history
from umldisk.checkpoint.record import Kind, drilling
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest, boot_argv
from umldisk.config.site import Site
from umldisk.errors import BusyError, DataError, NoInputError, UmldiskError
from umldisk.guest.jail import require_bubblewrap
from umldisk.guest.kernel import find_kernel
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.naming import utc_now
from umldisk.ops.checkpoints.storage import catalog_for_writing, store_of
from umldisk.ops.drilling.bench import RealBench
from umldisk.ops.drilling.fitting import fit_out
from umldisk.ops.drilling.planning import DrillPlan, ext_drives, held_plan
from umldisk.ops.drilling.scratch import PLACE, ScratchSite, scratch_directory
from umldisk.ops.drilling.steps import Bench, Outcome, Step, StepResult, failures, how_far, run_steps
from umldisk.ops.nightly import DrillResult, write_drill_metrics
from umldisk.ops.restoring.planning import Wish
from umldisk.progress import SILENT, Progress
from umldisk.system.staging import require_place

TIMEOUT_SECONDS = 300.0
_MOST_REASON_CHARACTERS = 400
_NEWEST = Wish()


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """How a drill is done.

    `timeout_seconds` bounds becoming ready, the probe and the shutdown, each by itself. `place` is the directory for
    the scratch site, by default drill/ of the site; with `keep` it stays. `metrics` is a file for Prometheus. For the
    record, the store is waited for as long as `lock_wait_seconds`. `dry_run` only plans.
    """

    timeout_seconds: float = TIMEOUT_SECONDS
    place: str | None = None
    keep: bool = False
    metrics: str | None = None
    lock_wait_seconds: float = 0
    dry_run: bool = False


_DEFAULTS = DrillOptions()


MakeBench = Callable[[ScratchSite, Sequence[Drive], float], Bench]


def _real_bench(site: ScratchSite, checked: Sequence[Drive], timeout_seconds: float) -> Bench:
    return RealBench(site, checked, timeout_seconds=timeout_seconds)


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What a drill found; with `dry_run` what it would do, `passed` being None.

    `plan` is the restore in words, `failure` the first failed step, "" when there is none. `ready_seconds` is None when
    the guest was never ready. `record` is the number of the record, None when it could not be written because somebody
    used the store. `scratch` is what was kept, "" for nothing.
    """

    guest: str
    site: str
    checkpoints: tuple[int, ...]
    plan: tuple[str, ...]
    passed: bool | None
    failure: str
    steps: tuple[StepResult, ...]
    started_at: datetime
    seconds: float
    ready_seconds: float | None
    record: int | None
    scratch: str
    warnings: tuple[str, ...]
    dry_run: bool


def drill_guest(
    site: Site,
    name: str,
    wish: Wish = _NEWEST,
    options: DrillOptions = _DEFAULTS,
    *,
    store: Store | None = None,
    make_bench: MakeBench = _real_bench,
    clock: Callable[[], datetime] = utc_now,
    progress: Progress = SILENT,
) -> DrillReport:
    """Try whether the guest called `name` comes back as `wish` says; what is wrong with it is in the report.

    Raises UsageError for what cannot be wished, NoInputError when guest, checkpoint, kernel or bubblewrap is missing,
    DataError when a base was changed or a chunk is not there or damaged, HistoryError when the history is not whole,
    BusyError while somebody writes to the bases, CannotCreateError and StorageError when there is no room or place,
    also for the metrics; those that cannot be written in the end leave a drill that is recorded.
    """
    guest = site.guest(name)
    boot_argv(guest)
    if not os.path.isdir(guest.directory):
        raise NoInputError("there is no such guest", where=guest.directory, hint=f"make it: umldisk build {name}")
    require_bubblewrap()
    find_kernel(guest.kernel)
    if options.metrics is not None:
        require_place(options.metrics)
    kept_in = store or store_of(site, guest)
    began = clock().astimezone(UTC)
    with held_plan(site, guest, wish, store=kept_in, now=began, progress=progress) as plan:
        drill = _Drill(site, guest, plan, options, kept_in, make_bench, clock, progress, time.monotonic())
        return drill.rehearsed(began) if options.dry_run else drill.done(began)


@dataclass(frozen=True, slots=True)
class _Drill:
    """One drill with all that it needs."""

    site: Site
    guest: Guest
    plan: DrillPlan
    options: DrillOptions
    store: Store
    make_bench: MakeBench
    clock: Callable[[], datetime]
    progress: Progress
    began: float

    @property
    def place(self) -> str:
        """Where the scratch site is made."""
        return self.options.place or os.path.join(self.site.directory, PLACE)

    def rehearsed(self, started_at: datetime) -> DrillReport:
        """Say what would be done."""
        probe = f"probe: {self.guest.probe}" if self.guest.probe else "no probe"
        return dataclasses.replace(
            self._report((), started_at),
            plan=(*self.plan.restore.drive_lines(), f"scratch site below {self.place}", probe),
            passed=None,
            dry_run=True,
        )

    def done(self, started_at: datetime) -> DrillReport:
        """Carry it out, and record it."""
        steps: list[StepResult] = []
        with scratch_directory(self.place, self.guest.name, keep=self.options.keep) as scratch:
            try:
                began = time.monotonic()
                site = fit_out(scratch, self.plan, store=self.store, progress=self.progress)
            except (DataError, NoInputError) as error:
                self._tell(self._report((_unrestored(error, began),), started_at))
                raise
            bench = self.make_bench(site, ext_drives(self.plan), self.options.timeout_seconds)
            with self.progress.task("drill", None) as task:
                for result in run_steps(bench):
                    steps.append(result)
                    task.add(1)
        report = dataclasses.replace(
            self._report(steps, started_at, ready_seconds=bench.ready_seconds),
            scratch=scratch if self.options.keep else "",
            warnings=bench.warnings,
        )
        return self._tell(report)

    def _report(
        self, steps: Sequence[StepResult], started_at: datetime, *, ready_seconds: float | None = None
    ) -> DrillReport:
        wrong = failures(steps)
        return DrillReport(
            guest=self.guest.name,
            site=self.site.directory,
            checkpoints=self.plan.numbers,
            plan=tuple(self.plan.restore.drive_lines()),
            passed=not wrong,
            failure=wrong[0].line[:_MOST_REASON_CHARACTERS] if wrong else "",
            steps=tuple(steps),
            started_at=started_at,
            seconds=round(time.monotonic() - self.began, 3),
            ready_seconds=ready_seconds,
            record=None,
            scratch="",
            warnings=(),
            dry_run=False,
        )

    def _tell(self, report: DrillReport) -> DrillReport:
        """Write the record and the metrics of a drill."""
        recorded = dataclasses.replace(report, record=self._record(report))
        if self.options.metrics is not None:
            result = DrillResult(report.guest, bool(report.passed), self.clock(), report.seconds, report.ready_seconds)
            write_drill_metrics(self.options.metrics, result)
        return recorded

    def _record(self, report: DrillReport) -> int | None:
        """Write the DRILL record and return its number; None when somebody uses the store for too long."""
        restored = [step for step in report.steps if step.step is not Step.RESTORE]
        how = how_far(restored, ready_seconds=report.ready_seconds)
        try:
            with (
                self.store.writing(self.guest.name, wait_seconds=self.options.lock_wait_seconds),
                catalog_for_writing(self.site) as catalog,
            ):
                record = history.append(
                    self.store,
                    catalog,
                    self.guest.name,
                    Kind.DRILL,
                    clock=self.clock,
                    host=os.uname().nodename,
                    subjects=report.checkpoints,
                    detail=drilling(how, report.failure),
                )
        except BusyError:
            return None
        return record.number


def _unrestored(error: UmldiskError, began: float) -> StepResult:
    return StepResult(Step.RESTORE, "", Outcome.FAILED, error.line(), (), round(time.monotonic() - began, 3))
