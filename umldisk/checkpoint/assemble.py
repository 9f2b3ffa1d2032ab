"""From an index and its chunks back to a disk.

    index    |  3fa1…  |  9c0e…  |  zeros  |  77b2…  |
                 │         │                   │
    seed     |  3fa1…  |  0000…  | ...     |  77b2…  |      the disk as it is now, with the index it had once
                 ▼         │                   ▼
             share, else   │             share, else copy
             copy          ▼
    target   |  3fa1…  |  9c0e…  |  hole   |  77b2…  |      9c0e… comes from the store

Invariants. Nothing is trusted for where it comes from: a chunk from the store and a chunk from the seed are hashed
before they count, a seed whose chunk is not what its index says is passed over for the store. What was written is read
back at once and compared, and what is shared is hashed where it lies, so that all that counts is what is there. A chunk
that is missing or damaged ends the assembly with its name; the target is then worth nothing and left to vanish.

The work is done by threads in batches of consecutive chunks; hashing, unpacking, reading and writing leave Python's
lock alone. What is in memory is a chunk for each thread, whatever the size of the disk. Zeros are never written:
null chunks stay holes, and so do pages of zeros inside of chunks. The kernel is told to begin with writing out each
batch, because by itself it would wait until a tenth of all memory is to be written, and whoever syncs for all of that.

Left out: seeds that hold a chunk at another place. Places of a disk seldom move.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.chunks import read_chunk
from umldisk.checkpoint.index import Chunk, Index, name_of, parse
from umldisk.checkpoint.store import Store, index_key
from umldisk.errors import DataError, NoInputError, StorageError, from_os_error
from umldisk.progress import SILENT, Progress
from umldisk.system import sparse, transfer
from umldisk.system.files import DiskFile
from umldisk.system.syncing import begin_writing_out

BATCH_BYTES = 1 << 20
_REMOTE_WORKERS = 32
"""For a store across a network, where most of the time is waiting."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Seed:
    """A disk that may hold some of the chunks already, and the index that says which; the index need not be true."""

    disk: DiskFile
    index: Index


@dataclass(frozen=True, slots=True)
class Assembled:
    """Where a disk came from, in bytes of the disk: the store, the seed (`shared_bytes` of that by reflink), zeros."""

    size_bytes: int
    fetched_bytes: int
    reused_bytes: int
    shared_bytes: int
    zero_bytes: int


def load_index(store: Store, checkpoint: Checkpoint) -> Index:
    """Return the index of a checkpoint, which must be the one that its record names.

    Raises NoInputError after a deletion, DataError when it is missing otherwise, damaged or another one.
    """
    key = index_key(checkpoint.guest, checkpoint.number)
    try:
        data = store.get(key)
    except NoInputError as error:
        if checkpoint.deleted_at is None:
            what = f"the index of checkpoint {checkpoint.number} is missing in the store"
            raise DataError(what, where=error.where or key) from error
        raise NoInputError(f"checkpoint {checkpoint.number} was deleted", where=error.where) from error
    found = hashlib.sha256(data).hexdigest()
    if found != checkpoint.taken.index_sha256:
        raise DataError(
            f"the index of checkpoint {checkpoint.number} is not the one that was recorded",
            where=key,
            expected=checkpoint.taken.index_sha256,
            found=found,
        )
    index = parse(data, where=key)
    if index.size_bytes != checkpoint.taken.size_bytes:
        raise DataError(
            f"the index of checkpoint {checkpoint.number} is of a disk of another size",
            where=key,
            expected=checkpoint.taken.size_bytes,
            found=index.size_bytes,
        )
    return index


