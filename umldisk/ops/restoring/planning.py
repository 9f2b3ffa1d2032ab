"""What a restore will do, as data: decided before anything is touched, printed by --dry-run, kept for a second run.

    drive                      comes back as
    mounted on /var            its checkpoint, with an empty COW file
    named by --drive           its checkpoint if it was ever recorded, else as the next line
    any other with a COW file  an empty COW file over its base, which must be what was built or merged
    tmp, swap                  a new, empty disk
    any other without one      its checkpoint if it was ever recorded, else it stays as it is

Which checkpoint: the one with the given number for its own drive, and for the others the newest good one that is not
younger; else the newest good one at or before the given time; else the newest good one. One that is damaged or deleted
is never taken, and when it was asked for by number that is an error.

What leaves goes to the evidence: COW files, disks that a checkpoint or a new disk replaces, and the journals beside
them. Bases that stay are only looked at. A reset is the same with another choice of drives, none of which comes from a
checkpoint (`resetting`), and it may remove what leaves.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.config.guest import Guest
from umldisk.cow.journal import SUFFIX as JOURNAL_SUFFIX
from umldisk.errors import DataError, NoInputError, UsageError
from umldisk.image.drives import Content, Drive
from umldisk.ops.restoring.noted import parse_notes

FORMAT = 1
RECORDED_MOUNT = "/var"
_SCRATCH_MOUNTS = ("/tmp", None)


class Purpose(Enum):
    """What a wish is for."""

    RESTORE = "restore"
    RESET = "reset"


class Way(Enum):
    """How a drive comes back."""

    CHECKPOINT = "checkpoint"
    EMPTY_COW = "empty COW file"
    NEW = "new disk"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: a checkpoint's `number`, or the newest at or before `at`; `drives` () are all.

    A reset knows no checkpoints, and () are those that it means by default. What leaves is kept as evidence, unless
    `keeps_evidence` is false: then it is removed.
    """

    number: int | None = None
    at: datetime | None = None
    drives: tuple[str, ...] = ()
    purpose: Purpose = Purpose.RESTORE
    keeps_evidence: bool = True


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What was found of a base that stays: its digest, and what vouches for it; None and "" when it was not read.

    `known` tells the index that it is known to equal and how it looked then, None when there is no such index.
    """

    digest: str | None
    reference: str
    known: BaseState | None = None


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """What happens to one drive; `base` and `cow` are names of files in the guest's directory.

    `index_sha256` is of the index that the base will equal, or is known to equal, None when there is none. `digest` and
    `reference` are of a base that stays.
    """

    drive: str
    way: Way
    base: str
    cow: str | None
    checkpoint: int | None = None
    taken_at: datetime | None = None
    index_sha256: str | None = None
    digest: str | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """A whole restore: `leaving` are the files that go to the directory `evidence`, or with "" are removed, in order.

    `root` is the base of the drive that is mounted on "/". It is away while old and new files change places; when it is
    not itself replaced, it comes back. `known` maps drives to what is known of their base now, and of one that stays
    still will be if nobody writes to it.
    """

    guest: str
    wish: Wish
    time: datetime
    evidence: str
    drives: tuple[DrivePlan, ...]
    leaving: tuple[str, ...]
    root: str | None
    known: Mapping[str, BaseState]

    @property
    def guard(self) -> str | None:
        """The root drive's base when it only makes room for the time of the exchange."""
        return None if self.root in self.leaving else self.root

    def lines(self) -> list[str]:
        """Return the plan in words, a step a line."""
        leaving = ", ".join(self.leaving)
        if self.evidence:
            return [f"keep {leaving} in evidence/{self.evidence}", *self.drive_lines()]
        return [*([f"remove {leaving}"] if leaving else []), *self.drive_lines()]

    def drive_lines(self) -> list[str]:
        """Return in words how every drive comes back."""
        return [line for drive in self.drives for line in _lines_of(drive)]

    def build(self) -> bytes:
        """Return the plan as a file."""
        row = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(row, default=_plain, indent=1).encode() + b"\n"


