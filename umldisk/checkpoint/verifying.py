"""Verification: reading again what was stored, and saying who is hurt by what is damaged.

    indexes that are asked for     each against the digest in its record
      │ names
      ▼
    chunks in the store            named and not listed: missing, whether in the sample or not
      │ all, or a sample
      ▼
    read, unpack, hash             not what the name says: damaged; the store cannot give it: unreadable
      │ bad ones, if any
      ▼
    all indexes of the store       every checkpoint of every guest that names one, asked for or not

A sample is chosen by hashing each name with a seed: the same seed gives the same sample of the same store on every
machine, and another night's seed another one. What is in memory is told in `needed`; chunks are read and hashed by
several threads, a few at a time.

The histories that records form are proven by `history.verify_chain`, not here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from umldisk.checkpoint import history
from umldisk.checkpoint.assemble import in_parallel
from umldisk.checkpoint.chunks import unpack
from umldisk.checkpoint.index import Index
from umldisk.checkpoint.needed import FreshNames, Root, StoredChunks, find_needed, read_indexes
from umldisk.checkpoint.record import WHOLE, verification
from umldisk.checkpoint.store import Store, chunk_key
from umldisk.errors import DataError, NoInputError, StorageError, UmldiskError, UsageError
from umldisk.progress import SILENT, Progress

_WORKERS = 8
MOST_CHUNK_BYTES = 128 << 20
"""The largest chunk that casync itself takes (CA_CHUNK_SIZE_LIMIT_MAX)."""

_MOST_UNREADABLE = 100
"""So many chunks may fail to be read before it is the store that fails, and not its chunks."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Which chunks are read: about `percent` of 100, at least one, chosen by `seed`. Raises UsageError."""

    percent: float
    seed: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise UsageError("a sample of so much cannot be taken", expected="above 0% up to 100%", found=self)

    def __str__(self) -> str:
        return f"{self.percent:g}%"

    def rank(self, name: bytes) -> float:
        """Return where from 0 up to 1 a name lies; the sample is what lies below its share."""
        key = hashlib.sha256(self.seed.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(hashlib.blake2b(name, digest_size=6, key=key).digest(), "big") / (1 << 48)

    def has(self, name: bytes) -> bool:
        """Whether a name is among the chosen."""
        return self.rank(name) < self.percent / 100


class Condition(Enum):
    """What is wrong with something that was stored."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Hurt:
    """A checkpoint that needs something damaged; without a number, an index that is no checkpoint's (a base's)."""

    guest: str
    drive: str
    number: int | None

    def __str__(self) -> str:
        return f"{self.guest} {self.drive} {'base' if self.number is None else self.number}".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged chunk or index: its key, what is wrong with it, and all that it hurts."""

    key: str
    condition: Condition
    explanation: str
    hurt: tuple[Hurt, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification did and found.

    `indexes` were asked for and `chunks` are named by them, each counted once; of these `chunks_read` were read again,
    `bytes_read` as they are stored. `how` is "all" or the sample in percent.
    """

    how: str
    indexes: int
    chunks: int
    chunks_read: int
    bytes_read: int
    damages: tuple[Damage, ...]
    checkpoints: tuple[Hurt, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing damaged was found."""
        return not self.damages

    def damage_of(self, guest: str, number: int) -> str:
        """Return what hurts a checkpoint as short text, "" for nothing."""
        return _short(self._damages_by_checkpoint().get((guest, number), []))

    def details(self) -> dict[str, dict[str, list[int]]]:
        """Return for each guest what its VERIFY records have to say: the detail, and the checkpoints it is about.

        These are the checkpoints that were asked for, and those of other guests that were found hurt.
        """
        found = self._damages_by_checkpoint()
        asked = {(hurt.guest, hurt.number) for hurt in self.checkpoints if hurt.number is not None}
        said: dict[str, dict[str, list[int]]] = {}
        for guest, number in sorted(asked | found.keys()):
            detail = verification(self.how, _short(found.get((guest, number), [])))
            said.setdefault(guest, {}).setdefault(detail, []).append(number)
        return said

    def _damages_by_checkpoint(self) -> dict[tuple[str, int], list[Damage]]:
        found: dict[tuple[str, int], list[Damage]] = {}
        for damage in self.damages:
            for hurt in damage.hurt:
                if hurt.number is not None:
                    found.setdefault((hurt.guest, hurt.number), []).append(damage)
        return found


def _short(damages: Sequence[Damage]) -> str:
    if not damages:
        return ""
    name = damages[0].key.rpartition("/")[2]
    more = f" and {len(damages) - 1} more" if len(damages) > 1 else ""
    return f"{name} is {damages[0].condition.value}{more}"


def verify(
    store: Store,
    *,
    wanted: Callable[[Root], bool] | None = None,
    sample: Sample | None = None,
    progress: Progress = SILENT,
) -> Verified:
    """Read again what the `wanted` indexes need (None: all indexes of all guests), all of it or a sample.

    Damage is reported and not raised. Raises HistoryError when a guest's records cannot be read, StorageError when the
    store fails, which so many unreadable chunks are too.
    """
    asked = [root for root in _roots(store) if wanted is None or wanted(root)]
    chunks = StoredChunks(store)
    bad_indexes: dict[str, _Finding] = {}
    missing = _mark(store, asked, chunks, bad_indexes, progress=progress)
    bad = dict.fromkeys(missing, _Finding(Condition.MISSING, "it is not in the store"))
    read, read_bytes = _check_chunks(store, chunks, sample, bad, progress=progress)
    return Verified(
        how=WHOLE if sample is None else str(sample),
        indexes=len(asked),
        chunks=chunks.count_marked() + len(missing),
        chunks_read=read,
        bytes_read=read_bytes,
        damages=tuple(_damages(store, bad_indexes, bad, progress=progress)) if bad or bad_indexes else (),
        checkpoints=tuple(_hurt(root) for root in asked if root.number is not None),
    )


class _Finding(NamedTuple):
    condition: Condition
    explanation: str


def _roots(store: Store) -> tuple[Root, ...]:
    return find_needed(store, lambda guest: [record for record, _digest in history.load(store, guest)]).roots


def _hurt(root: Root) -> Hurt:
    return Hurt(root.guest, root.drive, root.number)


def _mark(
    store: Store,
    asked: Sequence[Root],
    chunks: StoredChunks,
    bad_indexes: dict[str, _Finding],
    *,
    progress: Progress,
) -> set[bytes]:
    """Mark what the indexes name, add to `bad_indexes`, and return the names that are not in the store."""
    fresh = FreshNames()
    missing: set[bytes] = set()
    for root, index in read_indexes(store, asked, progress=progress):
        if isinstance(index, UmldiskError):
            bad_indexes[root.key] = _finding(index)
        else:
            missing.update(name for name in fresh.of(index) if not chunks.mark(name))
    return missing


def _finding(error: UmldiskError) -> _Finding:
    if isinstance(error, NoInputError):
        return _Finding(Condition.MISSING, "it is not in the store")
    return _Finding(Condition.DAMAGED if isinstance(error, DataError) else Condition.UNREADABLE, error.line())


def _check_chunks(
    store: Store, chunks: StoredChunks, sample: Sample | None, bad: dict[bytes, _Finding], *, progress: Progress
) -> tuple[int, int]:
    """Read the marked chunks that are in the sample and add to `bad`; return how many were read, and their bytes."""

    def check(chosen: tuple[bytes, int]) -> tuple[bytes, int, UmldiskError | None]:
        name, size_bytes = chosen
        key = chunk_key(name)
        try:
            unpack(store.get(key), name, most_bytes=MOST_CHUNK_BYTES, where=key)
        except (DataError, NoInputError, StorageError) as error:
            return name, size_bytes, error
        return name, size_bytes, None

    read = read_bytes = unreadable = 0
    with progress.task("read chunks", _likely_bytes(chunks, sample)) as task:
        for name, size_bytes, error in in_parallel(check, _chosen(chunks, sample), workers=_WORKERS):
            read, read_bytes = read + 1, read_bytes + size_bytes
            task.add(size_bytes)
            if error is not None:
                bad[name] = _finding(error)
                unreadable += isinstance(error, StorageError)
                if unreadable > _MOST_UNREADABLE:
                    raise error
    return read, read_bytes


def _chosen(chunks: StoredChunks, sample: Sample | None) -> Iterator[tuple[bytes, int]]:
    if sample is None:
        yield from chunks.marked()
        return
    found = False
    for name, size_bytes in chunks.marked():
        if sample.has(name):
            found = True
            yield name, size_bytes
    if not found:
        first = min(chunks.marked(), key=lambda chunk: sample.rank(chunk[0]), default=None)
        yield from () if first is None else (first,)


def _likely_bytes(chunks: StoredChunks, sample: Sample | None) -> int:
    share = (sample.percent / 100 if sample else 1) * chunks.count_marked() / max(1, len(chunks))
    return round(chunks.stored_bytes * share)


def _damages(
    store: Store, bad_indexes: dict[str, _Finding], bad: dict[bytes, _Finding], *, progress: Progress
) -> Iterator[Damage]:
    """Yield what is damaged with all that it hurts now; what nothing needs any more was reclaimed meanwhile."""
    roots = _roots(store)
    hurt: dict[bytes, list[Hurt]] = {}
    for root in roots:
        if root.key in bad_indexes:
            yield Damage(root.key, *bad_indexes[root.key], (_hurt(root),))
    for root, index in read_indexes(store, roots, progress=progress) if bad else ():
        if isinstance(index, Index):
            for name in bad.keys() & index.names():
                hurt.setdefault(name, []).append(_hurt(root))
    for name in sorted(hurt):
        yield Damage(chunk_key(name), *bad[name], tuple(hurt[name]))
