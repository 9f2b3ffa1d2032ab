"""Resetting and starting the guests of `tests.kit.restorable`, in a word."""

import dataclasses
from typing import Any

from tests.kit.as_user import USER_ID
from tests.kit.restorable import HOME, ROOT, Broken, SmallerSite
from umldisk.cow.file import CowFile
from umldisk.guest.state import RunDisk
from umldisk.image.drives import AtStart
from umldisk.ops.restoring.holding import RestoreOptions
from umldisk.ops.restoring.reporting import RestoreReport
from umldisk.ops.running.drives_at_start import apply_policies
from umldisk.ops.running.reset import reset_guest

STRANGER = USER_ID
"""The user to whom a guest belongs when the one who resets it is root."""


def reset(broken: Broken, *drives: str, now: bool = False, **options: Any) -> RestoreReport:
    """Reset drives of the guest, by default those that are reset by default; `options` are of RestoreOptions."""
    chosen = RestoreOptions(**options)
    return reset_guest(
        broken.site, broken.name, drives, now=now, store=broken.store, options=chosen, clock=broken.clock
    )


def start(broken: Broken, *discard: str, **at_start: AtStart) -> dict[str, RunDisk]:
    """Make the drives ready for a start, with these policies by drive; return the disks by drive."""
    drives = tuple(
        dataclasses.replace(drive, at_start=at_start.get(drive.name, AtStart.KEEP)) for drive in broken.guest.drives
    )
    disks = apply_policies(broken.site, dataclasses.replace(broken.guest, drives=drives), discard=discard)
    assert [disk.ubd for disk in disks] == sorted(drive.ubd for drive in drives)
    return {disk.drive: disk for disk in disks}


def shown(path: str) -> bytes:
    """Return what a guest would see through a COW file."""
    with CowFile.open(path) as disk:
        return disk.read(0, disk.size_bytes)


def started_guest(site: str) -> Broken:
    """Make a guest whose root and home changed, that was never recorded and has no COW file for var."""
    made = Broken(SmallerSite(site)).make()
    made.write(ROOT, 1, 2, 900, word="work")
    made.write(HOME, 3, word="work")
    return made
