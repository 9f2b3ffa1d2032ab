"""Getting a guest back after it was broken into: yesterday's /var, everything else as built, and nothing lost.

    look      the guest's history is whole; bases that stay are what they were; a plan comes out (--dry-run ends here)
    make      .restoring/: disks from checkpoints, empty COW files, new tmp and swap, the digests of the evidence
    commit    one rename; from here on the restore will be finished, by this run or by the next one
    exchange  old files leave for SITE/evidence, new ones come in; see `stages`
    settle    what the new bases are known to equal is written down, so that the next night reads only what changed;
              when that cannot be done the next night reads everything, and the guest is back all the same: `knowing`

A failure before the commit leaves the guest as it was. A restore that was cut off after it is finished by the next
`restore` of that guest: when the same thing is asked for, that is all it does, else the new wish follows.

A reset (`resetting`) is a restore of other drives, none of them from a checkpoint. One that keeps no evidence and only
glances at the bases needs no store, so that a guest can start without it.

Who may change the store or the site's catalog is trusted; the guest, and the user that it runs as, are not. As root,
what that user could have put in the way is not followed, and evidence is taken out of its reach.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from umldisk.build import publish
from umldisk.build.ownership import Ownership, plan_ownership
from umldisk.checkpoint import standing
from umldisk.checkpoint.assemble import load_index
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.chain import Chained, verify_chain
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest, boot_argv
from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.naming import utc_now
from umldisk.ops.restoring import evidence, planning, stages
from umldisk.ops.restoring.bases import check_bases, glance_at_bases, known_bases
from umldisk.ops.restoring.holding import Holding, RestoreOptions, claimed_run, held, opened_catalog, store_for
from umldisk.ops.restoring.knowing import Remembering, known_before
from umldisk.ops.restoring.making import Making, make_all
from umldisk.ops.restoring.planning import BaseFacts, Purpose, RestorePlan, Way, Wish
from umldisk.ops.restoring.removed import RemovedFile, measure
from umldisk.ops.restoring.reporting import Outcome, RestoreReport, report
from umldisk.ops.restoring.resetting import reset_ways
from umldisk.progress import SILENT, Progress
from umldisk.system.swapping import open_directory

Clock = Callable[[], datetime]


_EVERYTHING, _DEFAULTS = Wish(), RestoreOptions()
_AT_START = RestoreOptions(glance=True, is_claimed=True)


def restore_guest(
    site: Site,
    name: str,
    wish: Wish = _EVERYTHING,
    *,
    store: Store | None = None,
    options: RestoreOptions = _DEFAULTS,
    clock: Clock = utc_now,
    progress: Progress = SILENT,
) -> RestoreReport:
    """Bring the guest called `name` back from `store`, by default the guest's, else the site's own.

    Raises UsageError for drives or a guest that cannot be, NoInputError when guest or checkpoint is missing, DataError
    when a base was changed or a chunk is missing or damaged, HistoryError when the recorded history is not whole,
    BusyError while the guest runs or somebody builds or restores it, CannotCreateError and StorageError when the disks
    cannot be written. In all these cases the guest is as it was.
    """
    return bring_back(site, site.guest(name), wish, store=store, options=options, clock=clock, progress=progress)


def bring_back(
    site: Site,
    guest: Guest,
    wish: Wish,
    *,
    store: Store | None = None,
    options: RestoreOptions = _DEFAULTS,
    clock: Clock = utc_now,
    progress: Progress = SILENT,
) -> RestoreReport:
    """Restore or reset `guest`, as `restore_guest` says."""
    boot_argv(guest)  # a guest that nothing could boot is refused
    if not os.path.isdir(guest.directory):
        raise NoInputError("there is no such guest", where=guest.directory)
    kept_in = store_for(site, guest, wish, options, store)
    ownership = plan_ownership(guest, is_root=os.geteuid() == 0)
    with claimed_run(site, guest, options):
        restoration = _Restoration(site, guest, wish, options, kept_in, clock, progress)
        if options.dry_run:
            with publish.held(guest):
                return restoration.rehearse()
        with held(guest, kept_in, ownership, options) as holding:
            return restoration.carry_out(ownership, holding)


def finish_reset(site: Site, guest: Guest) -> None:
    """Finish a reset that was cut off, the guest's run being claimed; do nothing when there is none.

    Raises BusyError when it was a restore: that is for somebody who wants one.
    """
    if not is_unfinished(guest):
        return
    ownership = plan_ownership(guest, is_root=os.geteuid() == 0)
    with held(guest, None, ownership, _AT_START) as holding:
        _Restoration(site, guest, _EVERYTHING, _AT_START, None, utc_now, SILENT).finish(holding)


def is_unfinished(guest: Guest) -> bool:
    """Whether a restore was cut off after its commit, so that no build may touch the guest before it is finished."""
    return os.path.isdir(guest.directory) and stages.is_unfinished(guest.directory)


@dataclass(frozen=True, slots=True)
class _Restoration:
    """One restore with all that it needs; its methods are the steps. A wish that needs no store may have none."""

    site: Site
    guest: Guest
    wish: Wish
    options: RestoreOptions
    store: Store | None
    clock: Clock
    progress: Progress

    def rehearse(self) -> RestoreReport:
        """Look and plan, and report what would be done."""
        if stages.is_unfinished(self.guest.directory):
            plan, made = stages.read(self.guest.directory)
            return report(self.site, self.guest, plan, Outcome.parse(made), resumed=True, dry_run=True)
        look = self._look()
        return report(self.site, self.guest, look.plan, Outcome(removed=look.removed), dry_run=True)

    def carry_out(self, ownership: Ownership, holding: Holding) -> RestoreReport:
        """Finish what was cut off, and restore unless that was it."""
        if stages.is_unfinished(self.guest.directory):
            finished = self.finish(holding)
            if finished.plan.wish == self.wish:
                return self._report(finished, resumed=True)
        holding.require_store()
        look = self._look()
        with self._prepared(look, ownership) as outcome:
            holding.disks.check()
            stages.commit(self.guest.directory, outcome.build())
        return self._report(self._finish(look.plan, outcome, holding), resumed=False)

    def finish(self, holding: Holding) -> _Finished:
        """Finish what was cut off; without a store that must be a reset."""
        plan, made = stages.read(self.guest.directory)
        if self.store is None and plan.wish.purpose is not Purpose.RESET:
            stages.require_finished(self.guest)
        return self._finish(plan, Outcome.parse(made), holding)

    def _report(self, finished: _Finished, *, resumed: bool) -> RestoreReport:
        plan, outcome, notes = finished.plan, finished.outcome, finished.notes
        return report(self.site, self.guest, plan, outcome, notes=notes, resumed=resumed)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self) -> _Look:
        """Read what there is, decide, and refuse what cannot end well; nothing is changed."""
        with opened_catalog(self.site) as catalog:
            return self._look_with(catalog)

    def _look_with(self, catalog: Catalog | None) -> _Look:
        guest = self.guest
        history = verify_chain(self.store, catalog, guest.name) if self.store else []
        checkpoints = _checkpoints(history)
        chosen = self._choose(checkpoints)
        staying = [drive for drive, (way, _checkpoint) in chosen.items() if way is Way.EMPTY_COW]
        bases = self._vouch(staying, checkpoints, catalog)
        with open_directory(guest.directory) as directory:
            present = directory.names()
        time = self.clock().astimezone(UTC)
        plan = planning.plan_restore(
            guest,
            chosen,
            wish=self.wish,
            bases=bases,
            present=present,
            time=time,
            evidence=self._evidence_name(time),
            known=known_bases(guest, catalog, bases),
        )
        removed = self._require_leaving(plan)
        return _Look(plan, history, {drive.name: one for drive, (_way, one) in chosen.items() if one}, removed)

    def _evidence_name(self, time: datetime) -> str:
        if not self.wish.keeps_evidence:
            return ""
        return planning.evidence_name(self.guest.name, time, evidence.taken_names(self.site.directory))

    def _choose(self, checkpoints: Sequence[Checkpoint]) -> Mapping[Drive, tuple[Way, Checkpoint | None]]:
        if self.wish.purpose is Purpose.RESET:
            return reset_ways(self.guest, self.wish)
        return planning.ways(self.guest, checkpoints, self.wish)

    def _vouch(
        self, staying: Sequence[Drive], checkpoints: Sequence[Checkpoint], catalog: Catalog | None
    ) -> dict[str, BaseFacts]:
        if self.options.glance:
            return glance_at_bases(self.guest, staying, catalog=catalog)
        return check_bases(self.guest, staying, checkpoints, store=self.store, catalog=catalog, progress=self.progress)

    def _require_leaving(self, plan: RestorePlan) -> tuple[RemovedFile, ...]:
        """Refuse what cannot be moved out of the way; return what will be lost by that."""
        directory = self.guest.directory
        if plan.evidence:
            evidence.require_keepable(directory, plan.leaving)
            evidence.require_one_file_system(directory, self.site.directory)
            return ()
        evidence.require_movable(directory, plan.leaving)
        bases = {drive.cow_name: self.guest.base_path(drive) for drive in self.guest.drives if drive.cow_name}
        return measure(directory, plan.leaving, bases)

    # -- making -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _prepared(self, look: _Look, ownership: Ownership) -> Iterator[Outcome]:
        """Make everything new and read the evidence; without a commit all of it is removed."""
        directory = self.guest.directory
        store, checkpoints = self.store, look.checkpoints.items()
        indexes = {drive: load_index(store, checkpoint) for drive, checkpoint in checkpoints if store}
        stage = stages.begin(directory, look.plan)
        try:
            made = make_all(Making(self.guest, look.plan, stage, store, indexes, ownership, self.progress))
            if not look.plan.evidence:
                yield Outcome(made, removed=look.removed)
                return
            kept = evidence.examine(directory, look.plan.leaving, progress=self.progress)
            sums = evidence.write_texts(
                os.path.join(stage, stages.EVIDENCE),
                kept,
                facts=self._facts(look.plan),
                records=look.history,
            )
            yield Outcome(made, tuple(kept), sums)
        finally:
            stages.abandon(directory)

    def _facts(self, plan: RestorePlan) -> dict[str, object]:
        """Return what evidence.json says besides its files."""
        staying = [drive for drive in plan.drives if drive.way is Way.EMPTY_COW]
        return {
            "guest": plan.guest,
            "directory": self.guest.directory,
            "time": plan.time.isoformat(),
            "backing": [
                {"drive": drive.drive, "file": drive.base, "digest": drive.digest, "as": drive.reference}
                for drive in staying
            ],
            "checkpoints": {drive.drive: drive.checkpoint for drive in plan.drives if drive.checkpoint is not None},
            "restored": plan.drive_lines(),
        }

    # -- finishing ----------------------------------------------------------------------------------------------------

    def _finish(self, plan: RestorePlan, outcome: Outcome, holding: Holding) -> _Finished:
        """Put a committed state in place, and write down what is known of it; can be done again from anywhere."""
        site, guest = self.site, self.guest
        before = known_before(site, guest, plan, outcome)
        stages.exchange(guest.directory, site.directory, plan)
        notes = Remembering(site, guest, plan, before, self.store, holding.store_failure).remember()
        stages.settle(guest.directory)
        return _Finished(plan, outcome, notes)


@dataclass(frozen=True, slots=True)
class _Finished:
    """A restore that is in place; `notes` say what is not known of it."""

    plan: RestorePlan
    outcome: Outcome
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """What looking gave; `checkpoints` are by drive."""

    plan: RestorePlan
    history: Chained
    checkpoints: Mapping[str, Checkpoint]
    removed: tuple[RemovedFile, ...]


def _checkpoints(history: Chained) -> list[Checkpoint]:
    """Return the checkpoints of a guest as its history leaves them, oldest first."""
    found: dict[int, Checkpoint] = {}
    for record, _digest in history:
        if record.taken is not None:
            found[record.number] = standing.begun(record)
        for number in record.subjects:
            if number in found:
                found[number] = standing.after(found[number], record)
    return list(found.values())
