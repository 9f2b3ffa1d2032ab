"""Making the disks of a drill in its scratch site.

    from a checkpoint     assembled there, with the guest's own base as a seed that is only read
    a base that stays     a symlink to it: UML opens it for reading alone, in the jail it is bound read-only
    tmp, swap             new
    COW files             made by the start, for there are none: every drive's policy is `keep` here

The manifest comes along with its time, because a start asks it for the init, and compares bases that are not younger.
As root the directory stays root's: what the guest's user may write are the files alone, and nobody swaps them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

from umldisk.build import manifest
from umldisk.build.ownership import plan_ownership
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.errors import NoInputError
from umldisk.image.drives import AtStart
from umldisk.ops.drilling.planning import DrillPlan
from umldisk.ops.drilling.scratch import GUESTS, MAKING, ScratchSite
from umldisk.ops.restoring.making import Making, make_all
from umldisk.ops.restoring.planning import Way
from umldisk.ops.restoring.stages import NEW, SCRATCH
from umldisk.progress import SILENT, Progress
from umldisk.system.files import open_disk
from umldisk.system.staging import write_file
from umldisk.system.swapping import Standing, explained, open_directory

_PASSED = 0o711


def fit_out(scratch: str, plan: DrillPlan, *, store: Store, progress: Progress = SILENT) -> ScratchSite:
    """Make the guest of a drill in the directory `scratch`, and return its site.

    Raises DataError when a chunk is missing or damaged, StorageError when there is no room.
    """
    guest = plan.guest
    ownership = plan_ownership(guest, is_root=os.geteuid() == 0)
    with open_directory(os.path.join(scratch, MAKING)) as stage:
        for name in (NEW, SCRATCH):
            with stage.make(name):
                pass
        make_all(Making(guest, plan.making, stage.path, store, plan.indexes(store), ownership, progress))
        with stage.open(NEW) as new, open_directory(os.path.join(scratch, GUESTS)) as guests:
            for drive in plan.restore.drives:
                if drive.way is Way.EMPTY_COW:
                    _link(os.path.realpath(os.path.join(guest.directory, drive.base)), new.inside(drive.base))
            _copy_manifest(guest.directory, new.path)
            new.give(Standing(_PASSED if os.geteuid() == 0 else 0o700))
            stage.move(NEW, guests, guest.name)
    return ScratchSite(scratch, scratch_guest(guest, os.path.join(scratch, GUESTS, guest.name)))


def scratch_guest(guest: Guest, directory: str) -> Guest:
    """Return the guest as a drill starts it: elsewhere, and with no policy that would throw away what is looked at."""
    drives = tuple(dataclasses.replace(drive, at_start=AtStart.KEEP) for drive in guest.drives)
    return dataclasses.replace(guest, directory=directory, drives=drives)


def _link(target: str, path: str) -> None:
    with explained("link", path):
        os.symlink(target, path)


def _copy_manifest(source: str, target: str) -> None:
    with contextlib.suppress(NoInputError), open_disk(os.path.join(source, manifest.FILE_NAME)) as file:
        path = os.path.join(target, manifest.FILE_NAME)
        write_file(path, file.read_at(0, file.size_bytes), mode=0o640, sync=False)
        with explained("change the time of", path):
            os.utime(path, ns=(file.status.st_mtime_ns, file.status.st_mtime_ns))
