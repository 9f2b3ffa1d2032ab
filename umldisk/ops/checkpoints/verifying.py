"""Proving what was recorded: first the histories, then what is stored, and a record that says how it went.

    histories    each guest's records from the store, against the catalog and an anchor     exit 76 ends it here
    chunks       the indexes that are asked for, and all or a sample of the chunks          damage is reported
    aside        damaged chunks leave their place, so that the next take stores them anew; see `setting_aside`
    records      a VERIFY record for every guest that was looked at or found hurt

Nothing is read by a history that is not whole, for it could name anything. A verification that could not be recorded,
because the history's lock is held or the store cannot be written to, is still a verification: the report says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.chain import Anchor
from umldisk.checkpoint.needed import Root
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.setting_aside import Aside, set_aside
from umldisk.checkpoint.store import Store
from umldisk.checkpoint.verifying import Sample, Verified, verify
from umldisk.config.guest import require_guest_name
from umldisk.config.site import Site
from umldisk.errors import BusyError, CannotCreateError, HistoryError, NoInputError, StorageError
from umldisk.ops.checkpoints.naming import find_checkpoint, utc_now
from umldisk.ops.checkpoints.storage import (
    catalog_for_writing,
    moved_guests,
    reading_catalog,
    store_of,
    stores_of,
    vouched_guests,
)
from umldisk.progress import SILENT, Progress

_UNDONE = (BusyError, CannotCreateError, HistoryError, StorageError)


class BrokenHistoriesError(HistoryError):
    """One or several guests' histories are broken; `lines` has a line for each."""

    def __init__(self, broken: Sequence[HistoryError]) -> None:
        self.lines = tuple(error.line() for error in broken)
        first, more = broken[0], len(broken) - 1
        what = f"{first.what} (and {more} more)" if more else first.what
        super().__init__(what, where=first.where, expected=first.expected, found=first.found, hint=first.hint)


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How it is done: all chunks, or with `percent` a sample, another one each time; `anchor` is a line to prove.

    `dry_run` records nothing.
    """

    percent: float | None = None
    anchor: str | None = None
    drive: str | None = None
    dry_run: bool = False
    lock_wait_seconds: float = 0


_DEFAULTS = VerifyOptions()


@dataclass(frozen=True, slots=True)
class Proven:
    """A guest's history that is whole: `records` many, the last of them with `digest`."""

    guest: str
    records: int
    digest: str
    anchored: bool


