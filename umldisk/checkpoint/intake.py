"""Taking a disk's contents into a store, by what a plan says is to be read.

    plan ─▶ regions ─▶ │ a thread for each core: read, hash, pack and put what is new │ ─▶ items in order ─▶ index

Reading, hashing and packing leave Python's lock alone, so that threads are enough. Each has one buffer of a region, and
only a few regions are under way at once: memory does not grow with the disk, except for the index, 40 bytes a chunk.

A chunk that the base index has at the same place is in the store already, and so is one that was met a moment ago; of
all others the store is asked. So taking a disk as a whole also heals a store that lost chunks.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from umldisk.checkpoint.chunks import pack
from umldisk.checkpoint.index import (
    CHUNK_BYTES,
    REGION_BYTES,
    Index,
    name_of,
    null_name,
    region_items,
    spliced,
)
from umldisk.checkpoint.recording import Reading, length_of
from umldisk.checkpoint.store import Store, chunk_key
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.errors import from_os_error
from umldisk.progress import Task

if TYPE_CHECKING:
    from concurrent.futures import Future

_REGIONS_A_THREAD = 4
_MOST_REMEMBERED = 1 << 18
"""How many names of chunks are remembered as being in the store: those of 16 GiB, in some 30 MB."""
_FLUSHED_FIRST, _FLUSHED_MOST = 192, 2048
"""How many new chunks are made durable together; each time twice as many, because many are cheaper together."""
_ZEROS = bytes(CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Intake:
    """What came of it: the disk's index, that of what lies below it if the plan told enough for it, and bytes."""

    index: Index
    below: Index | None
    read_bytes: int
    stored_bytes: int


class _Read(NamedTuple):
    """A region that was read: its items, those of the layer below where they differ, how much was read."""

    region: int
    items: bytes
    below: bytes | None
    read_bytes: int


def take_in(
    view: Layer, plan: Iterable[Reading], store: Store, *, base: Index | None, task: Task, with_below: bool = False
) -> Intake:
    """Read what `plan` says of `view`, put it into `store`, and return the index of the disk.

    Places that the plan leaves out are as in `base`, and without one, zeros. `with_below` gives the index of the layer
    below, too, for which the plan must name all places where it can differ. Every chunk that the indexes name is in
    the store afterwards and durable, if those of `base` were. Raises StorageError when reading or storing fails.
    """
    with _Chunks(store) as chunks, _scattered(view) if base is not None else contextlib.nullcontext():
        regions = _Regions(_in_order(_Reader(view, chunks, base).read, plan), task)
        index = spliced(base, view.size_bytes, regions.items())
        task.add(view.size_bytes - regions.done)
        below = spliced(index, view.size_bytes, regions.below) if with_below else None
        for length, name in {**index.null_chunks(), **(below or index).null_chunks()}.items():
            chunks.keep(name, bytes(length))
        chunks.flush()
        return Intake(index, below, regions.read_bytes, chunks.stored_bytes)


@contextlib.contextmanager
def _scattered(view: Layer) -> Iterator[None]:
    """Keep the kernel from reading ahead: behind a changed place of a COW file there are holes, which it would fill."""
    files = {layer.disk.fd for layer in _stack(view)}
    for fd in files:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        yield
    finally:
        for fd in files:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)


def _stack(layer: Layer) -> Iterator[Layer]:
    while isinstance(layer, CowLayer):
        yield layer
        layer = layer.below
    yield layer


