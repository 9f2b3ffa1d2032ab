"""Pruning in two steps: `prune` marks what no rule keeps, `collect` reclaims the room of what is marked.

    prune      policy ──decide──▶ verdicts ──▶ one DELETE record       the store is as large as before
    collect    what no index names leaves the store                    for all guests that share it, one at a time

Marking costs nothing and holds only the guest; reclaiming reads every index and keeps all writers of the store waiting.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo

from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.reclaim import Reclaimed, reclaim
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.retention import Kept, Missed, Policy, Verdict, decide, require_policy
from umldisk.checkpoint.simulate import simulate
from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.ops.checkpoints.naming import DEFAULT_DRIVES, utc_now
from umldisk.ops.checkpoints.storage import (
    catalog_for_writing,
    reading_catalog,
    required_catalog,
    store_of,
    stores_of,
    vouched_guests,
)
from umldisk.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class Decided:
    """What becomes of one checkpoint, with every rule that keeps it and every rule that does not."""

    number: int
    drive: str
    time: datetime
    removed: bool
    reason: str
    kept: tuple[Kept, ...]
    missed: tuple[Missed, ...]


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """What is pruned: one `drive` or all; `zone` says where a day begins, None is this machine's."""

    drive: str | None = None
    gc: bool = False
    dry_run: bool = False
    lock_wait_seconds: float = 0
    zone: tzinfo | None = None


_DEFAULTS = PruneOptions()


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What was decided, by drive and oldest first; `record` is the one that marks the `removed`, None without any."""

    guest: str
    policy: Policy
    now: datetime
    decided: tuple[Decided, ...]
    removed: tuple[int, ...]
    record: int | None
    reclaimed: CollectReport | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What would be there after `days` more nights, at `now`; `removed` had to go on the way, `most` were there."""

    guest: str
    policy: Policy
    days: int
    now: datetime
    decided: tuple[Decided, ...]
    removed: int
    most: int


@dataclass(frozen=True, slots=True)
class StoreReclaimed:
    """What left one store, or would have."""

    store: str
    reclaimed: Reclaimed


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What left the site's stores, or would have."""

    site: str
    stores: tuple[StoreReclaimed, ...]
    dry_run: bool


def prune(
    site: Site,
    guest: str,
    policy: Policy,
    options: PruneOptions = _DEFAULTS,
    *,
    progress: Progress = SILENT,
    clock: Callable[[], datetime] = utc_now,
) -> PruneReport:
    """Mark the checkpoints of a guest that no rule keeps, and with `gc` reclaim their room.

    Raises UsageError when the policy is empty, NoInputError when there are no checkpoints, BusyError, HistoryError and
    StorageError as `mark` and `collect` do. What was marked stays marked when reclaiming fails.
    """
    require_policy(policy)
    with required_catalog(site, guest) as catalog:  # where nothing was recorded, nothing is made
        if options.dry_run:
            verdicts = _decide(catalog, guest, policy, options, clock)
            return _report(guest, policy, verdicts, clock(), dry_run=True)
    verdicts, record = _mark(site, guest, policy, options, clock)
    marked = _report(guest, policy, verdicts, clock(), record=record)
    if not options.gc:
        return marked
    return replace(marked, reclaimed=collect(site, guest, wait_seconds=options.lock_wait_seconds, progress=progress))


def _mark(
    site: Site, guest: str, policy: Policy, options: PruneOptions, clock: Callable[[], datetime]
) -> tuple[list[Verdict], int | None]:
    """Decide and record under the lock, so that nobody adds a checkpoint in between; return the record's number."""
    store = store_of(site, guest)
    with store.writing(guest, wait_seconds=options.lock_wait_seconds), catalog_for_writing(site) as catalog:
        history.sync(store, catalog, guest)
        verdicts = _decide(catalog, guest, policy, options, clock)
        if not (removed := _removed(verdicts)):
            return verdicts, None
        said = history.append(
            store,
            catalog,
            guest,
            Kind.DELETE,
            clock=clock,
            host=os.uname().nodename,
            subjects=removed,
            detail=" ".join(policy_words(policy)),
        )
        return verdicts, said.number


