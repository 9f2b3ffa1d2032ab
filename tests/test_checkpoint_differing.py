"""Where two disks differ, against comparing the disks themselves sector by sector."""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.checkpoints import cut, put_disk
from tests.kit.memory_store import MemoryStore
from tests.kit.peers import needs
from umldisk.checkpoint.differing import differing, fresh_names, narrowed
from umldisk.checkpoint.index import CHUNK_BYTES, REGION_BYTES, Index, name_of, parse, replaced
from umldisk.checkpoint.store import CHUNK_SUFFIX, CHUNKS, chunk_key
from umldisk.cow.bitmap import Run
from umldisk.errors import DataError

SECTOR = 512
SIZES = [0, 1, 511, 512, 513, CHUNK_BYTES, CHUNK_BYTES + 512, 3 * CHUNK_BYTES - 7, REGION_BYTES, REGION_BYTES + 70_000]


def sectors(runs: Iterable[Run]) -> list[int]:
    return [sector for run in runs for sector in range(run.start, run.end)]


def really_differing(left: bytes, right: bytes) -> list[int]:
    """Return the sectors that differ; what only one disk has differs, whatever it holds."""
    last = -(-max(len(left), len(right)) // SECTOR)
    places = ((n, slice(n * SECTOR, (n + 1) * SECTOR)) for n in range(last))
    return [n for n, place in places if left[place] != right[place]]


@st.composite
def disks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a disk and what became of it after a few writes, perhaps of zeros, and perhaps after a resize."""
    size = draw(st.sampled_from(SIZES))
    left = bytearray(size)
    writes = st.lists(
        st.tuples(st.integers(0, max(size - 1, 0)), st.sampled_from([1, 700, 66_000]), st.booleans()), max_size=5
    )
    for image in (left, right := bytearray()):
        if image is right:
            right += left
        for start, length, zeros in draw(writes) if size else ():
            end = min(start + length, size)
            image[start:end] = (b"\0" if zeros else bytes([65 + start % 23])) * (end - start)
    if draw(st.integers(0, 3)) == 0:
        resized = draw(st.sampled_from(SIZES))
        right = right[:resized] + bytes(max(0, resized - size))
    return bytes(left), bytes(right)


cuts = st.one_of(st.none(), st.lists(st.integers(1, REGION_BYTES + 70_000), max_size=8))


def stored(store: MemoryStore, image: bytes, ends: list[int] | None) -> Index:
    """Put a disk with chunks at our places, or cut where `ends` says."""
    if ends is None:
        return put_disk(store, image)
    index, chunks = cut(image, [end for end in ends if end < len(image)])
    for key, packed in chunks.items():
        store.put(key, packed)
    return index


@settings(max_examples=150)
@given(disks(), cuts, cuts)
def test_the_indexes_tell_at_least_what_differs_and_reading_tells_exactly(
    pair: tuple[bytes, bytes], left_ends: list[int] | None, right_ends: list[int] | None
) -> None:
    store = MemoryStore()
    left, right = stored(store, pair[0], left_ends), stored(store, pair[1], right_ends)
    truth = really_differing(*pair)
    told = list(differing(left, right))
    assert set(truth) <= set(sectors(told))
    assert_apart(told)
    if left_ends == right_ends is None:
        places = {sector * SECTOR // CHUNK_BYTES for sector in truth}
        beyond = min(map(len, pair)) // SECTOR
        assert {n * SECTOR // CHUNK_BYTES for n in sectors(told) if n < beyond} <= places
    found = list(narrowed(store, left, right))
    assert sectors(found) == truth
    assert_apart(found)


def assert_apart(runs: list[Run]) -> None:
    assert all(run.sectors > 0 for run in runs)
    assert all(one.end < other.start for one, other in itertools.pairwise(runs))


@given(disks(), cuts)
def test_a_disk_does_not_differ_from_itself(pair: tuple[bytes, bytes], ends: list[int] | None) -> None:
    store = MemoryStore()
    index = stored(store, pair[0], ends)
    assert list(differing(index, index)) == []
    other = stored(store, pair[0], None)
    assert list(narrowed(store, index, other)) == []


@given(disks(), cuts, cuts)
def test_fresh_names_are_all_that_an_index_adds(
    pair: tuple[bytes, bytes], left_ends: list[int] | None, right_ends: list[int] | None
) -> None:
    store = MemoryStore()
    left, right = stored(store, pair[0], left_ends), stored(store, pair[1], right_ends)
    fresh = set(fresh_names(left, right))
    assert fresh <= right.names()
    assert left.names() | fresh >= right.names()
    assert set(fresh_names(None, right)) == right.names()
    assert set(fresh_names(right, right)) == set()


def image_of(places: Iterable[int], *, count: int = 40) -> bytes:
    """Return a disk that holds something at these places of 64 KiB."""
    return b"".join((bytes([n + 1]) if n in set(places) else b"\0") * CHUNK_BYTES for n in range(count))


def test_only_chunks_that_differ_are_read_and_zeros_never() -> None:
    store = MemoryStore()
    image = image_of(range(40))
    changed = bytearray(image)
    changed[5 * CHUNK_BYTES + 512] ^= 1
    changed[17 * CHUNK_BYTES : 18 * CHUNK_BYTES] = bytes(CHUNK_BYTES)
    left, right = put_disk(store, image), put_disk(store, bytes(changed))
    store.log.clear()
    assert list(differing(left, right)) == [Run(5 * 128, 128), Run(17 * 128, 128)]
    assert store.log == []
    assert list(narrowed(store, left, right)) == [Run(5 * 128 + 1, 1), Run(17 * 128, 128)]
    places = {5: image, 17: image, -5: bytes(changed)}
    expected = {name_of(of[abs(n) * CHUNK_BYTES : (abs(n) + 1) * CHUNK_BYTES]) for n, of in places.items()}
    assert sorted(store.log) == sorted(("get", chunk_key(name)) for name in expected)


def test_zeros_are_the_same_however_they_are_cut() -> None:
    store = MemoryStore()
    whole, _chunks = cut(bytes(3 * REGION_BYTES), [REGION_BYTES, 2 * REGION_BYTES])
    pieces, _chunks = cut(bytes(3 * REGION_BYTES), [n * CHUNK_BYTES for n in range(1, 48)])
    assert list(differing(whole, pieces)) == []
    assert list(narrowed(store, whole, pieces)) == []


def test_what_one_disk_has_beyond_the_other_differs_without_reading() -> None:
    store = MemoryStore()
    short, long = put_disk(store, image_of([1])[: 2 * CHUNK_BYTES]), put_disk(store, image_of([1, 30]))
    store.log.clear()
    assert list(narrowed(store, short, long)) == [Run(256, 38 * 128)]
    assert store.log == []
    assert list(differing(long, short)) == [Run(256, 38 * 128)]


def test_each_disk_may_come_from_its_own_store() -> None:
    ours, theirs = MemoryStore(), MemoryStore()
    left, right = put_disk(ours, image_of([3])), put_disk(theirs, image_of([3, 4]).replace(b"\5", b"\6"))
    assert list(narrowed(ours, left, right, right_store=theirs)) == [Run(4 * 128, 128)]


def test_a_chunk_that_is_missing_or_damaged_is_named() -> None:
    store = MemoryStore()
    left, right = put_disk(store, image_of([3])), put_disk(store, image_of([3, 4]))
    key = chunk_key(right.chunk(4).name)
    packed = store.data.pop(key)
    with pytest.raises(DataError, match="missing") as missing:
        list(narrowed(store, left, right))
    assert missing.value.where == key
    store.data[key] = packed[:-1] + b"?"
    with pytest.raises(DataError) as damaged:
        list(narrowed(store, left, right))
    assert damaged.value.where == key


def test_two_nights_of_a_large_disk_cost_what_changed() -> None:
    """A tebibyte's index has 16 million items; the walk must not look at each."""
    items = 1 << 20
    names = {n * CHUNK_BYTES: n.to_bytes(32, "big") for n in range(items)}
    base = replaced(None, items * CHUNK_BYTES, names)
    changed = {n * CHUNK_BYTES: b"x" * 32 for n in range(1000, items, items // 50)}
    night = replaced(base, base.size_bytes, changed)
    began = time.process_time()
    runs = list(differing(base, night))
    walked = time.process_time() - began
    began = time.process_time()
    sum(1 for _chunk in base.chunks())
    counted = time.process_time() - began
    assert [run.start for run in runs] == [place // 512 for place in changed]
    assert walked < counted / 2


def test_nothing_else_is_asked_of_the_store() -> None:
    store = MemoryStore()
    left, right = put_disk(store, image_of([3])), put_disk(store, image_of([3, 4]))
    store.log.clear()
    list(narrowed(store, left, right))
    assert {kind for kind, _key in store.log} == {"get"}
    assert all(key.startswith(CHUNKS) for _kind, key in store.log)


@needs("casync")
def test_indexes_that_casync_made_are_compared_with_its_own_and_with_ours(tmp_path: Path) -> None:
    chance = random.Random(7)
    image = bytearray(chance.randbytes(3 << 20) + bytes(5 << 20) + chance.randbytes(1 << 20))
    changed = bytearray(image)
    for place in (600_000, 2_000_000, 4_000_000, len(image) - 1):
        changed[place] ^= 1
    store = MemoryStore()
    left, right = casync_make(tmp_path, store, bytes(image)), casync_make(tmp_path, store, bytes(changed))
    ours = put_disk(store, bytes(changed))
    truth = really_differing(bytes(image), bytes(changed))
    told = sum(run.sectors for run in differing(left, right))
    assert len(truth) <= told < len(image) // SECTOR // 3
    assert sectors(narrowed(store, left, right)) == truth
    assert sectors(narrowed(store, left, ours)) == truth
    assert list(narrowed(store, right, ours)) == []


def casync_make(directory: Path, store: MemoryStore, image: bytes) -> Index:
    """Let casync cut a disk by its contents and store the chunks; return its index."""
    disk, index, chunks = directory / "disk", directory / "disk.caibx", directory / "chunks"
    disk.write_bytes(image)
    subprocess.run(["casync", "make", f"--store={chunks}", index, disk], check=True, capture_output=True)
    for path in chunks.glob(f"*/*{CHUNK_SUFFIX}"):
        store.put(f"{CHUNKS}{path.parent.name}/{path.name}", path.read_bytes())
    return parse(index.read_bytes())
