"""Reclaiming: what no checkpoint needs any more leaves the store.

    1  hold the store alone          nobody adds a chunk that is about to go because nothing names it yet
    2  prove every guest's history   a record that vanished or was altered could hide what is needed
    3  read every index that counts  one that cannot be read could name anything
    4  remove the dead indexes       from here on what they alone named is garbage, whoever dies
    5  remove the unmarked chunks

Nothing is removed before step 4, and a failure in steps 1 to 3 ends it. Dying later is harmless: each removal takes
away something that nothing needs, records stay for ever, and the next run goes on. A chunk that an index names and the
store has not is counted and otherwise left to verification: nobody gets it back by keeping garbage.

What counts and how it is kept in memory is told in `needed`. Chunks are removed after the listing that found them has
ended, so many at a time: no store has to say what a listing shows that is cut down meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from umldisk.checkpoint import history
from umldisk.checkpoint.needed import FreshNames, Needed, StoredChunks, find_needed, read_indexes
from umldisk.checkpoint.record import Record
from umldisk.checkpoint.store import Store, chunk_key
from umldisk.errors import DataError
from umldisk.progress import SILENT, Progress

if TYPE_CHECKING:
    from umldisk.checkpoint.catalog import Catalog

_AT_A_TIME = 1 << 19
"""So many chunks are removed after each listing; their names take 16 MiB."""

_NAME_BYTES = 32


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What was removed and what stayed, or would have with `dry_run`; bytes are of chunks as they are stored.

    `missing_chunks` are named by an index and not in the store: checkpoints are damaged.
    """

    guests: int
    indexes_kept: int
    indexes_removed: int
    chunks_kept: int
    chunks_removed: int
    bytes_kept: int
    bytes_removed: int
    missing_chunks: int
    dry_run: bool


def reclaim(
    store: Store,
    catalog: Catalog | None,
    *,
    dry_run: bool = False,
    wait_seconds: float = 0,
    progress: Progress = SILENT,
) -> Reclaimed:
    """Remove the indexes of deleted checkpoints of all guests, and then every chunk that no index names.

    With `catalog` its guests' histories are held against it too. Raises BusyError while anybody adds to the store,
    HistoryError when a guest's history is broken, DataError when an index is missing or damaged: nothing is removed
    then. StorageError when the store fails; whatever was removed until then was garbage.
    """
    with store.collecting(wait_seconds=wait_seconds):
        needed = _prove(store, catalog)
        chunks = StoredChunks(store)
        missing_chunks = _mark(store, needed, chunks, progress=progress)
        if not dry_run:
            store.delete(needed.dead)
        removed, removed_bytes = _sweep(store, chunks, dry_run=dry_run, progress=progress)
    return Reclaimed(
        guests=len(needed.guests),
        indexes_kept=len(needed.roots),
        indexes_removed=len(needed.dead),
        chunks_kept=len(chunks) - removed,
        chunks_removed=removed,
        bytes_kept=chunks.stored_bytes - removed_bytes,
        bytes_removed=removed_bytes,
        missing_chunks=missing_chunks,
        dry_run=dry_run,
    )


def _prove(store: Store, catalog: Catalog | None) -> Needed:
    """Prove the history of every guest in the store or in the catalog, and return what counts."""
    proven: dict[str, list[Record]] = {}

    def records(guest: str) -> list[Record]:
        proven[guest] = [record for record, _digest in history.verify_chain(store, catalog, guest)]
        return proven[guest]

    needed = find_needed(store, records)
    for guest in catalog.guests() if catalog is not None else ():
        if guest not in proven:
            records(guest)
    return needed


def _mark(store: Store, needed: Needed, chunks: StoredChunks, *, progress: Progress) -> int:
    """Mark what the indexes name; return how many of the names are not in the store."""
    fresh = FreshNames()
    missing: set[bytes] = set()
    for root, index in read_indexes(store, needed.roots, progress=progress):
        if isinstance(index, Exception):
            what = f"nothing is reclaimed while an index cannot be read: {index.what}"
            raise DataError(what, where=root.key, expected=index.expected, found=index.found) from index
        missing.update(name for name in fresh.of(index) if not chunks.mark(name))
    return len(missing)


def _sweep(store: Store, chunks: StoredChunks, *, dry_run: bool, progress: Progress) -> tuple[int, int]:
    """Remove the chunks without a mark; return how many there were, and their stored bytes."""
    removed = removed_bytes = 0
    with progress.task("reclaim") as task:
        while True:
            garbage, found = bytearray(), 0
            for name, size_bytes in islice(chunks.unmarked(), None if dry_run else _AT_A_TIME):
                found += 1
                removed_bytes += size_bytes
                task.add(size_bytes)
                if not dry_run:
                    garbage += name
            removed += found
            if garbage:
                names = (bytes(garbage[place : place + _NAME_BYTES]) for place in range(0, len(garbage), _NAME_BYTES))
                store.delete(map(chunk_key, names))
            if dry_run or found < _AT_A_TIME:
                return removed, removed_bytes