def _lines_of(plan: DrivePlan) -> list[str]:
    cow = f", with a fresh {plan.cow}" if plan.cow else ""
    if plan.way is Way.CHECKPOINT:
        taken = f" of {plan.taken_at:%Y-%m-%d %H:%M:%S} UTC" if plan.taken_at else ""
        return [f"{plan.drive}: {plan.base} from checkpoint {plan.checkpoint}{taken}{cow}"]
    if plan.way is Way.EMPTY_COW:
        vouched = f"is as {plan.reference} says" if plan.reference else "was not read"
        return [f"{plan.drive}: a fresh {plan.cow} over {plan.base}, which {vouched}"]
    if plan.way is Way.NEW:
        return [f"{plan.drive}: a new, empty {plan.base}{cow}"]
    return [f"{plan.drive}: {plan.base} stays as it is: it was never recorded, and nothing was kept beside it"]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    raise TypeError(type(value).__name__)


def parse(data: bytes, *, where: str = "") -> RestorePlan:
    """Read a plan; raises DataError when it is none or of another format."""
    try:
        row = json.loads(data)
        if row.pop("format") != FORMAT:
            raise ValueError("another format")
        if os.path.basename(row["evidence"]) != row["evidence"]:
            raise ValueError("evidence elsewhere")
        wish = _wish(row.pop("wish"))
        return RestorePlan(
            **row
            | {
                "wish": wish,
                "time": datetime.fromisoformat(row["time"]),
                "drives": tuple(_drive(drive) for drive in row["drives"]),
                "leaving": tuple(row["leaving"]),
                "known": parse_notes(row["known"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("the plan of a restore cannot be read", where=where, found=str(error)) from error


def _wish(row: Mapping[str, Any]) -> Wish:
    purpose, keeps_evidence = Purpose(row["purpose"]), bool(row["keeps_evidence"])
    return Wish(row["number"], _time(row["at"]), tuple(row["drives"]), purpose, keeps_evidence)


def _drive(row: Mapping[str, Any]) -> DrivePlan:
    return DrivePlan(**{**row, "way": Way(row["way"]), "taken_at": _time(row["taken_at"])})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# -- deciding ---------------------------------------------------------------------------------------------------------


def ways(guest: Guest, checkpoints: Sequence[Checkpoint], wish: Wish) -> dict[Drive, tuple[Way, Checkpoint | None]]:
    """Decide how every drive that is asked for comes back: see the table above.

    Raises UsageError for drives that there are not, NoInputError when there is no such checkpoint, DataError when the
    one that is named is damaged.
    """
    selected = selected_drives(guest, wish)
    named = _named(checkpoints, wish.number) if wish.number is not None else None
    if named is not None and named.drive not in {drive.name for drive in selected}:
        raise UsageError(f"checkpoint {named.number} is of another drive", found=named.drive)
    moment = named.time if named else wish.at
    chosen: dict[Drive, tuple[Way, Checkpoint | None]] = {}
    for drive in selected:
        own = [checkpoint for checkpoint in checkpoints if checkpoint.drive == drive.name]
        if named is not None and named.drive == drive.name:
            chosen[drive] = Way.CHECKPOINT, named
        elif _from_checkpoint(drive, own, wish):
            chosen[drive] = Way.CHECKPOINT, _newest(drive, own, moment)
        else:
            chosen[drive] = _way_without(drive), None
    if wish.at and not any(checkpoint for _way, checkpoint in chosen.values()):
        raise UsageError("none of these drives comes back from a checkpoint", found=", ".join(wish.drives))
    return chosen


def selected_drives(guest: Guest, wish: Wish) -> list[Drive]:
    """Return the drives that a wish names, in the guest's order, or all; raises UsageError for one there is not."""
    names = [drive.name for drive in guest.drives]
    unknown = [name for name in wish.drives if name not in names]
    if unknown:
        raise UsageError("the guest has no such drive", where=guest.name, expected=", ".join(names), found=unknown[0])
    return [drive for drive in guest.drives if not wish.drives or drive.name in wish.drives]


def _named(checkpoints: Iterable[Checkpoint], number: int) -> Checkpoint:
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.number == number), None)
    if found is None:
        raise NoInputError(f"there is no checkpoint {number}", hint="see umldisk checkpoint list")
    if found.deleted_at is not None:
        raise NoInputError(f"checkpoint {number} was deleted", found=f"{found.deleted_at:%Y-%m-%d %H:%M:%S}")
    if found.damage:
        raise DataError(f"checkpoint {number} is damaged", found=found.damage, hint="choose another one")
    return found


def is_scratch(drive: Drive) -> bool:
    """Whether nothing on the drive is worth keeping."""
    return not drive.copy_on_write and (drive.content is Content.SWAP or drive.mount_point in _SCRATCH_MOUNTS)


def _from_checkpoint(drive: Drive, own: Collection[Checkpoint], wish: Wish) -> bool:
    if drive.mount_point == RECORDED_MOUNT:
        return True
    return bool(own) and not is_scratch(drive) and (drive.name in wish.drives or not drive.copy_on_write)


def _newest(drive: Drive, own: Iterable[Checkpoint], moment: datetime | None) -> Checkpoint:
    good = [c for c in own if c.is_good and (moment is None or c.time <= moment)]
    if not good:
        when = f" at or before {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else ""
        raise NoInputError(
            f"there is no good checkpoint of drive {drive.name}{when}",
            hint="see umldisk checkpoint list, or name the drives to restore with --drive",
        )
    return max(good, key=lambda checkpoint: (checkpoint.time, checkpoint.number))


def _way_without(drive: Drive) -> Way:
    if drive.copy_on_write:
        return Way.EMPTY_COW
    return Way.NEW if is_scratch(drive) else Way.KEPT


def plan_restore(
    guest: Guest,
    chosen: Mapping[Drive, tuple[Way, Checkpoint | None]],
    *,
    wish: Wish,
    bases: Mapping[str, BaseFacts],
    present: Collection[str],
    time: datetime,
    evidence: str,
    known: Mapping[str, BaseState],
) -> RestorePlan:
    """Join what was decided with what was found.

    `present` are the names of the files in the guest's directory, `known` and `evidence` are as in a RestorePlan.
    """
    drives = tuple(_plan_drive(drive, way, checkpoint, bases) for drive, (way, checkpoint) in chosen.items())
    wanted = [name for plan in drives for name in _leaving(plan)]
    leaving = tuple(name for name in wanted if name in present)
    root = next((drive.file_name for drive in guest.drives if drive.mount_point == "/"), None)
    root = root if root in present else None
    kept = evidence if leaving or wish.purpose is Purpose.RESTORE else ""
    return RestorePlan(guest.name, wish, time, kept, drives, leaving, root, dict(known))


def _plan_drive(drive: Drive, way: Way, checkpoint: Checkpoint | None, bases: Mapping[str, BaseFacts]) -> DrivePlan:
    plan = DrivePlan(drive.name, way, drive.file_name, drive.cow_name)
    if checkpoint is not None:
        return dataclasses.replace(
            plan,
            checkpoint=checkpoint.number,
            taken_at=checkpoint.time,
            index_sha256=checkpoint.taken.index_sha256,
        )
    if way is Way.EMPTY_COW:
        facts = bases[drive.name]
        index_sha256 = facts.known.index_sha256 if facts.known else None
        return dataclasses.replace(plan, digest=facts.digest, reference=facts.reference, index_sha256=index_sha256)
    return plan


def _leaving(plan: DrivePlan) -> list[str]:
    """Return the files that a drive would give up, the guest's work first."""
    if plan.way is Way.KEPT:
        return []
    names = [plan.cow] if plan.cow else []
    if plan.way is not Way.EMPTY_COW:
        names.append(plan.base)
    return [part for name in names for part in (name, name + JOURNAL_SUFFIX)]


def evidence_name(guest: str, time: datetime, taken: Collection[str]) -> str:
    """Return a name for the directory of evidence that is not among those `taken`."""
    first = f"{guest}-{time.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    names = (first, *(f"{first}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)