def assemble(
    store: Store,
    index: Index,
    target: DiskFile,
    *,
    seed: Seed | None = None,
    is_kept: bool = True,
    progress: Progress = SILENT,
) -> Assembled:
    """Fill the new, empty file `target` with the disk that `index` describes, checked; not synced.

    A target that is not kept need never get to the disk. Raises DataError when a chunk is missing or damaged,
    StorageError when the store, the seed or the target fails.
    """
    try:
        os.ftruncate(target.fd, index.size_bytes)
        laid = list(_lay_seed(seed, index, target)) if seed else []
    except OSError as error:
        raise from_os_error(error, "write", target.path) from error
    filler = _Filler(store, target, seed, is_kept)
    sums = [0, 0, 0, 0]
    with progress.task("assemble", index.size_bytes) as task:
        for tally in in_parallel(filler.fill, _batches(_parts(index, laid)), workers=_workers(store)):
            sums = [total + more for total, more in zip(sums, tally, strict=True)]
            task.add(sum(tally) - tally.shared_bytes)
    return Assembled(index.size_bytes, *sums)


def fetched(store: Store, index: Index) -> Iterator[tuple[Chunk, bytes | None]]:
    """Yield every chunk in order with its contents, checked, or None where it is zeros; reads a few ahead.

    Raises what `assemble` raises.
    """

    def read(chunk: Chunk) -> tuple[Chunk, bytes | None]:
        return chunk, None if chunk.is_null else read_chunk(store, chunk.name, chunk.end - chunk.start)

    return in_parallel(read, index.chunks(), workers=_workers(store))


def first_difference(disk: DiskFile, index: Index, *, progress: Progress = SILENT) -> int | None:
    """Return where the first chunk lies that the disk does not hold as the index says, None when it holds all.

    A disk of another length differs where the shorter one ends. Raises StorageError when it cannot be read.
    """
    if disk.size_bytes != index.size_bytes:
        return min(disk.size_bytes, index.size_bytes)

    def check(batch: list[Chunk]) -> tuple[int, int | None]:
        wrong = next((chunk.start for chunk in batch if not _holds(disk, chunk)), None)
        return batch[-1].end - batch[0].start, wrong

    with progress.task("verify", index.size_bytes) as task:
        for done_bytes, wrong in in_parallel(check, _batches(index.chunks()), workers=_cores()):
            if wrong is not None:
                return wrong
            task.add(done_bytes)
    return None


def _holds(disk: DiskFile, chunk: Chunk) -> bool:
    if not chunk.is_null:
        return name_of(disk.read_at(chunk.start, chunk.end - chunk.start)) == chunk.name
    try:
        extents = sparse.data_extents(disk.fd, chunk.start, chunk.end)
        return all(_is_zero(disk, start, end) for start, end in extents)
    except OSError as error:
        raise from_os_error(error, "read", disk.path) from error


def _is_zero(disk: DiskFile, start: int, end: int) -> bool:
    step = transfer.CHUNK_BYTES
    return all(transfer.is_zero(disk.read_at(low, min(step, end - low))) for low in range(start, end, step))


# -- filling ----------------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """A stretch that the seed's index promises to hold as it should be; `shared` says it is in the target already."""

    start: int
    end: int
    shared: bool


class _Part(NamedTuple):
    """A chunk to fill, and whether the seed may have it."""

    chunk: Chunk
    source: _Source | None

    @property
    def start(self) -> int:
        return self.chunk.start

    @property
    def end(self) -> int:
        return self.chunk.end


class _Tally(NamedTuple):
    fetched_bytes: int
    reused_bytes: int
    shared_bytes: int
    zero_bytes: int


