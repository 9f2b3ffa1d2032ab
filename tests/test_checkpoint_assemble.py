"""From index and chunks back to a disk: byte for byte, sparse, and never from anything damaged."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.memory_store import MemoryStore
from tests.kit.peers import mounted, needs
from umldisk.checkpoint import layout
from umldisk.checkpoint.assemble import Assembled, Seed, assemble, fetched, first_difference, in_parallel, load_index
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.chunks import pack
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.index import CHUNK_BYTES, Index, name_of, parse, places, replaced
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken
from umldisk.checkpoint.store import Store, chunk_key, index_key
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.system import transfer
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.sparse import allocated_bytes

_PLACES = 40


def _keep(store: Store, data: bytes) -> Index:
    """Store every place of an image that is not zeros; return the index."""
    changed = {}
    for start, end in places(len(data)):
        piece = data[start:end]
        if any(piece):
            changed[start] = name_of(piece)
            store.put(chunk_key(changed[start]), pack(piece))
    return replaced(None, len(data), changed)


def _keep_cut(store: Store, data: bytes, cuts: list[int]) -> Index:
    """Store an image in chunks that end at `cuts`, zeros and all, as casync does."""
    table, start = b"", 0
    for end in cuts:
        piece = data[start:end]
        table += layout.ITEM.pack(end, name_of(piece))
        store.put(chunk_key(name_of(piece)), pack(piece))
        start = end
    return parse(Index(table, 1, CHUNK_BYTES, len(data)).build())


def _image(kinds: list[int], last_bytes: int = CHUNK_BYTES) -> bytes:
    """Return an image of places: 0 is zeros, others noise of that number, 9 a page in the middle of zeros."""
    data = b"".join(_place(kind) for kind in kinds)
    return data[: len(data) - CHUNK_BYTES + last_bytes]


def _place(kind: int) -> bytes:
    if kind == 9:
        return bytes(8192) + b"page" * 1024 + bytes(CHUNK_BYTES - 12288)
    return bytes([kind]) * (CHUNK_BYTES if kind < 2 else CHUNK_BYTES - 1) + (b"" if kind < 2 else b"\n")


@contextmanager
def _fresh(directory: Path, name: str = "out") -> Iterator[DiskFile]:
    path = directory / name
    path.touch()
    with open_disk(path, writable=True) as disk:
        yield disk


def _assembled(store: Store, index: Index, directory: Path, seed: Seed | None = None) -> tuple[bytes, Assembled]:
    with _fresh(directory) as target:
        report = assemble(store, index, target, seed=seed)
        return target.read_at(0, index.size_bytes + 1), report


_kinds = st.lists(st.sampled_from([0, 0, 1, 2, 3, 9]), min_size=1, max_size=_PLACES)
_last = st.sampled_from([1, 511, 512, 4096, 40000, CHUNK_BYTES])


@settings(max_examples=40)
@given(kinds=_kinds, last_bytes=_last)
def test_an_image_comes_back_byte_for_byte(kinds: list[int], last_bytes: int) -> None:
    data, store = _image(kinds, last_bytes), MemoryStore()
    index = _keep(store, data)
    with TemporaryDirectory() as directory:
        found, report = _assembled(store, index, Path(directory))
    assert found == data
    assert report.reused_bytes == report.shared_bytes == 0
    assert report.fetched_bytes + report.zero_bytes == report.size_bytes == len(data)


@settings(max_examples=60)
@given(kinds=_kinds, last_bytes=_last, other=_kinds, lies=st.sets(st.integers(0, _PLACES - 1)))
def test_a_seed_changes_nothing_but_the_work(
    kinds: list[int], last_bytes: int, other: list[int], lies: set[int]
) -> None:
    """The seed's index promises what the seed held once; at the places `lies` it holds something else by now."""
    data, before, store = _image(kinds, last_bytes), _image(other), MemoryStore()
    index, promised = _keep(store, data), _keep(MemoryStore(), before)
    now = bytearray(before)
    for place in lies:
        now[place * CHUNK_BYTES : (place + 1) * CHUNK_BYTES] = b"!" * len(now[place * CHUNK_BYTES :][:CHUNK_BYTES])
    with TemporaryDirectory() as directory:
        path = Path(directory, "seed")
        path.write_bytes(now)
        with open_disk(path) as disk:
            found, report = _assembled(store, index, Path(directory), Seed(disk, promised))
        assert path.read_bytes() == bytes(now)
    assert found == data
    honest = [
        at for at, end in places(len(data)) if any(data[at:end]) and before[at : at + CHUNK_BYTES] == data[at:end]
    ]
    honest = [at for at in honest if at // CHUNK_BYTES not in lies]
    assert report.reused_bytes == sum(len(data[at : at + CHUNK_BYTES]) for at in honest)


@settings(max_examples=30)
@given(st.data())
def test_chunks_cut_anywhere_are_put_together(draws: st.DataObject) -> None:
    data = _image(draws.draw(_kinds), draws.draw(_last))
    cuts = sorted({*draws.draw(st.sets(st.integers(1, len(data)), max_size=20)), len(data)})
    store = MemoryStore()
    index = _keep_cut(store, data, cuts)
    with TemporaryDirectory() as directory:
        assert _assembled(store, index, Path(directory))[0] == data
    assert (
        b"".join(piece if piece is not None else bytes(c.end - c.start) for c, piece in fetched(store, index)) == data
    )


def test_zeros_are_holes_also_inside_of_chunks(tmp_path: Path) -> None:
    data, store = _image([0] * 64 + [9] + [0] * 63), MemoryStore()
    index = _keep(store, data)
    with _fresh(tmp_path) as target:
        report = assemble(store, index, target)
        assert allocated_bytes(target.fd) <= 2 * transfer.PAGE_BYTES
    assert report == Assembled(len(data), CHUNK_BYTES, 0, 0, len(data) - CHUNK_BYTES)


def test_an_empty_disk_is_an_empty_file(tmp_path: Path) -> None:
    found, report = _assembled(MemoryStore(), Index(b""), tmp_path)
    assert found == b""
    assert report.size_bytes == 0


@needs("btrfs")
def test_equal_chunks_of_a_seed_are_shared_and_liars_are_replaced(tmp_path: Path) -> None:
    data, store = _image([1, 2, 9, 1, 2, 9], 40000), MemoryStore()
    index = _keep(store, data)
    with mounted("btrfs", tmp_path) as point:
        seed = point / "seed"
        seed.write_bytes(data[: 2 * CHUNK_BYTES] + b"!" * CHUNK_BYTES + data[3 * CHUNK_BYTES :])
        with open_disk(seed) as disk:
            found, report = _assembled(store, index, point, Seed(disk, index))
        assert found == data
        assert report.fetched_bytes == CHUNK_BYTES
        assert report.reused_bytes == len(data) - CHUNK_BYTES
        # the end is no whole block, but the seed ends there too
        assert report.shared_bytes == report.reused_bytes
        assert seed.read_bytes() != data


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 17, 38])
def test_a_missing_chunk_is_named(where: int, tmp_path: Path) -> None:
    data = b"".join(bytes([n + 1]) * CHUNK_BYTES for n in range(39))
    store = MemoryStore()
    index = _keep(store, data)
    key = chunk_key(index.chunk(where).name)
    del store.data[key]
    with _fresh(tmp_path) as target, pytest.raises(DataError, match="missing") as refused:
        assemble(store, index, target)
    assert refused.value.where == key


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[:0],
        lambda packed: packed[:20] + bytes([packed[20] ^ 1]) + packed[21:],
        lambda _packed: pack(b"another chunk"),
        lambda _packed: pack(bytes(CHUNK_BYTES + 1)),
    ],
)
def test_a_damaged_chunk_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data, store = os.urandom(3 * CHUNK_BYTES), MemoryStore()
    index = _keep(store, data)
    key = chunk_key(index.chunk(1).name)
    store.data[key] = damage(store.data[key])
    with _fresh(tmp_path) as target, pytest.raises(DataError) as refused:
        assemble(store, index, target)
    assert refused.value.where == key


