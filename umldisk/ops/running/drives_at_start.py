"""Doing at a start what its policies say; `umldisk.guest.at_start` decides it.

A start calls `finish_interrupted` before it looks at the disks, because a reset that was cut off has them half in
place, and `apply_policies` when it has looked and found them good; all of it with the run claimed, so that nobody else
starts or resets the guest meanwhile. What is made anew is made as by `umldisk reset --now`, except that the bases are
not read: see `umldisk.ops.restoring.bases`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from umldisk.build import publish
from umldisk.build.ownership import Ownership, plan_ownership
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.guest.at_start import DriveStart, Step, plan_start_policies
from umldisk.guest.state import RunDisk
from umldisk.guest.throwaway import make_empty, make_throw_away, run_disk, scratch, throw_away_name
from umldisk.ops.restoring.restore import finish_reset
from umldisk.ops.restoring.stages import require_finished
from umldisk.ops.running.reset import rebuild
from umldisk.progress import SILENT, Progress
from umldisk.system.swapping import open_directory


def finish_interrupted(site: Site, guest: Guest) -> None:
    """Finish a reset of the guest that was cut off, for instance in an earlier start; the run is claimed by the caller.

    Raises BusyError when it was a restore, which whoever wanted it has to finish, and what finishing can fail with.
    """
    finish_reset(site, guest)


def apply_policies(
    site: Site, guest: Guest, *, discard: Sequence[str] = (), progress: Progress = SILENT
) -> tuple[RunDisk, ...]:
    """Make every drive of the guest ready for a run, and return its disks in the order of their ubd numbers.

    The run is claimed by the caller. Calling it again is harmless: what is there already is kept, rebuilt or replaced
    as the policies say. Raises UsageError for drives to `discard` that there are not, NoInputError and DataError when a
    base is missing or unusable, BusyError while somebody else works on the disks or left work unfinished,
    CannotCreateError and StorageError when files cannot be made.
    """
    require_finished(guest)
    plan = plan_start_policies(guest, _present(guest), discard=discard)
    rebuilt = tuple(start.drive.name for start in plan if start.step is Step.REBUILD)
    if rebuilt:
        rebuild(site, guest, rebuilt, progress=progress)
    _make_files(guest, plan, plan_ownership(guest, is_root=os.geteuid() == 0))
    return tuple(run_disk(guest, start.drive, thrown_away=start.step is Step.THROW_AWAY) for start in plan)


def _present(guest: Guest) -> list[str]:
    with open_directory(guest.directory) as directory:
        return directory.names()


def _make_files(guest: Guest, plan: Sequence[DriveStart], ownership: Ownership) -> None:
    """Make the COW files of the plan, and remove those that an earlier run should have thrown away."""
    made = [start for start in plan if start.step in (Step.EMPTY_COW, Step.THROW_AWAY)]
    stale = {throw_away_name(start.drive) for start in plan} & set(_present(guest))
    if not made and not stale:
        return
    with publish.claimed(guest, ownership), open_directory(guest.directory) as directory:
        for name in stale:
            directory.clear(name)
        with scratch(directory) as work:
            for start in made:
                make = make_empty if start.step is Step.EMPTY_COW else make_throw_away
                make(guest, start.drive, directory, work=work, standing=ownership.writable)
