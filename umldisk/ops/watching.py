"""Whether the nightly job does its work, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from umldisk.config.guest import require_guest_name
from umldisk.config.site import Site
from umldisk.ops.checkpoints.naming import DEFAULT_DRIVES, utc_now
from umldisk.ops.checkpoints.storage import reading_catalog, required_catalog
from umldisk.ops.checkpoints.take_report import TakeReport
from umldisk.ops.nightly import Status, judge_ages, write_metrics


def publish_metrics(site: Site, report: TakeReport, path: str) -> None:
    """Write what a take recorded as a Prometheus textfile, all or nothing; raises what `write_metrics` raises."""
    with required_catalog(site, report.guest) as catalog:
        taken = [catalog.checkpoint(report.guest, drive.number) for drive in report.drives if drive.number is not None]
    write_metrics(path, taken)


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The verdict on the checkpoints of a guest, or of all that have any; `line` is for a monitoring plugin."""

    site: str
    guest: str | None
    max_age_seconds: int
    status: Status
    line: str


def judge_checkpoints(
    site: Site,
    guest: str | None = None,
    *,
    drives: tuple[str, ...] = (),
    max_age: timedelta,
    clock: Callable[[], datetime] = utc_now,
) -> StatusReport:
    """Judge by the newest good checkpoint of each drive, by default of var, of each guest that has checkpoints.

    One without any is critical when it is named. A guest of which only other drives were recorded is judged by those.
    Raises UsageError for what is no guest's name, NoInputError
    when there is a store but no catalog, and what reading the catalog raises.
    """
    name = None if guest is None else require_guest_name(guest)
    with reading_catalog(site) as catalog:
        found = catalog.checkpoints(name, deleted=True) if catalog else []
    recorded: dict[str, set[str]] = {name: set()} if name else {}
    for one in found:
        recorded.setdefault(one.guest, set()).add(one.drive)
    pairs = [(who, drive) for who, known in recorded.items() for drive in drives or _watched(known)]
    verdict = judge_ages(found, pairs, max_age=max_age, now=clock())
    return StatusReport(site.directory, name, int(max_age.total_seconds()), verdict.status, verdict.line)


def _watched(recorded: set[str]) -> list[str]:
    return [drive for drive in DEFAULT_DRIVES if drive in recorded] or sorted(recorded) or list(DEFAULT_DRIVES)