def test_a_write_that_was_lost_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, store = os.urandom(3 * CHUNK_BYTES), MemoryStore()
    index = _keep(store, data)
    real = DiskFile.write_at

    def lose(disk: DiskFile, offset: int, written: bytes | memoryview) -> None:
        if offset != CHUNK_BYTES:
            real(disk, offset, written)

    monkeypatch.setattr(DiskFile, "write_at", lose)
    with _fresh(tmp_path) as target, pytest.raises(StorageError, match=f"byte {CHUNK_BYTES}"):
        assemble(store, index, target)


def test_a_write_that_went_too_far_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    index = _keep(store, os.urandom(CHUNK_BYTES) + bytes(CHUNK_BYTES))
    real = DiskFile.write_at
    monkeypatch.setattr(DiskFile, "write_at", lambda disk, offset, data: real(disk, offset, bytes(data) + b"more"))
    with _fresh(tmp_path) as target, pytest.raises(StorageError, match=f"byte {CHUNK_BYTES} "):
        assemble(store, index, target)


@pytest.mark.parametrize("offset", [0, CHUNK_BYTES, 3 * CHUNK_BYTES + 5, 5 * CHUNK_BYTES + 17])
def test_a_disk_that_differs_is_told_by_its_first_chunk(offset: int, tmp_path: Path) -> None:
    data = _image([1, 2, 3, 0, 9, 1], 18)
    index = _keep(MemoryStore(), data)
    path = tmp_path / "disk"
    path.write_bytes(data)
    with open_disk(path, writable=True) as disk:
        assert first_difference(disk, index) is None
        disk.write_at(offset, bytes([data[offset] ^ 0xFF]))
        assert first_difference(disk, index) == offset - offset % CHUNK_BYTES
        os.ftruncate(disk.fd, 100)
        assert first_difference(disk, index) == 100
        os.ftruncate(disk.fd, len(data) + 1)
        assert first_difference(disk, index) == len(data)


