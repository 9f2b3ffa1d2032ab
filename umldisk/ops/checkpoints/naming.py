"""How people name a checkpoint.

    12                      its number in the guest's history
    latest                  the newest that is good
    2026-11-20              the newest good one at the end of that day
    2026-11-20 03:00        ... of that minute
    2026-11-20T03:00:07     ... of that second
    2026-11-20 03:00+01:00  the same in a named zone; without one it is this machine's

A time means all of its last unit, so that what a list shows leads to what it was shown for, and a day to its own night.
Of the two hours with one name that a clock set back makes, the first is meant, unless the zone is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.errors import NoInputError, UsageError

LATEST = "latest"
DEFAULT_DRIVES = ("var",)
"""What is recorded, and meant, when nobody names a drive."""

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_TIME = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(?:[ T](?P<minute>\d\d:\d\d)(?P<second>:\d\d)?)? ?(?P<zone>Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_EXPECTED = "a number, latest, or a time such as 2026-11-20 or '2026-11-20 03:15'"


@dataclass(frozen=True, slots=True)
class Name:
    """What a name says: a `number`, or the newest at or before `at` in UTC, or with neither the newest."""

    number: int | None = None
    at: datetime | None = None


def parse_name(text: str) -> Name:
    """Read the name of a checkpoint; raises UsageError when it is none."""
    if _NUMBER.fullmatch(text):
        return Name(number=int(text))
    return Name() if text == LATEST else Name(at=parse_time(text, expected=_EXPECTED))


def parse_time(text: str, *, expected: str = "a time such as 2026-11-20 or '2026-11-20 03:15'") -> datetime:
    """Return the last moment, in UTC, of the day, minute or second that is named; raises UsageError."""
    found = _TIME.fullmatch(text)
    try:
        if found is None or (found["zone"] and not found["minute"]):
            raise ValueError("another spelling")
        clock = f"{found['minute'] or '00:00'}{found['second'] or ''}"
        begun = datetime.fromisoformat(f"{found['day']}T{clock}{found['zone'] or ''}")
        if not found["minute"]:
            begun += timedelta(days=1)
        unit = timedelta(seconds=1 if found["second"] else 60 if found["minute"] else 0)
        return (begun.astimezone(UTC) + unit) - timedelta(microseconds=1)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError("not the name of a checkpoint", expected=expected, found=text or '""') from error


def utc_now() -> datetime:
    """The clock that is used when none is given."""
    return datetime.now(UTC)


def find_checkpoint(catalog: Catalog, guest: str, text: str, *, drive: str | None = None) -> Checkpoint:
    """Return the checkpoint that `text` names; one named by its number may be a deleted or a damaged one.

    Without `drive`, a time is of the drive var, or of the only drive that was recorded. Raises UsageError when the
    text is no name or does not say of which drive, NoInputError when there is no such checkpoint.
    """
    name = parse_name(text)
    if name.number is not None:
        found = catalog.checkpoint(guest, name.number)
        if drive is not None and found.drive != drive:
            raise UsageError(f"checkpoint {found.number} is of another drive", expected=drive, found=found.drive)
        return found
    return _newest(catalog.checkpoints(guest, drive=drive), guest, name.at, drive)


def _newest(checkpoints: Iterable[Checkpoint], guest: str, moment: datetime | None, drive: str | None) -> Checkpoint:
    good = [checkpoint for checkpoint in checkpoints if checkpoint.is_good]
    drives = sorted({checkpoint.drive for checkpoint in good})
    chosen = drive or next((name for name in DEFAULT_DRIVES if name in drives), None)
    if chosen is None and len(drives) > 1:
        raise UsageError("of which drive?", expected=", ".join(drives), hint="name it with --drive")
    wanted = [one for one in good if chosen in (None, one.drive) and (moment is None or one.time <= moment)]
    if not wanted:
        when = f" at or before {moment.astimezone():%Y-%m-%d %H:%M:%S}" if moment else ""
        of_drive = f" of {chosen}" if chosen else ""
        hint = f"umldisk checkpoint list {guest} shows which there are"
        raise NoInputError(f"{guest} has no good checkpoint{of_drive}{when}", hint=hint)
    return max(wanted, key=lambda one: (one.time, one.number))