class _Filler:
    """Puts single chunks in place; used from several threads."""

    def __init__(self, store: Store, target: DiskFile, seed: Seed | None, is_kept: bool) -> None:
        self._store = store
        self._target = target
        self._seed = seed
        self._is_kept = is_kept

    def fill(self, batch: list[_Part]) -> _Tally:
        """Put a batch in place and count where it came from."""
        fetched = reused = shared = zeros = 0
        for chunk, source in batch:
            length = chunk.end - chunk.start
            if chunk.is_null:
                self._require(chunk, is_right=_holds(self._target, chunk))
                zeros += length
            elif source is not None and self._reuse(chunk, source):
                reused += length
                shared += length if source.shared else 0
            else:
                self._write(chunk, read_chunk(self._store, chunk.name, length), over=source)
                fetched += length
        if self._is_kept and (fetched or reused > shared):
            begin_writing_out(self._target.fd, batch[0].start, batch[-1].end)
        return _Tally(fetched, reused, shared, zeros)

    def _reuse(self, chunk: Chunk, source: _Source) -> bool:
        """Take a chunk from the seed if it is what it should be."""
        assert self._seed is not None
        disk = self._target if source.shared else self._seed.disk
        data = disk.read_at(chunk.start, chunk.end - chunk.start)
        if name_of(data) != chunk.name:
            return False
        if not source.shared:
            self._write(chunk, data)
        return True

    def _write(self, chunk: Chunk, data: bytes, *, over: _Source | None = None) -> None:
        """Write what is not zeros; over something that was shared already, everything."""
        spans = [(0, len(data))] if over and over.shared else transfer.nonzero_spans(data, len(data))
        view = memoryview(data)
        for start, end in spans:
            self._target.write_at(chunk.start + start, view[start:end])
        self._require(chunk, is_right=self._target.read_at(chunk.start, len(data)) == data)

    def _require(self, chunk: Chunk, *, is_right: bool) -> None:
        if not is_right:
            where = f"{self._target.path}, byte {chunk.start} or after"
            raise StorageError("what was written reads back differently", where=where)


def _lay_seed(seed: Seed, index: Index, target: DiskFile) -> Iterator[_Source]:
    """Share with the target, where that can be done, what the seed promises to hold at the same places."""
    can_share = True
    for start, end in _common_runs(seed.index, index):
        shared = can_share and transfer.reflink_range(seed.disk.fd, start, target.fd, start, end - start)
        can_share = shared or end % transfer.PAGE_BYTES != 0
        yield _Source(start, end, shared)


def _common_runs(left: Index, right: Index) -> Iterator[tuple[int, int]]:
    """Yield the longest stretches over which two indexes have the same chunks, zeros excepted."""
    low = high = 0
    for chunk in _common_chunks(left.chunks(), right.chunks()):
        if chunk.start != high:
            if low < high:
                yield low, high
            low = chunk.start
        high = chunk.end
    if low < high:
        yield low, high


def _common_chunks(left: Iterator[Chunk], right: Iterator[Chunk]) -> Iterator[Chunk]:
    ours, theirs = next(left, None), next(right, None)
    while ours is not None and theirs is not None:
        if ours == theirs and not ours.is_null:
            yield ours
        end = min(ours.end, theirs.end)
        if ours.end == end:
            ours = next(left, None)
        if theirs.end == end:
            theirs = next(right, None)


def _parts(index: Index, laid: Iterable[_Source]) -> Iterator[_Part]:
    """Join every chunk with the stretch of the seed that it lies in."""
    sources = iter(laid)
    source = next(sources, None)
    for chunk in index.chunks():
        while source is not None and source.end <= chunk.start:
            source = next(sources, None)
        inside = source is not None and source.start <= chunk.start
        yield _Part(chunk, source if inside else None)


# -- threads ----------------------------------------------------------------------------------------------------------


_Piece = TypeVar("_Piece", Chunk, _Part)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Group consecutive pieces up to the size of a batch; a larger piece is one for itself."""
    batch: list[_Piece] = []
    for piece in pieces:
        if batch and piece.end - batch[0].start > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def in_parallel(work: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int) -> Iterator[_Result]:
    """Yield the results of `work` in the order of the items, a few of which are under way at a time.

    The first failure ends it; what has not begun then is dropped, what has is waited for.
    """
    waiting: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _workers(store: Store) -> int:
    return _REMOTE_WORKERS if "://" in store.location else _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) + 1