class _Regions:
    """Regions on their way into an index, and what is counted in passing; `done` is the start of the last one."""

    def __init__(self, regions: Iterator[_Read], task: Task) -> None:
        self._regions = regions
        self._task = task
        self.below: list[tuple[int, bytes]] = []
        self.read_bytes = 0
        self.done = 0

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Yield the items of each region."""
        for region in self._regions:
            self.read_bytes += region.read_bytes
            if region.below is not None:
                self.below.append((region.region, region.below))
            yield region.region, region.items
            self._task.add(region.region - self.done)
            self.done = region.region


def _in_order(read: Callable[[Reading], _Read], plan: Iterable[Reading]) -> Iterator[_Read]:
    """Yield what the threads make of each part of the plan, in its order, a few parts ahead."""
    from concurrent.futures import ThreadPoolExecutor

    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[_Read]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="umldisk-take")
    try:
        for reading in plan:
            waiting.append(pool.submit(read, reading))
            if len(waiting) >= threads * _REGIONS_A_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Chunks:
    """The way of chunks into the store, from several threads; counts what the store grew by.

    A context manager: while it is open, a thread of its own now and then makes durable what was put, so that waiting
    for the disk and working go on together.
    """

    def __init__(self, store: Store) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._store = store
        self._lock = threading.Lock()
        self._there: set[bytes] = set()
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="umldisk-flush")
        self._flush: Future[None] | None = None
        self._unflushed, self._together = 0, _FLUSHED_FIRST
        self.stored_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flusher.shutdown(cancel_futures=True)

    def keep(self, name: bytes, data: bytes | memoryview) -> None:
        """See to it that the store has a chunk."""
        with self._lock:
            if name in self._there:
                return
            if len(self._there) >= _MOST_REMEMBERED:
                self._there.clear()
            self._there.add(name)
        key = chunk_key(name)
        if not self._store.exists(key):
            packed = pack(data)
            self._store.put(key, packed)
            self._count(len(packed))

    def _count(self, packed_bytes: int) -> None:
        with self._lock:
            self.stored_bytes += packed_bytes
            self._unflushed += 1
            if self._unflushed >= self._together and (self._flush is None or self._flush.done()):
                self._raise_failure()
                self._flush = self._flusher.submit(self._store.flush)
                self._unflushed, self._together = 0, min(2 * self._together, _FLUSHED_MOST)

    def _raise_failure(self) -> None:
        if self._flush is not None:
            self._flush.result()

    def flush(self) -> None:
        """Make all chunks durable; raises what any flush before raised."""
        self._raise_failure()
        self._store.flush()


class _Reader:
    """Reads regions, in any thread: each has layers and a buffer of its own."""

    def __init__(self, view: Layer, chunks: _Chunks, base: Index | None) -> None:
        self._view = view
        self._size_bytes = view.size_bytes
        self._chunks = chunks
        self._base = base
        self._own = threading.local()

    def read(self, reading: Reading) -> _Read:
        """Read one region."""
        size, region = self._size_bytes, reading.region
        view = self._layer()
        known = self._known(reading)
        names = self._names(view, region, reading.view, known)
        items = region_items(region, size, names, self._base)
        read_bytes = length_of(reading.view, size)
        if not reading.below:
            return _Read(region, items, None, read_bytes)
        assert isinstance(view, CowLayer)
        hidden = self._names(view.below, region, reading.below, {})
        untouched = {place: name for place, name in names.items() if place not in hidden}
        return _Read(
            region, items, region_items(region, size, untouched | hidden), read_bytes + length_of(reading.below, size)
        )

    def _known(self, reading: Reading) -> dict[int, bytes]:
        """Return the names that the base index has for the places to be read, where it has them as chunks."""
        if self._base is None:
            return {}
        chunks = self._base.chunks(reading.view[0], reading.view[-1] + 1)
        return {chunk.start: chunk.name for chunk in chunks}

    def _names(self, layer: Layer, region: int, places: tuple[int, ...], known: dict[int, bytes]) -> dict[int, bytes]:
        """Read places of a region and return the names of their chunks, all of which are in the store then."""
        buffer = self._buffer()
        view = memoryview(buffer)
        for start, end in _joined(places, self._size_bytes):
            try:
                layer.read_into(start, view[start - region : end - region])
            except OSError as error:
                raise from_os_error(error, "read", layer.disk.path) from error
        names = {}
        for place in places:
            at, length = place - region, min(CHUNK_BYTES, self._size_bytes - place)
            if buffer.startswith(_ZEROS if length == CHUNK_BYTES else _ZEROS[:length], at):
                names[place] = null_name(length)
                continue
            names[place] = name = name_of(view[at : at + length])
            if known.get(place) != name:
                self._chunks.keep(name, view[at : at + length])
        return names

    def _layer(self) -> Layer:
        own: Layer | None = getattr(self._own, "layer", None)
        if own is None:
            own = self._own.layer = _another(self._view)
        return own

    def _buffer(self) -> bytearray:
        own: bytearray | None = getattr(self._own, "buffer", None)
        if own is None:
            own = self._own.buffer = bytearray(REGION_BYTES)
        return own


def _another(layer: Layer) -> Layer:
    """Return a layer over the same open files with buffers of its own."""
    if isinstance(layer, CowLayer):
        return CowLayer(layer.disk, layer.header, _another(layer.below))
    return RawLayer(layer.disk)


def _joined(places: Iterable[int], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches that places in a row form."""
    start = end = -1
    for place in places:
        if place != end and end > 0:
            yield start, min(end, size_bytes)
        if place != end:
            start = place
        end = place + CHUNK_BYTES
    if end > 0:
        yield start, min(end, size_bytes)
