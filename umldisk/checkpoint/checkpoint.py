"""A checkpoint as it stands now: its record, and what later records say of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint.record import Record, Taken


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One recorded state of one drive.

    `verified_at` and `verified_how` are of the last verification; `damage` is what it found, "" for nothing.
    `deleted_at` is when it was marked for removal; its index is still there until chunks are reclaimed.
    `drilled_at` and `drilled_how` are of the last drill; `drill_failure` is why it failed, "" when it passed.
    """

    record: Record
    taken: Taken
    protected: bool = False
    tags: tuple[str, ...] = ()
    verified_at: datetime | None = None
    verified_how: str = ""
    damage: str = ""
    deleted_at: datetime | None = None
    drilled_at: datetime | None = None
    drilled_how: str = ""
    drill_failure: str = ""

    @property
    def guest(self) -> str:
        """Whose drive it is."""
        return self.record.guest

    @property
    def number(self) -> int:
        """Its number in the guest's history, by which users name it."""
        return self.record.number

    @property
    def drive(self) -> str:
        """The name of the drive."""
        return self.taken.drive

    @property
    def time(self) -> datetime:
        """When the state was taken, in UTC."""
        return self.record.time

    @property
    def is_good(self) -> bool:
        """Whether it can be relied on, for all that is known."""
        return self.deleted_at is None and not self.damage
