"""What a take reads of a drive, and why that is enough.

    base index    | a | b | c | null ............ | d |     what the backing file is known to equal
    bitmap            ^^^                           ^       what the COW file changed
    read              |B|                         |D|       only these places
    new index     | a | B | c | null ............ | D |

The bitmap tells where the disk differs from its backing file. That helps only when the backing file is known to equal
an index: its `BaseState` was written when both were the same, and the file still looks as it did then. In every other
case all data is read, and the backing file's own index is made in the same pass, for the next night: places that the
COW file does not touch are the same in both; of the others the backing file's contents are read, too.

How a file looks tells that it is the same only if every write after the look makes it look different. The kernel gives
times by a clock that stands still for some milliseconds, so that a write right after the look could go unnoticed.
`settled` therefore waits until that clock has passed the file's own time, before anything is read.

Left out: programs that keep a file mapped and write to it without any lock, and clocks that are set back to the very
nanosecond.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.index import CHUNK_BYTES, REGION_BYTES, Index, parse
from umldisk.checkpoint.store import Store, base_key
from umldisk.cow.layers import CowLayer, Kind, Layer, RawLayer, Segment
from umldisk.errors import DataError, NoInputError
from umldisk.system.files import DiskFile

_CLOCK_REALTIME_COARSE = 5
"""The clock that file times are taken from (include/uapi/linux/time.h); Python has no name for it."""
_NS = 1_000_000_000
_COARSE_TIMES_NS = 2 * _NS
"""The coarsest times that a file system in use has: FAT's. A time without nanoseconds may be one of these."""
_LONGEST_WAIT_NS = 3 * _NS


class Why(Enum):
    """What was known of the file at the bottom of a drive, as people read it."""

    KNOWN = "the backing file is as it was when its contents were recorded"
    NEW = "nothing is recorded of the backing file yet"
    TOUCHED = "the backing file was changed or replaced since its contents were recorded"
    LOST = "the store has not the index of the backing file's contents"
    OTHER = "the store has another index of the backing file's contents than was recorded"
    STACKED = "the backing file is a COW file itself"
    DEVICE = "a block device does not tell whether it was changed"


@dataclass(frozen=True, slots=True)
class Basis:
    """What a take can rely on: the index that the backing file equals, or None; `why` explains either."""

    index: Index | None
    why: Why
    index_sha256: str | None = None


def decide(store: Store, state: BaseState | None, *, guest: str, drive: str, disk: Layer) -> Basis:
    """Return what is known of `disk`, the layer that a drive's COW file stands on, or the drive itself.

    Raises StorageError when the store cannot be read.
    """
    if not isinstance(disk, RawLayer):
        return Basis(None, Why.STACKED)
    if disk.disk.is_block_device:
        return Basis(None, Why.DEVICE)
    if state is None or not state.holds_for(disk.disk.status):
        return Basis(None, Why.TOUCHED if state else Why.NEW)
    return _recorded(store, state, base_key(guest, drive), disk.size_bytes)


def _recorded(store: Store, state: BaseState, key: str, size_bytes: int) -> Basis:
    """Read the index that the backing file equals; one that is not the very same is none."""
    try:
        index = parse(store.get(key), where=key)
    except NoInputError:
        return Basis(None, Why.LOST)
    except DataError:
        return Basis(None, Why.OTHER)
    if index.digest() != state.index_sha256 or index.size_bytes != size_bytes or not index.is_regular:
        return Basis(None, Why.OTHER)
    return Basis(index, Why.KNOWN, state.index_sha256)


def settled(disk: DiskFile) -> BackingIdentity | None:
    """Return how the open file looks, once every later write makes it look different; waits some milliseconds.

    None for a file that can change unseen: a block device, or one whose time of change lies in the future.
    """
    identity = BackingIdentity.of(disk.status)
    if identity is None:
        return None
    passed_ns = identity.ctime_ns + (0 if identity.ctime_ns % _NS else _COARSE_TIMES_NS)
    while (left_ns := passed_ns - time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)) >= 0:
        if left_ns > _LONGEST_WAIT_NS:
            return None
        time.sleep((left_ns + 1_000_000) / _NS)
    return identity


class Reading(NamedTuple):
    """What is read of the region that starts at `region`: places of the view, and of the layer below it.

    Places that are not read are as in the base index, and without one, zeros. Those below are only named where they can
    differ from the view.
    """

    region: int
    view: tuple[int, ...]
    below: tuple[int, ...] = ()


def plan_changes(cow: CowLayer) -> Iterator[Reading]:
    """Yield what to read when the layer below is known: every place that the bitmap touches, in order."""
    for region, places in itertools.groupby(_places(cow.changed(split_holes=False)), _region_of):
        yield Reading(region, tuple(places))


def plan_whole(view: Layer, *, with_below: bool) -> Iterator[Reading]:
    """Yield what to read when nothing is known: every place of the view that is no hole, in order.

    `with_below` adds what a COW file hides of the layer below it.
    """
    data = _places(segment for segment in view.segments(0, view.size_bytes) if segment.kind is not Kind.ZERO)
    hidden = _places(_again(view).changed(split_holes=False)) if with_below and isinstance(view, CowLayer) else ()
    marked = heapq.merge(zip(data, itertools.repeat(False)), zip(hidden, itertools.repeat(True)))
    for region, group in itertools.groupby(marked, lambda pair: _region_of(pair[0])):
        pairs = list(group)
        yield Reading(
            region,
            tuple(place for place, is_below in pairs if not is_below),
            tuple(place for place, is_below in pairs if is_below),
        )


def length_of(places: Iterable[int], size_bytes: int) -> int:
    """Return how many bytes places are together; the last one of the disk may be short."""
    return sum(min(place + CHUNK_BYTES, size_bytes) - place for place in places)


def _again(cow: CowLayer) -> CowLayer:
    """Return a second layer over the same files, for a walk beside another one."""
    return CowLayer(cow.disk, cow.header, cow.below)


def _region_of(place: int) -> int:
    return place - place % REGION_BYTES


def _places(segments: Iterable[Segment]) -> Iterator[int]:
    """Yield where the places start that ascending segments touch, each once."""
    done = 0
    for segment in segments:
        first = max(done, segment.start - segment.start % CHUNK_BYTES)
        yield from range(first, segment.end, CHUNK_BYTES)
        done = max(done, -(-segment.end // CHUNK_BYTES) * CHUNK_BYTES)