def _decide(
    catalog: Catalog, guest: str, policy: Policy, options: PruneOptions, clock: Callable[[], datetime]
) -> list[Verdict]:
    found = catalog.checkpoints(guest, drive=options.drive)
    if not found:
        of_drive = f" of drive {options.drive}" if options.drive else ""
        raise NoInputError(f"{guest} has no checkpoints{of_drive}", where=catalog.path)
    return decide(found, policy, now=clock(), zone=options.zone)


def simulate_prune(
    site: Site,
    guest: str,
    policy: Policy,
    options: PruneOptions = _DEFAULTS,
    *,
    days: int,
    clock: Callable[[], datetime] = utc_now,
) -> SimulationReport:
    """Tell what would be there after so many more nights; raises what deciding in `prune` raises."""
    require_policy(policy)
    with required_catalog(site, guest) as catalog:
        found = catalog.checkpoints(guest, drive=options.drive)
    drives = [] if found else [(guest, options.drive or DEFAULT_DRIVES[0])]
    end = simulate(found, policy, days=days, now=clock(), zone=options.zone, drives=drives)
    decided = tuple(map(_decided, end.verdicts))
    return SimulationReport(guest, policy, days, end.now, decided, end.removed, end.most)


def _report(
    guest: str,
    policy: Policy,
    verdicts: Sequence[Verdict],
    now: datetime,
    *,
    record: int | None = None,
    dry_run: bool = False,
) -> PruneReport:
    decided = tuple(map(_decided, verdicts))
    return PruneReport(guest, policy, now, decided, _removed(verdicts), record, None, dry_run)


def _decided(verdict: Verdict) -> Decided:
    checkpoint: Checkpoint = verdict.checkpoint
    return Decided(
        number=checkpoint.number,
        drive=checkpoint.drive,
        time=checkpoint.time,
        removed=verdict.is_removable,
        reason=verdict.reason,
        kept=verdict.kept,
        missed=verdict.missed,
    )


def _removed(verdicts: Iterable[Verdict]) -> tuple[int, ...]:
    return tuple(sorted(verdict.checkpoint.number for verdict in verdicts if verdict.is_removable))


def policy_words(policy: Policy) -> tuple[str, ...]:
    """Return a policy as the arguments of `prune` that it came from."""

    def words() -> Iterator[str]:
        for rule, limit in policy.counts():
            yield from (f"--keep-{rule.value}", str(limit))
        if policy.within is not None:
            yield from ("--keep-within", str(policy.within))
        for tag in policy.tags:
            yield from ("--keep-tag", tag)

    return tuple(words())


# -- reclaiming -------------------------------------------------------------------------------------------------------


def collect(
    site: Site,
    guest: str | None = None,
    *,
    dry_run: bool = False,
    wait_seconds: float = 0,
    progress: Progress = SILENT,
) -> CollectReport:
    """Reclaim what no checkpoint needs any more in the store of a guest, or in all stores of the site.

    Raises BusyError while anybody adds to a store, HistoryError when the history of any guest in it is broken,
    DataError when an index is damaged: nothing leaves that store then.
    """
    stores = stores_of(site, [guest] if guest else ())
    done = []
    with reading_catalog(site) as catalog:
        for location, store in stores.items():
            known = vouched_guests(site, catalog, location) if catalog else []
            held = catalog if catalog and known == catalog.guests() else None
            if catalog and held is None:
                for name in known:  # the others' histories are in another store
                    history.verify_chain(store, catalog, name)
            found = reclaim(store, held, dry_run=dry_run, wait_seconds=wait_seconds, progress=progress)
            done.append(StoreReclaimed(location, found))
    return CollectReport(site.directory, tuple(done), dry_run)
