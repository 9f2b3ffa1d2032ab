"""Taking checkpoints: every recorded night is that night's disk, whatever was relied on."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import model, nights
from tests.kit.memory_store import MemoryStore
from tests.kit.nights import BASE, MERGE, PLACE, REGION, SIZE, Scene, items, items_of, sector, take, touched
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.directory_store import DirectoryStore
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.record import Consistency
from umldisk.checkpoint.recording import Why
from umldisk.checkpoint.store import CHUNKS, Store, base_key, chunk_key, index_key, record_key
from umldisk.cow.inplace import merge_into_backing
from umldisk.cow.layers import CowLayer, RawLayer
from umldisk.errors import DataError
from umldisk.ops.checkpoints.take_report import TakeOptions
from umldisk.ops.checkpoints.taking import take_checkpoint


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, BASE)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# -- nights -----------------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60)
def test_every_night_is_recorded_as_it_was(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    size = data.draw(nights.sizes)
    scene = Scene(tmp_path_factory.mktemp("site"), data.draw(nights.images(size)))
    store: Store = MemoryStore() if data.draw(st.booleans()) else DirectoryStore(str(scene.directory / "store"))
    recorded: list[tuple[int, bytes]] = []
    for merge in data.draw(st.lists(st.booleans(), min_size=1, max_size=4)):
        scene.write_night(data.draw(nights.nights(size)))
        changes, before = dict(scene.changes), recorded[-1][1] if recorded else None
        taken = take(scene, store, TakeOptions(merge=merge))
        assert taken.number is not None
        recorded.append((taken.number, scene.view))
        assert taken.read_whole is (len(recorded) == 1)
        if before is not None:
            assert taken.read_bytes == sum(touched(changes, size).values())
            assert taken.changed_bytes == differing_bytes(before, scene.view)
        if merge:
            scene.merged()
            assert scene.backing.read_bytes() == scene.base
        assert scene.as_files_are() == scene.view
        assert scene.assert_base_state_is_true(store)
    for number, image in recorded:
        scene.assert_recorded(store, number, image)
    assert len(history.verify_chain(store, None, "g")) == len(recorded)


def differing_bytes(one: bytes, other: bytes) -> int:
    starts = range(0, len(other), PLACE)
    return sum(len(other[at : at + PLACE]) for at in starts if one[at : at + PLACE] != other[at : at + PLACE])


def test_a_known_night_reads_what_changed_and_nothing_else(
    scene: Scene, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(scene, store)
    scene.write_night(sector(3) | sector(5) | sector(REGION // 512 + 400) | sector((SIZE - 1) // 512))
    read: list[tuple[int, int]] = []
    for kind in (CowLayer, RawLayer):
        whole = kind.read_into

        def counted(self: CowLayer, offset: int, view: memoryview, whole: object = whole) -> None:
            read.append((offset, offset + len(view)))
            whole(self, offset, view)  # type: ignore[operator]

        monkeypatch.setattr(kind, "read_into", counted)
    taken = take(scene, store)
    places = touched(scene.changes, SIZE)
    assert len(places) == 3
    assert all(any(low <= at and end <= low + places[low] for low in places) for at, end in read)
    assert taken.read_bytes == sum(places.values()) == 2 * PLACE + 100
    assert (taken.read_whole, taken.why) == (False, Why.KNOWN)
    scene.assert_recorded(store, 2, scene.view)


def test_what_the_store_has_is_not_put_again(scene: Scene, store: MemoryStore) -> None:
    first = take(scene, store)
    assert first.stored_bytes == sum(len(data) for key, data in store.data.items() if key.startswith(CHUNKS))
    assert first.changed_bytes == REGION + PLACE
    store.log.clear()
    second = take(scene, store)
    assert (second.read_bytes, second.changed_bytes, second.stored_bytes) == (0, 0, 0)
    assert [key for kind, key in store.log if kind.startswith("put")] == [index_key("g", 2), record_key("g", 2)]
    scene.write_night(dict.fromkeys(range(256, 384), b"base" * 128))  # what is elsewhere on the disk already
    third = take(scene, store)
    assert (third.read_bytes, third.stored_bytes) == (PLACE, 0)


def test_a_whole_reading_puts_back_what_the_store_lost(scene: Scene, store: MemoryStore) -> None:
    take(scene, store)
    lost = parse(store.data[index_key("g", 1)]).chunk(0).name
    del store.data[chunk_key(lost)]
    os.utime(scene.backing, ns=(0, scene.backing.stat().st_mtime_ns))  # only its ctime tells
    taken = take(scene, store)
    assert (taken.why, taken.read_whole) == (Why.TOUCHED, True)
    scene.assert_recorded(store, 1, scene.view)


def test_the_catalog_says_what_the_report_says(scene: Scene, store: MemoryStore) -> None:
    clock = iter(datetime(2026, 11, 20, 3, tzinfo=UTC) + timedelta(days=n) for n in range(9))
    options = TakeOptions(reason="nightly", tags=("a", "b"), merge=True)
    for _night in range(2):
        scene.write_night(sector(9))
        report = take_checkpoint(scene.site, "g", ["var"], options, store=store, clock=lambda: next(clock))
        scene.merged()
    (taken,) = report.drives
    with Catalog.open(scene.directory / CATALOG_NAME, writable=True) as catalog:
        found = catalog.checkpoint("g", 2)
    assert found.time == datetime(2026, 11, 21, 3, tzinfo=UTC)
    said = found.taken
    assert (said.drive, said.parent, said.reason, found.tags) == ("var", 1, "nightly", ("a", "b"))
    assert (said.merged, said.consistency, said.read_whole) == (True, Consistency.OFF, False)
    assert said.index_sha256 == taken.index_sha256 == parse(store.data[index_key("g", 2)]).digest()
    assert said.base_index_sha256 == parse(store.data[index_key("g", 1)]).digest()
    assert (said.changed_bytes, said.stored_bytes, said.read_bytes) == (0, 0, PLACE)
    assert 0 <= said.duration_seconds <= taken.duration_seconds < 60
    assert (report.guest, report.store, taken.parent, taken.merged) == ("g", "memory", 1, True)


# -- what was relied on, and what was not -----------------------------------------------------------------------------


def test_another_cow_file_over_the_same_backing_is_read_by_its_own_bitmap(scene: Scene, store: MemoryStore) -> None:
    scene.write_night(sector(3))
    take(scene, store)
    scene.changes = {}
    scene.write_night(sector(700))
    assert take(scene, store).why is Why.KNOWN
    scene.assert_recorded(store, 2, scene.view)


def test_a_cow_file_that_is_not_there_yet_changes_nothing(scene: Scene, store: MemoryStore) -> None:
    scene.cow.unlink()
    for options in (None, MERGE, None):
        taken = take(scene, store, options)
        assert not taken.merged
        scene.assert_recorded(store, taken.number or 0, BASE)
    assert (taken.read_bytes, taken.why) == (0, Why.KNOWN)
    assert not scene.cow.exists()
    scene.write_night(sector(1))
    assert take(scene, store).read_bytes == PLACE


def test_a_drive_without_cow_files_is_read_when_it_was_written(scene: Scene, store: MemoryStore) -> None:
    swap = scene.backing.with_name("swap_fs")
    model.write_image(swap, BASE)
    reads = []
    for letter in (b"", b"", b"s"):
        with swap.open("r+b") as file:
            file.write(letter)
        (taken,) = take_checkpoint(scene.site, "g", ["swap"], MERGE, store=store).drives
        reads.append(taken.read_bytes)
        scene.assert_recorded(store, taken.number or 0, swap.read_bytes())
    assert reads == [REGION + PLACE, 0, REGION + PLACE]


def test_a_backing_file_that_was_rebuilt_is_read_whole_at_any_size(scene: Scene, store: MemoryStore) -> None:
    take(scene, store)
    scene.backing.unlink()
    scene.base, scene.changes = b"new" * PLACE + bytes(5 * REGION), {}
    model.write_image(scene.backing, scene.base)
    scene.write_night(sector(1))
    taken = take(scene, store)
    assert (taken.why, taken.parent) == (Why.TOUCHED, 1)
    assert taken.changed_bytes == differing_bytes(bytes(len(scene.view)), scene.view)
    scene.assert_recorded(store, 2, scene.view)
    assert scene.assert_base_state_is_true(store)


def test_a_stack_is_recorded_but_not_merged(scene: Scene, store: MemoryStore) -> None:
    middle = scene.directory / "middle"
    model.write_cow(middle, scene.backing, sector(2, b"m"))
    os.utime(middle, (5, 5))  # else the guest's own backing file would fit as well
    model.write_cow(scene.cow, middle, sector(1, b"t"), size_bytes=SIZE)
    image = model.merged(BASE, sector(2, b"m") | sector(1, b"t"))
    for _night in range(2):
        taken = take(scene, store)
        assert (taken.why, taken.read_whole) == (Why.STACKED, True)
        scene.assert_recorded(store, taken.number or 0, image)
    before = store.copy().data
    with pytest.raises(DataError, match="COW file itself"):
        take(scene, store, MERGE)
    assert store.data == before


def test_a_moved_site_finds_its_backing_file_though_the_header_names_the_old_place(
    scene: Scene, store: MemoryStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene.write_night(sector(4))
    view, moved = scene.view, tmp_path_factory.mktemp("moved") / "site"
    scene.directory.rename(moved)
    scene.directory = moved
    assert take(scene, store, MERGE).merged
    scene.assert_recorded(store, 1, view)
    assert scene.backing.read_bytes() == view


def test_a_merge_by_hand_costs_one_whole_reading(scene: Scene, store: MemoryStore) -> None:
    take(scene, store)
    scene.write_night(sector(3))
    merge_into_backing(scene.cow)
    whys = [take(scene, store).why for _night in range(2)]
    assert whys == [Why.TOUCHED, Why.KNOWN]
    scene.assert_recorded(store, 3, scene.view)


def test_a_deleted_parent_is_passed_over(scene: Scene, store: MemoryStore) -> None:
    for _night in range(2):
        take(scene, store)
    with Catalog.open(scene.directory / CATALOG_NAME, writable=True) as catalog, store.writing("g"):
        history.append(
            store, catalog, "g", history.Kind.DELETE, clock=lambda: datetime.now(UTC), host="h", subjects=[2]
        )
    assert take(scene, store).parent == 1


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    """192 MiB that are all different, recorded in a process of its own."""
    directory = tmp_path / "guests" / "g"
    directory.mkdir(parents=True)
    block = os.urandom(PLACE - 8)
    with (directory / "var_fs").open("wb") as file:
        for number in range(192 * 16):
            file.write(number.to_bytes(8, "little") + block)
    code = """
import re, sys
from umldisk.config.site import Site
from umldisk.ops.checkpoints.taking import take_checkpoint
(taken,) = take_checkpoint(Site(sys.argv[1]), "g").drives
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(int(peak) // 1024, taken.read_bytes)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    peak_mib, read_bytes = map(int, done.stdout.split())
    assert read_bytes == 192 << 20
    assert peak_mib < 150
    store = DirectoryStore(str(tmp_path / "store"))
    assert items_of(parse(store.get(index_key("g", 1)))) == items((directory / "var_fs").read_bytes())
    assert store.exists(base_key("g", "var"))
