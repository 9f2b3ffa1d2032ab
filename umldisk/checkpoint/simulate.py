"""What a policy leaves in the long run: nights that have not been yet, each with a checkpoint and a prune after it.

    now   night 1: take, prune   night 2: take, prune   ...   night DAYS: take, prune   -> what is there then

Nights are a day apart on the clock on the wall. Deciding is `retention.decide`, the same as for a real prune, so that
what is shown is what will be. Damage, tags and protection to come are not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken
from umldisk.checkpoint.retention import Policy, Verdict, decide
from umldisk.errors import UsageError

MOST_DAYS = 36525
"""A hundred years, beyond which no policy has anything new to show."""

SIMULATED = "simulated"
"""The `reason` of checkpoints that are only imagined."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What would be there at `now`, oldest first by guest and drive; `removed` had to go on the way.

    `most` is how many there were at once, before a night's prune.
    """

    now: datetime
    verdicts: tuple[Verdict, ...]
    removed: int
    most: int


def simulate(
    checkpoints: Iterable[Checkpoint],
    policy: Policy,
    *,
    days: int,
    now: datetime,
    zone: tzinfo | None,
    drives: Sequence[tuple[str, str]] = (),
) -> Simulation:
    """Return what would be there after `days` more nights.

    `drives` are pairs of guest and drive that get a checkpoint each night, by default those that have one.
    Raises UsageError when `days` is not from 1 to MOST_DAYS.
    """
    if not 1 <= days <= MOST_DAYS:
        raise UsageError("so many days cannot be simulated", expected=f"1 to {MOST_DAYS}", found=days)
    there = [checkpoint for checkpoint in checkpoints if checkpoint.deleted_at is None]
    saved = sorted(set(drives) or {(checkpoint.guest, checkpoint.drive) for checkpoint in there})
    number = max((checkpoint.number for checkpoint in there), default=0)
    verdicts, removed, most, night = decide(there, policy, now=now, zone=zone), 0, len(there), now
    for day in range(1, days + 1):
        night = _same_hour(now, day, zone)
        taken = [_imagined(guest, drive, number + nth, night) for nth, (guest, drive) in enumerate(saved, 1)]
        number += len(taken)
        there += taken
        most = max(most, len(there))
        verdicts = decide(there, policy, now=night, zone=zone)
        there = [verdict.checkpoint for verdict in verdicts if not verdict.is_removable]
        removed += len(verdicts) - len(there)
    return Simulation(night, tuple(verdict for verdict in verdicts if not verdict.is_removable), removed, most)


def _same_hour(now: datetime, days: int, zone: tzinfo | None) -> datetime:
    """Return the time `days` later at which clocks show the same; raises UsageError after the calendar's end."""
    try:
        wall = now.astimezone(zone) + timedelta(days=days)
        return wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise UsageError("the calendar ends before so many days", found=days) from error


def _imagined(guest: str, drive: str, number: int, time: datetime) -> Checkpoint:
    """Return the checkpoint of a night to come, of which nothing is known but when it is taken."""
    record = Record(guest, number, time, Kind.CHECKPOINT, previous="", host="", version="")
    taken = Taken(
        drive=drive,
        size_bytes=0,
        index_sha256="",
        parent=None,
        base_index_sha256=None,
        changed_bytes=0,
        stored_bytes=0,
        read_bytes=0,
        read_whole=False,
        consistency=Consistency.OFF,
        merged=False,
        duration_seconds=0.0,
        reason=SIMULATED,
    )
    return Checkpoint(replace(record, taken=taken), taken)
