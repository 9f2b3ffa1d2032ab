"""Taking a checkpoint: the drives as they are now go into the store, and at will the COW file into its backing file.

    1  store      is held for writing, which may take a while, before any disk is; the guest's history is whole
    2  open       the drives as they stand at one moment: locked, or of a guest that runs, frozen copies (`drives`)
    3  sync       the files, which UML never does: what is recorded is then on the disk, too
    4  look       how the backing file looks; from here on no write to it goes unnoticed
    5  read       what `recording` plans; chunks into the store, made durable
    6  look       again: a file that looks different now was written while it was read, and nothing is recorded
    7  index      into the store, under the number of the record to come
    8  record     into the store and the catalog, with the time of 2, which all drives share: the checkpoint exists
    9  base       the index of the backing file into the store, and in the catalog how that file looks
    10 merge      the COW file into the backing file, under the locks that are held since 2; then 9 for what it is now

Invariants. Each step needs only those before it, so that whoever dies leaves at worst chunks and an index that nobody
names. A `BaseState` is true whenever it is there: it is written after the index that it names, about a look that came
before the reading (or after a merge that nobody else could disturb), and whatever happens to the file later, a merge
that is interrupted or finished by hand included, makes it look different. It then only costs a whole reading.

A drive whose COW file does not exist yet is its backing file; so is one that never has a COW file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint import history
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.differing import SECTOR_BYTES, differing
from umldisk.checkpoint.index import Index, parse, spliced
from umldisk.checkpoint.intake import Intake, take_in
from umldisk.checkpoint.record import Consistency, Kind, Taken
from umldisk.checkpoint.recording import Basis, Reading, decide, length_of, plan_changes, plan_whole
from umldisk.checkpoint.store import Store, base_key, index_key
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.cow.layers import RawLayer
from umldisk.errors import BusyError, DataError, NoInputError, UsageError
from umldisk.guest.state import running
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.drives import OpenDrive, Opener, Still, stopped
from umldisk.ops.checkpoints.naming import DEFAULT_DRIVES, utc_now
from umldisk.ops.checkpoints.storage import catalog_for_writing, catalog_path, store_of
from umldisk.ops.checkpoints.take_report import TakenDrive, TakeOptions, TakeReport, described
from umldisk.progress import SILENT, Progress


def take_checkpoint(
    site: Site,
    guest_name: str,
    drives: Sequence[str] = (),
    options: TakeOptions | None = None,
    *,
    store: Store | None = None,
    opener: Opener | None = None,
    progress: Progress = SILENT,
    clock: Callable[[], datetime] = utc_now,
) -> TakeReport:
    """Record the state of a guest's drives (by default var), each as a checkpoint of its own.

    When it returns, all of it is durable. When the second drive fails, the first stays recorded. A guest that umldisk
    started is paused for a moment; `opener` takes the place of that and of locking.

    Raises UsageError for a guest or drive that there is not, BusyError while a guest that others started runs, somebody
    writes to its disks, or another writer has the store, NoInputError and DataError when disks are missing, do not fit
    together or cannot be recorded of a guest that runs, HistoryError when store and catalog contradict each other,
    StorageError when reading or writing fails.
    """
    chosen = options or TakeOptions()
    guest = site.guest(guest_name)
    from umldisk.ops.restoring.stages import require_finished  # by itself: it brings much along

    require_finished(guest)
    wanted = _wanted(guest, drives)
    kept_in = store or store_of(site, guest)
    opening = opener or _opener(site, guest, chosen)
    with ExitStack() as resources:
        if not chosen.dry_run:
            resources.enter_context(kept_in.writing(guest.name, wait_seconds=chosen.lock_wait_seconds))
            _require_whole(site, kept_in, guest)
        opened = opening(guest, wanted, to_merge=chosen.merge, rehearsing=chosen.dry_run)
        still, moment = resources.enter_context(opened), clock()
        _refuse_merge(guest, still, chosen)
        if chosen.dry_run:
            taken = [_rehearse(site, kept_in, guest, disk) for disk in still.drives]
        else:
            catalog = resources.enter_context(catalog_for_writing(site))
            taking = _Taking(guest.name, kept_in, catalog, chosen, still.consistency, progress, lambda: moment)
            taken = [taking.take(disk) for disk in still.drives]
        where = kept_in.location
        return TakeReport(guest.name, where, still.consistency, still.pause_seconds, tuple(taken), chosen.dry_run)


def _require_whole(site: Site, store: Store, guest: Guest) -> None:
    """Refuse a history that nothing can be added to before anything is read, and a guest paused for it."""
    last = None
    with contextlib.suppress(NoInputError), Catalog.open(catalog_path(site), writable=False) as catalog:
        last = catalog.last(guest.name)
    history.beyond(store, guest.name, last)


def _opener(site: Site, guest: Guest, options: TakeOptions) -> Opener:
    """Return what opens the drives of the guest as it is now, off or running."""
    run = running(site.run_directory(guest.name))
    if run is None:
        return stopped
    if options.merge:
        raise _merge_refused(guest)
    from umldisk.ops.checkpoints.live import Live

    return Live(run, site.run_directory(guest.name), options.freeze, options.longest_pause_seconds)


def _merge_refused(guest: Guest) -> UsageError:
    return UsageError("the COW file of a running guest cannot be merged", where=guest.name)


def _wanted(guest: Guest, names: Sequence[str]) -> list[Drive]:
    known = {drive.name: drive for drive in guest.drives}
    chosen = tuple(dict.fromkeys(names)) or DEFAULT_DRIVES
    for name in chosen:
        if name not in known:
            raise UsageError(f"{guest.name} has no such drive", where=name, expected=", ".join(known))
    return [known[name] for name in chosen]


def _refuse_merge(guest: Guest, still: Still, options: TakeOptions) -> None:
    """Refuse a merge that could not be done before anything is recorded."""
    if options.merge and still.consistency is not Consistency.OFF:
        raise _merge_refused(guest)
    for disk in still.drives:
        if options.merge and disk.cow is not None:
            disk.merge(options.siblings, dry_run=True)


# -- taking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Taking:
    """One take, with the store held for writing."""

    guest: str
    store: Store
    catalog: Catalog
    options: TakeOptions
    consistency: Consistency
    progress: Progress
    clock: Callable[[], datetime]

    def take(self, disk: OpenDrive) -> TakenDrive:
        """Record one drive, merge it if that is wanted, and remember what its backing file equals then."""
        started = time.monotonic()
        disk.sync()
        looks, look = disk.looks(), disk.bottom_look()
        basis, intake = self._read(disk)
        if disk.looks() != looks:
            raise BusyError(
                "the disk was written to while it was read",
                where=disk.view.disk.path,
                hint="nothing was recorded; find out who writes without a lock, then run the command again",
            )
        number, taken = self._record(disk, basis, intake, started)
        if taken.merged:
            disk.merge(self.options.siblings, progress=self.progress)
            self._remember(disk, intake.index, disk.bottom_look())
        elif intake.below is not None:
            self._remember(disk, intake.below, look)
        return described(taken, number, basis.why, time.monotonic() - started)

    def _read(self, disk: OpenDrive) -> tuple[Basis, Intake]:
        name = disk.drive.name
        state = self.catalog.base_state(self.guest, name)
        basis = decide(self.store, state, guest=self.guest, drive=name, disk=disk.bottom)
        with_below = basis.index is None and isinstance(disk.bottom, RawLayer) and not self._merges(disk)
        plan = _plan(disk, basis, with_below=with_below)
        with self.progress.task(f"record {name}", disk.view.size_bytes) as task:
            return basis, take_in(disk.view, plan, self.store, base=basis.index, task=task, with_below=with_below)

    def _merges(self, disk: OpenDrive) -> bool:
        return self.options.merge and disk.cow is not None

    def _record(self, disk: OpenDrive, basis: Basis, intake: Intake, started: float) -> tuple[int, Taken]:
        """Put index and record into the store: then the checkpoint exists. Return its number, too."""
        number = history.next_number(self.store, self.catalog, self.guest)
        parent = self._parent(disk.drive, number)
        built = intake.index.build()
        self.store.put(index_key(self.guest, number), built)
        below_sha256 = None if intake.below is None else intake.below.digest()
        taken = Taken(
            drive=disk.drive.name,
            size_bytes=disk.view.size_bytes,
            index_sha256=hashlib.sha256(built).hexdigest(),
            parent=parent.number if parent else None,
            base_index_sha256=basis.index_sha256 or below_sha256,
            changed_bytes=self._changed_bytes(parent, basis, intake.index),
            stored_bytes=intake.stored_bytes,
            read_bytes=intake.read_bytes,
            read_whole=basis.index is None,
            consistency=self.consistency,
            merged=self._merges(disk),
            duration_seconds=round(time.monotonic() - started, 3),
            reason=self.options.reason,
            tags=self.options.tags,
        )
        host = os.uname().nodename
        history.append(self.store, self.catalog, self.guest, Kind.CHECKPOINT, clock=self.clock, host=host, taken=taken)
        return number, taken

    def _parent(self, drive: Drive, number: int) -> Checkpoint | None:
        """Return the last checkpoint of the drive that is not deleted; it is seldom far back."""
        for earlier in range(number - 1, 0, -1):
            with contextlib.suppress(NoInputError):
                found = self.catalog.checkpoint(self.guest, earlier)
                if found.drive == drive.name and found.deleted_at is None:
                    return found
        return None

    def _changed_bytes(self, parent: Checkpoint | None, basis: Basis, index: Index) -> int:
        """Return in how many bytes the index differs from the parent's, or if that is none of its size, from zeros."""
        before = self._index_of(parent, basis)
        if before is None or before.size_bytes != index.size_bytes:
            before = spliced(None, index.size_bytes, ())
        ends = ((run.start * SECTOR_BYTES, run.end * SECTOR_BYTES) for run in differing(before, index))
        return sum(max(0, min(end, index.size_bytes) - start) for start, end in ends)

    def _index_of(self, parent: Checkpoint | None, basis: Basis) -> Index | None:
        """Return the parent's index, which often is that of the base; None when there is none that can be read."""
        if parent is None or (basis.index is not None and parent.taken.index_sha256 == basis.index_sha256):
            return None if parent is None else basis.index
        key = index_key(self.guest, parent.number)
        try:
            return parse(self.store.get(key), where=key)
        except (NoInputError, DataError):  # verifying is what finds and names that
            return None

    def _remember(self, disk: OpenDrive, index: Index, look: BackingIdentity | None) -> None:
        """Note that the backing file equals `index` as long as it looks like this."""
        if look is not None:
            name = disk.drive.name
            built = index.build()
            self.store.put(base_key(self.guest, name), built)
            self.catalog.set_base_state(BaseState(self.guest, name, hashlib.sha256(built).hexdigest(), look))


def _plan(disk: OpenDrive, basis: Basis, *, with_below: bool) -> Iterable[Reading]:
    if basis.index is None:
        return plan_whole(disk.view, with_below=with_below)
    return () if disk.cow is None else plan_changes(disk.cow.layer)


def _rehearse(site: Site, store: Store, guest: Guest, disk: OpenDrive) -> TakenDrive:
    """Say what a take would read."""
    started, name = time.monotonic(), disk.drive.name
    state = None
    with (
        contextlib.suppress(NoInputError),  # no catalog yet
        Catalog.open(catalog_path(site), writable=False) as catalog,
    ):
        state = catalog.base_state(guest.name, name)
    basis = decide(store, state, guest=guest.name, drive=name, disk=disk.bottom)
    places = [place for reading in _plan(disk, basis, with_below=False) for place in reading.view]
    return TakenDrive(
        drive=name,
        number=None,
        parent=None,
        size_bytes=disk.view.size_bytes,
        index_sha256=None,
        changed_bytes=None,
        stored_bytes=0,
        read_bytes=length_of(places, disk.view.size_bytes),
        read_whole=basis.index is None,
        why=basis.why,
        merged=False,
        duration_seconds=round(time.monotonic() - started, 3),
    )
