"""What a start does with each drive, decided as data before anything is made.

    policy      the drive                    the guest writes to
    keep        has a COW file               that
                has none yet                 an empty one, which stays
                runs without one             the disk itself
    discard     has a COW file               a copy of it, so that it sees what was there
                has none yet                 an empty one
                runs without one             an empty one over the disk as it is
    rebuild     of any kind                  what `umldisk reset --now` makes of it, before the start

What `discard` makes is thrown away when the guest has ended. UML cannot put one COW file on another, hence the copy; it
shares its blocks with the original where the file system can. `start --discard DRIVE` is stronger than every policy:
nothing of that drive is changed by the run, nor before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from umldisk.config.guest import Guest
from umldisk.errors import UsageError
from umldisk.image.drives import AtStart, Drive


class Step(Enum):
    """What is made of one drive before its guest starts."""

    NOTHING = "use it as it is"
    EMPTY_COW = "an empty COW file"
    THROW_AWAY = "a COW file that is thrown away"
    REBUILD = "a reset"


@dataclass(frozen=True, slots=True)
class DriveStart:
    """One drive of a start, and what is made of it."""

    drive: Drive
    step: Step


def plan_start_policies(
    guest: Guest, present: Collection[str], *, discard: Collection[str] = ()
) -> tuple[DriveStart, ...]:
    """Decide what a start does with each drive, in the order of their ubd numbers.

    `present` are the names of the files in the guest's directory, `discard` the drives whose changes are to be thrown
    away whatever their policy says. Raises UsageError when one of these is no drive of the guest.
    """
    names = [drive.name for drive in guest.drives]
    for name in discard:
        if name not in names:
            raise UsageError("the guest has no such drive", where=guest.name, expected=", ".join(names), found=name)
    in_order = sorted(guest.drives, key=lambda drive: drive.ubd)
    return tuple(DriveStart(drive, _step(drive, present, discard)) for drive in in_order)


def _step(drive: Drive, present: Collection[str], discard: Collection[str]) -> Step:
    policy = AtStart.DISCARD if drive.name in discard else drive.at_start
    if policy is AtStart.DISCARD:
        return Step.THROW_AWAY
    if policy is AtStart.REBUILD:
        return Step.REBUILD
    return Step.EMPTY_COW if drive.cow_name and drive.cow_name not in present else Step.NOTHING
