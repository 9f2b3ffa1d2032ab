"""Provisioning: from the name of a guest to five disks that boot.

The steps in order: refuse what cannot end well, claim the guest, share the base out over the
drives, make and check every disk in a hidden directory, publish them together. Nothing that existed
is touched before the last step.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from umldisk.build import publish
from umldisk.build.busybox import busybox_tree
from umldisk.build.disks import make_ext_disk, make_swap_disk
from umldisk.build.split import split
from umldisk.build.tree import Entry
from umldisk.config.guest import Guest, boot_argv
from umldisk.config.site import Site
from umldisk.errors import CannotCreateError
from umldisk.image.drives import Content, Drive, require_ubd_path
from umldisk.progress import SILENT, Progress

EMBEDDED_BASE = "busybox"


@dataclass(frozen=True, slots=True)
class BuiltDrive:
    """One disk of a report; how much of `size_bytes` takes room is None when it was not made."""

    name: str
    path: str
    cow_path: str | None
    device: str
    mount_point: str | None
    size_bytes: int
    allocated_bytes: int | None


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made, or with `dry_run` would make.

    `boot_argv` starts the guest; `boot_command` is the same as one line for a shell. `set_aside` is
    the directory to which COW files of the former disks moved.
    """

    guest: str
    site: str
    directory: str
    base: str
    drives: tuple[BuiltDrive, ...]
    boot_argv: tuple[str, ...]
    boot_command: str
    set_aside: str | None
    dry_run: bool


def build_guest(
    site: Site,
    name: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """Make the disks of the guest called `name` from the embedded base.

    With `force`, existing disks are replaced; their COW files are set aside together with the base
    each needs. A build that was cut off while its finished disks were moved into place is taken up
    and ends here.

    Raises UsageError and DataError for a name or directory that cannot boot, CannotCreateError when
    disks exist and `force` is false, BusyError while the guest runs or another build goes on,
    NoInputError when a program or the base is missing.
    """
    guest = site.guest(name)
    require_ubd_path(guest.directory)
    if dry_run:
        return _rehearse(site, guest, force=force)
    with publish.claimed(guest), publish.held(guest):
        if publish.is_unfinished(guest):
            set_aside = publish.finish(guest)
            if not force:
                return _report(site, guest, set_aside=set_aside)
        _refuse_existing(guest, force=force)
        set_aside = _build(guest, progress)
    return _report(site, guest, set_aside=set_aside)


def _rehearse(site: Site, guest: Guest, *, force: bool) -> BuildReport:
    with publish.held(guest):
        _refuse_existing(guest, force=force)
        busybox_tree(guest)
    return _report(site, guest, dry_run=True)


def _refuse_existing(guest: Guest, *, force: bool) -> None:
    existing = publish.existing_files(guest)
    if existing and not force:
        raise CannotCreateError(
            "the guest has disks already",
            where=guest.directory,
            found=", ".join(os.path.basename(path) for path in existing),
            hint="replace them with --force",
        )


def _build(guest: Guest, progress: Progress) -> str | None:
    shares = split(busybox_tree(guest), guest.drives)
    building = publish.begin(guest)
    try:
        with progress.task("building disks", sum(drive.size_bytes for drive in guest.drives)) as task:
            for drive in guest.drives:
                _make_disk(guest, drive, shares.get(drive, []), building)
                task.add(drive.size_bytes)
        return publish.publish(guest)
    finally:
        publish.abandon(guest)


def _make_disk(guest: Guest, drive: Drive, entries: list[Entry], building: str) -> None:
    path = os.path.join(building, drive.file_name)
    if drive.content is Content.SWAP:
        make_swap_disk(path, guest, drive)
    else:
        scratch = os.path.join(building, f"{drive.name}.tree")
        make_ext_disk(path, guest, drive, entries, scratch=scratch)


def _report(site: Site, guest: Guest, *, set_aside: str | None = None, dry_run: bool = False) -> BuildReport:
    argv = boot_argv(guest)
    return BuildReport(
        guest=guest.name,
        site=site.directory,
        directory=guest.directory,
        base=EMBEDDED_BASE,
        drives=tuple(_describe(guest, drive, dry_run=dry_run) for drive in guest.drives),
        boot_argv=argv,
        boot_command=shlex.join(argv),
        set_aside=set_aside,
        dry_run=dry_run,
    )


def _describe(guest: Guest, drive: Drive, *, dry_run: bool) -> BuiltDrive:
    path = guest.base_path(drive)
    return BuiltDrive(
        name=drive.name,
        path=path,
        cow_path=guest.cow_path(drive),
        device=drive.device,
        mount_point=drive.mount_point,
        size_bytes=drive.size_bytes,
        allocated_bytes=None if dry_run else os.stat(path).st_blocks * 512,
    )
