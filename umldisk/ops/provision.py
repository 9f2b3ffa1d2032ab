"""Provisioning: from the name of a guest to five disks that boot.

The steps in order: refuse what cannot end well, claim the guest, assemble its disks and their manifest in a hidden
directory, publish them together. Nothing that existed is touched before the last step.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from dataclasses import dataclass, replace

from umldisk.build import manifest, publish
from umldisk.build.assemble import Assembled, Assembly, assemble
from umldisk.build.bases.base import Base
from umldisk.build.bases.named import open_named_base
from umldisk.build.ownership import Ownership, find_barrier, plan_ownership
from umldisk.build.tree import plant
from umldisk.config.guest import Guest, boot_argv
from umldisk.config.settings import STDIN_BASE, is_bootstrapped
from umldisk.config.site import Site
from umldisk.cow.compare import first_difference
from umldisk.cow.layers import RawLayer
from umldisk.errors import CannotCreateError, UsageError
from umldisk.image.drives import Drive
from umldisk.ops.restoring import stages
from umldisk.progress import SILENT, Progress
from umldisk.system import accounts
from umldisk.system.files import open_disk
from umldisk.system.sparse import allocated_bytes

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How a build is done.

    `base` takes the place of the one in umldisk.toml. `force` replaces existing disks; their COW files are set aside
    together with the base each needs. `verify` builds a second set and compares. `create_user` makes the guest's user
    when there is none, `refresh` bootstraps a distribution anew. `source_date_epoch`, in seconds, is the latest time
    that any file on the disks may have.
    """

    base: str | None = None
    force: bool = False
    dry_run: bool = False
    verify: bool = False
    create_user: bool = False
    refresh: bool = False
    source_date_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class BuiltDrive:
    """One disk of a report; how much of `size_bytes` takes room, and the digest, are None when it was not made."""

    name: str
    path: str
    cow_path: str | None
    device: str
    mount_point: str | None
    filesystem: str
    size_bytes: int
    allocated_bytes: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two builds of the same inputs that differ: in which file, from which byte on."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made, or with `dry_run` would make.

    `boot_argv` starts the guest; `boot_command` is the same as one line for a shell. `set_aside` is the directory to
    which COW files of the former disks moved. `owner` is the user they belong to.
    `differences` is None when the build was not verified; when there are
    some, nothing was put in place. `remarks` are sentences for whoever built.
    """

    guest: str
    site: str
    directory: str
    base: str
    owner: str
    drives: tuple[BuiltDrive, ...]
    boot_argv: tuple[str, ...]
    boot_command: str
    set_aside: str | None
    differences: tuple[Difference, ...] | None
    remarks: tuple[str, ...]
    dry_run: bool

    @property
    def published(self) -> bool:
        """Whether the disks are in place now."""
        return not self.dry_run and not self.differences


def build_guest(
    site: Site, name: str, options: BuildOptions | None = None, *, progress: Progress = SILENT
) -> BuildReport:
    """Make the disks of the guest called `name`.

    A build that was cut off while its finished disks were moved into place is taken up and ends here.

    Raises UsageError and DataError for a name, directory or base that cannot become a guest, CannotCreateError when
    disks exist and `force` is not given, BusyError while the guest runs or another build goes on, NoInputError when a
    program or the base is missing, StorageError when reading or writing fails.
    """
    chosen = options or BuildOptions()
    guest = _with_base(site.guest(name), chosen)
    boot_argv(guest)  # a guest that nothing could boot is refused
    return _rehearse(site, guest, chosen) if chosen.dry_run else _build(site, guest, chosen, progress)


def _with_base(guest: Guest, options: BuildOptions) -> Guest:
    chosen = guest if options.base is None else replace(guest, base=options.base)
    if chosen.base == STDIN_BASE and options.verify:
        raise UsageError("a base from standard input cannot be read twice", hint="give --verify-reproducible a file")
    return chosen


def _rehearse(site: Site, guest: Guest, options: BuildOptions) -> BuildReport:
    """Check all that can be checked without writing; a base that would have to be bootstrapped is not read."""
    publish.require_place(guest)
    if options.create_user:
        accounts.require_root(guest.owner)
    with publish.held(guest):
        _refuse_existing(guest, options)
    if not is_bootstrapped(guest.base):
        with (
            tempfile.TemporaryDirectory(prefix="umldisk-") as scratch,
            _open_base(site, guest, Assembly(guest, scratch), options) as base,
        ):
            plant({}, base.entries())
    return _report(site, guest, _ownership(guest), dry_run=True)


def _refuse_existing(guest: Guest, options: BuildOptions) -> None:
    stages.require_finished(guest)
    existing = publish.existing_files(guest)
    if existing and not options.force:
        raise CannotCreateError(
            "the guest has disks already",
            where=guest.directory,
            found=", ".join(os.path.basename(path) for path in existing),
            hint="replace them with --force",
        )


def _build(site: Site, guest: Guest, options: BuildOptions, progress: Progress) -> BuildReport:
    ownership = _ownership(guest)
    with publish.claimed(guest, ownership):
        if publish.is_unfinished(guest):
            with publish.held(guest):
                set_aside = publish.finish(guest, ownership)
            if not options.force:
                return _report(site, guest, ownership, set_aside=set_aside)
        with publish.held(guest) as holding:
            _refuse_existing(guest, options)
            if options.create_user:
                accounts.create_user(guest.owner, is_named=guest.user is not None)
            return _make(site, _Publication(guest, _ownership(guest), holding), options, progress)


@dataclass(frozen=True, slots=True)
class _Publication:
    """What putting a set in place needs to know."""

    guest: Guest
    ownership: Ownership
    holding: publish.Held


def _make(site: Site, target: _Publication, options: BuildOptions, progress: Progress) -> BuildReport:
    guest, ownership = target.guest, target.ownership
    building = publish.begin(guest)
    try:
        made = _assemble(site, guest, building, options, progress)
        differences = _verify(site, guest, building, options, progress) if options.verify else None
        if differences:
            return _report(site, guest, ownership, made=made, differences=differences)
        set_aside = publish.publish(guest, ownership, holding=target.holding)
        return _report(site, guest, ownership, made=made, differences=differences, set_aside=set_aside)
    finally:
        publish.abandon(guest)


def _assemble(site: Site, guest: Guest, directory: str, options: BuildOptions, progress: Progress) -> Assembled:
    epoch = options.source_date_epoch
    assembly = Assembly(guest, directory, None if epoch is None else epoch * _NS, progress)
    with _open_base(site, guest, assembly, options) as base:
        return assemble(assembly, base)


def _open_base(site: Site, guest: Guest, assembly: Assembly, options: BuildOptions) -> Base:
    return open_named_base(
        guest,
        cache=os.path.join(site.directory, "cache"),
        scratch=assembly.directory,
        refresh=options.refresh,
        progress=assembly.progress,
    )


def _verify(site: Site, guest: Guest, first: str, options: BuildOptions, progress: Progress) -> tuple[Difference, ...]:
    """Build once more and return where the two sets differ."""
    second = publish.begin_second(guest)
    _assemble(site, guest, second, replace(options, refresh=False), progress)
    names = [*(drive.file_name for drive in guest.drives), manifest.FILE_NAME]
    found = ((name, _compare(os.path.join(first, name), os.path.join(second, name))) for name in names)
    return tuple(Difference(name, offset) for name, offset in found if offset is not None)


def _compare(first: str, second: str) -> int | None:
    with open_disk(first) as one, open_disk(second) as other:
        shared = min(one.size_bytes, other.size_bytes)
        found = first_difference(RawLayer(one), RawLayer(other), 0, shared)
        return shared if found is None and one.size_bytes != other.size_bytes else found


def _ownership(guest: Guest) -> Ownership:
    return plan_ownership(guest, is_root=os.geteuid() == 0, accounts=accounts.SystemAccounts())


def _report(
    site: Site,
    guest: Guest,
    ownership: Ownership,
    *,
    made: Assembled | None = None,
    set_aside: str | None = None,
    differences: tuple[Difference, ...] | None = None,
    dry_run: bool = False,
) -> BuildReport:
    argv = boot_argv(guest)
    in_place = not dry_run and not differences
    digests = made.digests if made else {}
    barrier = find_barrier(guest, ownership)
    return BuildReport(
        guest=guest.name,
        site=site.directory,
        directory=guest.directory,
        base=guest.base,
        owner=ownership.user,
        drives=tuple(_describe(guest, drive, digests.get(drive.name), in_place=in_place) for drive in guest.drives),
        boot_argv=argv,
        boot_command=shlex.join(argv),
        set_aside=set_aside,
        differences=differences,
        remarks=(*(made.remarks if made else ()), *ownership.remarks, *((barrier,) if barrier else ())),
        dry_run=dry_run,
    )


def _describe(guest: Guest, drive: Drive, digest: str | None, *, in_place: bool) -> BuiltDrive:
    path = guest.base_path(drive)
    allocated = None
    if in_place:
        with open_disk(path) as disk:
            allocated = allocated_bytes(disk.fd)
    return BuiltDrive(
        name=drive.name,
        path=path,
        cow_path=guest.cow_path(drive),
        device=drive.device,
        mount_point=drive.mount_point,
        filesystem=drive.content.value,
        size_bytes=drive.size_bytes,
        allocated_bytes=allocated,
        digest=digest,
    )