# -- indexes ----------------------------------------------------------------------------------------------------------


def _checkpoint(index: Index, **changes: object) -> Checkpoint:
    values = {
        "drive": "var",
        "size_bytes": index.size_bytes,
        "index_sha256": index.digest(),
        "parent": None,
        "base_index_sha256": None,
        "changed_bytes": 0,
        "stored_bytes": 0,
        "read_bytes": 0,
        "read_whole": True,
        "consistency": Consistency.OFF,
        "merged": False,
        "duration_seconds": 0.0,
    }
    taken = Taken(**values | changes)  # type: ignore[arg-type]
    record = Record("g", 7, datetime(2026, 11, 1, tzinfo=UTC), Kind.CHECKPOINT, "", "h", "1", taken)
    return Checkpoint(record, taken)


def test_only_the_index_that_was_recorded_is_taken() -> None:
    store = MemoryStore()
    index, other = _keep(store, _image([1, 2])), _keep(store, _image([1, 3]))
    store.put(index_key("g", 7), index.build())
    assert load_index(store, _checkpoint(index)) == index
    for checkpoint in (_checkpoint(other), _checkpoint(index, size_bytes=5)):
        with pytest.raises(DataError) as refused:
            load_index(store, checkpoint)
        assert refused.value.where == index_key("g", 7)
    store.put(index_key("g", 7), index.build()[:-1])
    with pytest.raises(DataError):
        load_index(store, _checkpoint(index))
    store.delete([index_key("g", 7)])
    with pytest.raises(DataError, match="missing"):
        load_index(store, _checkpoint(index))
    with pytest.raises(NoInputError, match="deleted"):
        load_index(store, replace(_checkpoint(index), deleted_at=datetime(2026, 11, 20, tzinfo=UTC)))


# -- casync -----------------------------------------------------------------------------------------------------------


@needs("casync")
def test_what_casync_made_is_assembled(tmp_path: Path) -> None:
    data = os.urandom(300_000) + bytes(500_000) + os.urandom(1_000_001)
    image, index_path = tmp_path / "image", tmp_path / "image.caibx"
    image.write_bytes(data)
    (tmp_path / "store").mkdir()
    argv = ["casync", "make", "--digest=sha512-256", f"--store={tmp_path}/store/chunks", str(index_path), str(image)]
    subprocess.run(argv, check=True, capture_output=True)
    index = parse(index_path.read_bytes())
    assert len(index) > 2
    found, _report = _assembled(DirectoryStore(str(tmp_path / "store")), index, tmp_path)
    assert found == data


# -- threads ----------------------------------------------------------------------------------------------------------


def test_work_is_bounded_and_in_order() -> None:
    under_way, most, lock, taken = 0, 0, threading.Lock(), []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        with lock:
            under_way -= 1
        return number

    for count, result in enumerate(in_parallel(work, items(), workers=3)):
        assert result == count
        assert len(taken) <= count + 6
    assert most <= 3


def test_the_first_failure_ends_the_work() -> None:
    done = []

    def work(number: int) -> None:
        if number == 5:
            raise StorageError("full")
        done.append(number)

    with pytest.raises(StorageError):
        list(in_parallel(work, range(1000), workers=2))
    assert len(done) < 20
