"""Writing a guest's history into the store and the catalog; how it is read and proven is told in `chain`.

The record in the store comes first, the catalog second. Dying in between leaves the catalog behind, and the next `sync`
catches up, as it does with what other hosts wrote and with an old catalog that was put back. A catalog that has more
than the store, or something else, means that the store was tampered with: nothing more is written then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import umldisk
from umldisk.checkpoint.chain import (
    Anchor,
    Chained,
    anchor,
    following,
    guests,
    load,
    parse_anchor,
    require_last,
    require_same,
    sound_start,
    verify_chain,
)
from umldisk.checkpoint.record import Kind, Record, Taken, digest_of, parse
from umldisk.checkpoint.store import Store, record_key
from umldisk.errors import DataError, HistoryError, NoInputError, StorageError, UsageError

if TYPE_CHECKING:
    from umldisk.checkpoint.catalog import Catalog

__all__ = [
    "Anchor",
    "Chained",
    "Rebuilt",
    "anchor",
    "append",
    "beyond",
    "fill_from",
    "guests",
    "load",
    "next_number",
    "parse_anchor",
    "rebuild",
    "rebuild_from",
    "sync",
    "verify_chain",
]

Clock = Callable[[], datetime]


def append(  # noqa: PLR0913  (what a record says has so many parts, and each caller gives a few)
    store: Store,
    catalog: Catalog,
    guest: str,
    kind: Kind,
    *,
    clock: Clock,
    host: str,
    taken: Taken | None = None,
    subjects: Iterable[int] = (),
    detail: str = "",
) -> Record:
    """Add a record to a guest's history, durably in the store and then in the catalog; return it.

    The caller holds `store.writing(guest)`, and has put the index of a checkpoint under `index_key` of `next_number`.
    Raises UsageError when a subject is no checkpoint or a text is none, HistoryError when store and catalog contradict
    each other, BusyError when another host was quicker.
    """
    number = next_number(store, catalog, guest)
    about = tuple(sorted(set(subjects)))
    for subject in about:
        _require_checkpoint(catalog, guest, subject)
    before = catalog.last(guest)
    now, previous = clock().astimezone(UTC), before[1] if before else ""
    record = Record(guest, number, now, kind, previous, host, umldisk.__version__, taken, about, detail)
    data = _readable(record)
    store.put_new(record_key(guest, number), data)
    catalog.add(record, digest_of(data))
    return record


def _require_checkpoint(catalog: Catalog, guest: str, number: int) -> None:
    try:
        catalog.checkpoint(guest, number)
    except NoInputError as error:
        hint = f"umldisk checkpoint list {guest} shows which there are"
        raise UsageError(f"{guest} has no checkpoint {number}", hint=hint) from error


def _readable(record: Record) -> bytes:
    """Return the record's file once it is sure that it can be read again."""
    data = record.build()
    try:
        parse(data)
    except DataError as error:
        raise UsageError("this cannot be recorded", found=error.found) from error
    return data


def next_number(store: Store, catalog: Catalog, guest: str) -> int:
    """Return the number of the guest's next record, after bringing the catalog up to date."""
    sync(store, catalog, guest)
    last = catalog.last(guest)
    return last[0] + 1 if last else 1


def sync(store: Store, catalog: Catalog, guest: str) -> int:
    """Add what the store has of a guest's history beyond the catalog; return how many records that were.

    Costs three requests when there is nothing. Raises HistoryError when the catalog's last record is not the store's.
    """
    chain = beyond(store, guest, catalog.last(guest))
    with catalog.transaction():
        have = (catalog.last(guest) or (0, ""))[0]  # another process may have caught up meanwhile
        for record, digest in chain:
            if record.number > have:
                catalog.add(record, digest)
    return len(chain)


def beyond(store: Store, guest: str, last: tuple[int, str] | None) -> Chained:
    """Return what the store has of a guest's history after the catalog's `last` record.

    Raises HistoryError also when later records come after a missing one: nothing may be written into the gap.
    """
    if last is None:
        return verify_chain(store, None, guest)
    require_same(store, guest, *last)
    chain = list(following(store, guest, *last))
    require_last(store, guest, chain[-1][0].number if chain else last[0])
    return chain


# -- making the catalog anew -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What `rebuild` did: how many records each guest has in the catalog now, and the broken histories."""

    records: dict[str, int]
    broken: tuple[HistoryError, ...]


def rebuild(store: Store, catalog: Catalog) -> Rebuilt:
    """Make the catalog anew from one store alone; see `rebuild_from`."""
    return rebuild_from(dict.fromkeys(guests(store), store), catalog)


def rebuild_from(homes: Mapping[str, Store], catalog: Catalog) -> Rebuilt:
    """Make the catalog anew from the stores that the guests' histories are in, in one step for whoever looks.

    Of a broken history it takes what comes before the first bad record; who calls raises what is in `broken`. What was
    known of backing files is forgotten, so that the next checkpoint reads everything.
    """
    chains: dict[str, Chained] = {}
    broken: list[HistoryError] = []
    for guest, store in homes.items():
        try:
            chains[guest] = verify_chain(store, None, guest)
        except HistoryError as error:
            broken.append(error)
            chains[guest] = sound_start(store, guest)
    with catalog.transaction():
        catalog.clear()
        _add(catalog, chains)
    return Rebuilt({guest: len(chain) for guest, chain in chains.items()}, tuple(broken))


def fill_from(homes: Mapping[str, Store], catalog: Catalog) -> None:
    """Give an empty catalog the histories that are whole; what is broken or out of reach is left to be found.

    A catalog that another process has filled meanwhile is left alone.
    """
    chains: dict[str, Chained] = {}
    for guest, store in homes.items():
        with contextlib.suppress(HistoryError, StorageError):
            chains[guest] = verify_chain(store, None, guest)
    with catalog.transaction():
        if not catalog.guests():
            _add(catalog, chains)


def _add(catalog: Catalog, chains: Mapping[str, Chained]) -> None:
    for chain in chains.values():
        for record, digest in chain:
            catalog.add(record, digest)
