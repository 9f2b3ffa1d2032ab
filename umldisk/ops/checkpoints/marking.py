"""What is said of checkpoints afterwards: protected or not, with a tag or without. Each is a record of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Kind
from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.ops.checkpoints.naming import find_checkpoint, utc_now
from umldisk.ops.checkpoints.storage import catalog_for_writing, required_catalog, store_of


@dataclass(frozen=True, slots=True)
class MarkOptions:
    """Which `drive` a time or `latest` is of, and how the record is written."""

    drive: str | None = None
    dry_run: bool = False
    lock_wait_seconds: float = 0


_DEFAULTS = MarkOptions()


@dataclass(frozen=True, slots=True)
class MarkReport:
    """Which checkpoints were marked, by the record of that number; `already` were so before and are not in it."""

    guest: str
    kind: Kind
    tag: str
    checkpoints: tuple[int, ...]
    already: tuple[int, ...]
    record: int | None
    dry_run: bool


def mark(
    site: Site,
    guest: str,
    kind: Kind,
    names: Sequence[str],
    *,
    tag: str = "",
    options: MarkOptions = _DEFAULTS,
    clock: Callable[[], datetime] = utc_now,
) -> MarkReport:
    """Say of the checkpoints that `names` name what `kind` is: PROTECT, UNPROTECT, TAG or UNTAG with a `tag`.

    Raises UsageError for what is no name, NoInputError when there is no such checkpoint or it was deleted, BusyError
    while another writes to the guest's history, HistoryError when it contradicts the catalog, StorageError.
    """
    if options.dry_run:
        with required_catalog(site, guest) as catalog:
            changed, already = _sorted_out(_find(catalog, guest, names, options), kind, tag)
        return MarkReport(guest, kind, tag, changed, already, None, dry_run=True)
    store = store_of(site, guest)
    with required_catalog(site, guest):  # where nothing was recorded, nothing is made
        pass
    with store.writing(guest, wait_seconds=options.lock_wait_seconds), catalog_for_writing(site) as catalog:
        history.sync(store, catalog, guest)
        changed, already = _sorted_out(_find(catalog, guest, names, options), kind, tag)
        record = None
        if changed:
            host = os.uname().nodename
            said = history.append(store, catalog, guest, kind, clock=clock, host=host, subjects=changed, detail=tag)
            record = said.number
    return MarkReport(guest, kind, tag, changed, already, record, dry_run=False)


def _find(catalog: Catalog, guest: str, names: Iterable[str], options: MarkOptions) -> list[Checkpoint]:
    found = {}
    for name in names:
        checkpoint = find_checkpoint(catalog, guest, name, drive=options.drive)
        if checkpoint.deleted_at is not None:
            raise NoInputError(f"checkpoint {checkpoint.number} of {guest} was deleted", where=catalog.path)
        found[checkpoint.number] = checkpoint
    return [found[number] for number in sorted(found)]


def _sorted_out(found: Iterable[Checkpoint], kind: Kind, tag: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers of those that are to be marked, and of those that are so already."""
    sides: tuple[list[int], list[int]] = ([], [])
    for checkpoint in found:
        sides[_is_so(checkpoint, kind, tag)].append(checkpoint.number)
    return tuple(sides[False]), tuple(sides[True])


def _is_so(checkpoint: Checkpoint, kind: Kind, tag: str) -> bool:
    if kind in (Kind.TAG, Kind.UNTAG):
        return (tag in checkpoint.tags) is (kind is Kind.TAG)
    return checkpoint.protected is (kind is Kind.PROTECT)
