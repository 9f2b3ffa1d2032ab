"""How the guests of a site are: one report for people, for scripts, and of one guest or all.

    umldisk.toml, guests/   which guests there are
    run/NAME/               the run: status_run
    the disks               what they take and whether they are sound: status_disks
    catalog.db              the newest good checkpoint of each drive
    /proc                   all processes, read once

Nothing is changed, locked or waited for: whatever cannot be read is a finding of the guest, and of the others all the
same is shown. Guests are looked at side by side, because an mconsole that does not answer costs its timeout.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.build import publish
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.cow.findings import Finding, Severity
from umldisk.errors import NoInputError, UmldiskError
from umldisk.ops.checkpoints.naming import utc_now
from umldisk.ops.checkpoints.storage import reading_catalog
from umldisk.ops.restoring import stages
from umldisk.ops.running.status_disks import Checkpoints, DiskStatus, LastCheckpoint, look_at_disks, planned_disks
from umldisk.ops.running.status_findings import guest_finding, worst_first
from umldisk.ops.running.status_run import Ask, GuestState, RunStatus, judge_run, mconsole_answers, read_recorded
from umldisk.system.processes import Processes, all_processes

_MOST_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """How one guest is; `findings` are about its run and its disks, worst first.

    `allocated_bytes` is what its files take on the host, backing files included, `changed_bytes` what its COW files
    hold. `checkpoint` is the newest good one of any drive.
    """

    guest: str
    directory: str
    state: GuestState
    pid: int | None
    umid: str | None
    uptime_seconds: int | None
    memory_bytes: int | None
    resident_bytes: int | None
    jailed: bool | None
    started_at: datetime | None
    ended_at: datetime | None
    exit_status: int | None
    changed_bytes: int
    allocated_bytes: int
    checkpoint: LastCheckpoint | None
    disks: tuple[DiskStatus, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """How the guests of a site are at `now`; `findings` are about the site itself."""

    site: str
    now: datetime
    guests: tuple[GuestStatus, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        every = [*self.findings, *(one for guest in self.guests for one in guest.findings)]
        return all(one.severity is not Severity.ERROR for one in every)


def site_status(
    site: Site, guest: str | None = None, *, clock: Callable[[], datetime] = utc_now, ask: Ask = mconsole_answers
) -> SiteStatus:
    """Say how a guest is, or all guests of the site.

    Raises UsageError for what is no guest's name, NoInputError when there is no such guest, and what reading
    umldisk.toml raises.
    """
    guests = [_known(site, guest)] if guest is not None else [site.guest(name) for name in site.guest_names()]
    now = clock()
    checkpoints, trouble = _checkpoints(site)
    look = _Look(site, now, checkpoints, all_processes(), ask)
    return SiteStatus(site.directory, now, tuple(_side_by_side(look, guests)), trouble)


def _known(site: Site, name: str) -> Guest:
    guest = site.guest(name)
    if name not in site.guest_names() and not os.path.isdir(site.run_directory(name)):
        hint = f"make it: umldisk build {name}"
        raise NoInputError("there is no such guest", where=guest.directory, hint=hint)
    return guest


def _checkpoints(site: Site) -> tuple[Checkpoints, tuple[Finding, ...]]:
    """Return the newest good checkpoint of each drive, or none and why they cannot be told."""
    newest: dict[tuple[str, str], Checkpoint] = {}
    try:
        with reading_catalog(site) as catalog:
            for one in catalog.checkpoints() if catalog else ():
                key = (one.guest, one.drive)
                if one.is_good and (key not in newest or newest[key].time <= one.time):
                    newest[key] = one
    except UmldiskError as error:
        return {}, (guest_finding("catalog-unreadable", error.what, where=error.where, hint=error.hint),)
    return newest, ()


def _side_by_side(look: _Look, guests: Sequence[Guest]) -> list[GuestStatus]:
    if len(guests) < 2:
        return [look.at(guest) for guest in guests]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(len(guests), _MOST_AT_ONCE)) as pool:
        return list(pool.map(look.at, guests))


@dataclass(frozen=True, slots=True)
class _Look:
    """One moment's look at guests, with what is read once for all of them."""

    site: Site
    now: datetime
    checkpoints: Checkpoints
    processes: Processes
    ask: Ask

    def at(self, guest: Guest) -> GuestStatus:
        """Look at one guest."""
        recorded = read_recorded(self.site.run_directory(guest.name))
        state = recorded.state
        disks = state.disks if state is not None and recorded.is_alive else planned_disks(guest)
        seen = look_at_disks(guest, disks, self.checkpoints, now=self.now)
        run = judge_run(guest, recorded, self.processes, holder=seen.holder, is_built=seen.is_built, ask=self.ask)
        findings = worst_first([*run.findings, *_unfinished(guest), *seen.findings])
        return _joined(guest, run, seen.disks, findings)


def _unfinished(guest: Guest) -> list[Finding]:
    """Work on the guest's set of disks that was cut off."""
    found = []
    try:
        if os.path.isdir(guest.directory) and stages.is_unfinished(guest.directory):
            hint = f"finish it: umldisk restore {guest.name}"
            message = "a restore was not finished: the disks are being exchanged"
            found.append(guest_finding("restore-unfinished", message, where=guest.directory, hint=hint))
        if publish.is_unfinished(guest):
            hint = f"finish it: umldisk build {guest.name}"
            message = "a build was cut off while it put the disks in place"
            found.append(guest_finding("build-unfinished", message, where=guest.directory, hint=hint))
    except UmldiskError as error:
        found.append(guest_finding("disk-unreadable", error.what, where=error.where, hint=error.hint))
    return found


def _joined(guest: Guest, run: RunStatus, disks: tuple[DiskStatus, ...], findings: tuple[Finding, ...]) -> GuestStatus:
    allocated = {disk.path: disk.allocated_bytes or 0 for disk in disks}
    allocated |= {disk.backing: disk.backing_allocated_bytes or 0 for disk in disks if disk.backing is not None}
    taken = [disk.checkpoint for disk in disks if disk.checkpoint is not None]
    return GuestStatus(
        guest=guest.name,
        directory=guest.directory,
        state=run.state,
        pid=run.pid,
        umid=run.umid,
        uptime_seconds=run.uptime_seconds,
        memory_bytes=run.memory_bytes,
        resident_bytes=run.resident_bytes,
        jailed=run.jailed,
        started_at=run.started_at,
        ended_at=run.ended_at,
        exit_status=run.exit_status,
        changed_bytes=sum(disk.changed_bytes or 0 for disk in disks),
        allocated_bytes=sum(allocated.values()),
        checkpoint=max(taken, key=lambda one: (one.time, one.number), default=None),
        disks=disks,
        findings=findings,
    )