@dataclass(frozen=True, slots=True)
class StoreVerified:
    """What was found in one store.

    `aside` are the keys that damaged chunks have now. `undone` says what could not be written, and why: whose
    verification is not recorded, or that chunks were left in their place.
    """

    store: str
    proven: tuple[Proven, ...]
    verified: Verified
    aside: tuple[str, ...]
    undone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was verified in all stores that were asked for."""

    site: str
    guest: str | None
    checkpoint: int | None
    stores: tuple[StoreVerified, ...]
    dry_run: bool

    @property
    def is_sound(self) -> bool:
        """Whether nothing damaged was found."""
        return all(store.verified.is_sound for store in self.stores)


def verify_checkpoints(
    site: Site,
    guest: str | None = None,
    name: str | None = None,
    options: VerifyOptions = _DEFAULTS,
    *,
    progress: Progress = SILENT,
    clock: Callable[[], datetime] = utc_now,
) -> VerifyReport:
    """Prove and read again what is stored for a guest, of one of its checkpoints, or for all guests of the site.

    Damage is reported. Raises HistoryError when a history is broken, UsageError for what is no anchor, name or sample,
    NoInputError when there is no such checkpoint, StorageError when a store fails.
    """
    anchor = history.parse_anchor(options.anchor) if options.anchor is not None else None
    if anchor is not None and guest is None:
        guest = anchor.guest
    now = clock()
    sample = None if options.percent is None else Sample(options.percent, now.isoformat())
    with reading_catalog(site) as catalog:
        number = None if name is None else _number(catalog, str(guest), name, options.drive)
        stores = {
            location: (store, _prove(site, store, catalog, guest, anchor))
            for location, store in stores_of(site, [guest] if guest else ()).items()
        }
    found = []
    for location, (store, _proven) in stores.items():
        wanted = _wanted(guest, number, options.drive, moved_guests(site, location))
        found.append(verify(store, wanted=wanted, sample=sample, progress=progress))
    if options.drive is not None and not any(verified.checkpoints for verified in found):
        raise NoInputError("there are no checkpoints of this drive", where=guest, found=options.drive)
    done = tuple(
        StoreVerified(location, proven, verified, *_written(site, store, verified, options, clock))
        for (location, (store, proven)), verified in zip(stores.items(), found, strict=True)
    )
    return VerifyReport(site.directory, guest, number, done, options.dry_run)


def _number(catalog: Catalog | None, guest: str, name: str, drive: str | None) -> int:
    if catalog is None:
        raise NoInputError(f"{guest} has no checkpoints")
    found = find_checkpoint(catalog, guest, name, drive=drive)
    if found.deleted_at is not None:
        raise NoInputError(f"checkpoint {found.number} of {guest} was deleted", where=catalog.path)
    return found.number


def _wanted(guest: str | None, number: int | None, drive: str | None, moved: set[str]) -> Callable[[Root], bool]:
    def is_wanted(root: Root) -> bool:
        is_asked = guest in (None, root.guest) and number in (None, root.number) and drive in (None, root.drive)
        return is_asked and root.guest not in moved

    return is_wanted


def _prove(
    site: Site, store: Store, catalog: Catalog | None, guest: str | None, anchor: Anchor | None
) -> tuple[Proven, ...]:
    """Prove every history; all that are broken are named at once."""
    vouched = vouched_guests(site, catalog, store.location) if catalog else []
    names = [guest] if guest else sorted({*history.guests(store), *vouched} - moved_guests(site, store.location))
    proven, broken = [], []
    for name in names:
        held = catalog if name in vouched else None
        try:
            chain = history.verify_chain(store, held, name, anchor)
        except HistoryError as error:
            broken.append(error)
        else:
            proven.append(Proven(name, len(chain), chain[-1][1] if chain else "", anchor is not None))
    if broken:
        raise BrokenHistoriesError(broken)
    if guest is not None and not any(one.records for one in proven):
        raise NoInputError(f"{guest} has no checkpoints", where=store.location)
    return tuple(proven)


def _written(
    site: Site, store: Store, verified: Verified, options: VerifyOptions, clock: Callable[[], datetime]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Act on what was found, as far as that is possible: what was set aside, and what could not be done."""
    if options.dry_run:
        return (), ()
    aside, undone = Aside(), []
    try:
        aside = set_aside(store, verified.damages, wait_seconds=options.lock_wait_seconds)
    except _UNDONE as error:
        undone.append(f"damaged chunks stay where they are, run verify again with --lock-wait: {error.line()}")
    undone += [f"a damaged chunk stays where it is: {failure}" for failure in aside.failures]
    moved = moved_guests(site, store.location)
    for guest, details in verified.details().items():
        if guest not in moved:
            try:
                _record(site, store, guest, details, options, clock)
            except _UNDONE as error:
                undone.append(f"not recorded in the history of {guest}: {error.line()}")
    return aside.keys, tuple(undone)


def _record(
    site: Site,
    store: Store,
    guest: str,
    details: Mapping[str, Sequence[int]],
    options: VerifyOptions,
    clock: Callable[[], datetime],
) -> None:
    """Write the VERIFY records of a guest."""
    host = os.uname().nodename
    with store.writing(guest, wait_seconds=options.lock_wait_seconds), catalog_for_writing(site) as catalog:
        for detail, numbers in details.items():
            history.append(store, catalog, guest, Kind.VERIFY, clock=clock, host=host, subjects=numbers, detail=detail)


# -- anchors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnchorReport:
    """The line that proves a guest's history up to record `number`, whose file has `digest`."""

    guest: str
    number: int
    digest: str
    line: str


def make_anchor(site: Site, guest: str) -> AnchorReport:
    """Prove a guest's history and return the line to keep elsewhere.

    Raises NoInputError when there is none, HistoryError when it is broken.
    """
    store = store_of(site, require_guest_name(guest))
    with reading_catalog(site) as catalog:
        chain = history.verify_chain(store, catalog, guest)
    if not chain:
        raise NoInputError(f"{guest} has no checkpoints", where=store.location)
    record, digest = chain[-1]
    return AnchorReport(guest, record.number, digest, Anchor(guest, record.number, digest).line())
