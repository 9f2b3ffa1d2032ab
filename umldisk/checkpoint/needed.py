"""What a store needs: the indexes that count, and which of the stored chunks they name.

    guests/a/00000001.caibx   record 1 is a checkpoint                        counts
    guests/a/00000002.caibx   record 2 is a checkpoint, deleted by record 4   is dead
    guests/a/00000003.caibx   record 3 is no checkpoint: a dying take's       is dead
    guests/a/00000005.caibx   there is no record 5 (yet)                      counts, nobody can say what it is
    guests/a/base-var.caibx   what a backing file equals                      counts

In doubt an index counts. A checkpoint that is not deleted counts with or without its index in the store.

Memory. A store of 640 GiB has ten million chunks; a set of their names would take more than a gigabyte. The store lists
chunks in the order of their names, so the first 8 bytes of each, in an array, and a mark for each are enough: 9 bytes a
chunk. Names that share 8 bytes are marked together, which can keep a chunk too many and never drops one. Of indexes
that follow each other only the names that are new at their place are looked up.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from umldisk.checkpoint.assemble import in_parallel
from umldisk.checkpoint.differing import fresh_names
from umldisk.checkpoint.index import Index, parse
from umldisk.checkpoint.record import Kind, Record
from umldisk.checkpoint.store import CHUNKS, GUESTS, INDEX_SUFFIX, Store, chunk_name, index_key
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.progress import SILENT, Progress

_INDEX_READERS = 4
"""Few: the index of a disk with 1 TiB of data takes 640 MiB."""

_INDEX_KEY = re.compile(rf"{GUESTS}[^/]+/(?:(\d{{8,}})|base-(.+)){re.escape(INDEX_SUFFIX)}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Root:
    """An index that counts; `number` is that of its checkpoint, None when it is no checkpoint's.

    `index_sha256` is what the record says, "" where there is none. `stored_bytes` is 0 when the index is missing.
    """

    key: str
    guest: str
    drive: str
    number: int | None
    index_sha256: str
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class Needed:
    """All indexes of a store: those that count, by guest and drive and oldest first, and the keys of the dead ones."""

    roots: tuple[Root, ...]
    dead: tuple[str, ...]
    guests: tuple[str, ...]


def find_needed(store: Store, records: Callable[[str], Sequence[Record]]) -> Needed:
    """Return which indexes count; `records` gives a guest's whole history, and may raise what it likes."""
    guests: dict[str, dict[str, int]] = {}
    for listed in store.list(GUESTS):
        guest = listed.key.removeprefix(GUESTS).partition("/")[0]
        indexes = guests.setdefault(guest, {})
        if listed.key.endswith(INDEX_SUFFIX):
            indexes[listed.key] = listed.size_bytes
    roots: list[Root] = []
    dead: list[str] = []
    for guest, indexes in guests.items():
        found = list(_roots(guest, records(guest), indexes))
        roots += sorted(found, key=lambda root: (root.drive, root.number or 0))
        dead += sorted(_dead(found, indexes))
    return Needed(tuple(roots), tuple(dead), tuple(guests))


def _roots(guest: str, records: Sequence[Record], indexes: dict[str, int]) -> Iterator[Root]:
    known = {record.number for record in records}
    deleted = {number for record in records if record.kind is Kind.DELETE for number in record.subjects}
    for record in records:
        if record.taken and record.number not in deleted:
            key, taken = index_key(guest, record.number), record.taken
            yield Root(key, guest, taken.drive, record.number, taken.index_sha256, indexes.get(key, 0))
    for key, stored_bytes in indexes.items():
        place = _INDEX_KEY.fullmatch(key)
        if not (place and place[1] and int(place[1]) in known):
            yield Root(key, guest, place[2] or "" if place else "", None, "", stored_bytes)


def _dead(roots: Sequence[Root], indexes: dict[str, int]) -> set[str]:
    return indexes.keys() - {root.key for root in roots}


def read_index(store: Store, root: Root) -> Index:
    """Return a root's index; raises NoInputError when it is missing, DataError when it is not the recorded one."""
    data = store.get(root.key)
    digest = hashlib.sha256(data).hexdigest()
    if root.index_sha256 not in {"", digest}:
        raise DataError("an index is not the recorded one", where=root.key, expected=root.index_sha256, found=digest)
    return parse(data, where=root.key)


def read_indexes(
    store: Store, roots: Sequence[Root], *, progress: Progress = SILENT
) -> Iterator[tuple[Root, Index | DataError | NoInputError]]:
    """Yield each root with its index, or with what is wrong with it; reads a few ahead. Raises StorageError."""

    def read(root: Root) -> tuple[Root, Index | DataError | NoInputError]:
        try:
            return root, read_index(store, root)
        except (DataError, NoInputError) as error:
            return root, error

    with progress.task("read indexes", sum(root.stored_bytes for root in roots)) as task:
        for root, index in in_parallel(read, roots, workers=_INDEX_READERS):
            yield root, index
            task.add(root.stored_bytes)


class FreshNames:
    """Says of each index that passes which names may be new; it remembers the one before."""

    def __init__(self) -> None:
        self._before: Index | None = None

    def of(self, index: Index) -> Iterator[bytes]:
        """Yield all names of `index` that the index before it has not at the same place."""
        before, self._before = self._before, index
        return fresh_names(before, index)


class StoredChunks:
    """All chunks of a store, each with a mark; see the module for what it remembers of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names = array("Q")
        self.stored_bytes = 0
        before = b""
        for name, size_bytes in _listed(store):
            if name <= before:  # a mark would be missed, and with it a chunk that is needed
                raise StorageError("the store does not list its chunks in order", where=store.location)
            self._names.append(_short(name))
            self.stored_bytes += size_bytes
            before = name
        self._marks = bytearray(len(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def mark(self, name: bytes) -> bool:
        """Mark a chunk; False when it is not stored."""
        short = _short(name)
        place = first = bisect_left(self._names, short)
        while place < len(self._names) and self._names[place] == short:
            self._marks[place] = 1
            place += 1
        return place > first

    def count_marked(self) -> int:
        """Return how many chunks are marked."""
        return self._marks.count(1)

    def marked(self) -> Iterator[tuple[bytes, int]]:
        """Yield the name and stored size of each marked chunk, in order, from the store's present listing."""
        return ((name, size_bytes) for name, size_bytes in _listed(self._store) if self._mark_of(name) == 1)

    def unmarked(self) -> Iterator[tuple[bytes, int]]:
        """Yield the name and stored size of each chunk that is not marked; one that is new since is none of them."""
        return ((name, size_bytes) for name, size_bytes in _listed(self._store) if self._mark_of(name) == 0)

    def _mark_of(self, name: bytes) -> int | None:
        place = bisect_left(self._names, _short(name))
        is_known = place < len(self._names) and self._names[place] == _short(name)
        return self._marks[place] if is_known else None


def _short(name: bytes) -> int:
    return int.from_bytes(name[:8], "big")


def _listed(store: Store) -> Iterator[tuple[bytes, int]]:
    for listed in store.list(CHUNKS):
        name = chunk_name(listed.key)
        if name is not None:
            yield name, listed.size_bytes
