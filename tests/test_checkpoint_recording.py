"""What a take decides to read: everything that could differ, and nothing that is known."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model, nights
from tests.kit.memory_store import MemoryStore
from tests.kit.nights import PLACE, REGION, items, items_of
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.index import Index, name_of, places, replaced
from umldisk.checkpoint.intake import take_in
from umldisk.checkpoint.recording import Why, decide, length_of, plan_changes, plan_whole, settled
from umldisk.checkpoint.store import base_key
from umldisk.cow.file import Access, CowFile
from umldisk.cow.layers import RawLayer
from umldisk.progress import SILENT
from umldisk.system.files import open_disk


def index_of(image: bytes) -> Index:
    return replaced(None, len(image), {start: name_of(image[start:end]) for start, end in places(len(image))})


# -- what is known ----------------------------------------------------------------------------------------------------

IMAGE = b"v" * (2 * PLACE + 100)


class Known:
    """A backing file, a store with its index, and the state that says so."""

    def __init__(self, directory: Path) -> None:
        self.path = model.write_image(directory / "var_fs", IMAGE)
        self.index = index_of(IMAGE)
        self.store = MemoryStore({base_key("g", "var"): self.index.build()})
        identity = BackingIdentity.of(os.stat(self.path))
        assert identity is not None
        self.state = BaseState("g", "var", self.index.digest(), identity)

    def why(self, state: BaseState | None) -> Why:
        with open_disk(self.path) as disk:
            basis = decide(self.store, state, guest="g", drive="var", disk=RawLayer(disk))
        assert (basis.index == self.index) is (basis.why is Why.KNOWN)
        assert basis.index_sha256 == (self.state.index_sha256 if basis.index else None)
        return basis.why


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


def test_an_unchanged_backing_file_is_known(known: Known) -> None:
    assert known.why(known.state) is Why.KNOWN
    assert known.why(None) is Why.NEW


def test_reading_linking_and_renaming_elsewhere_cost_at_most_a_whole_reading(known: Known) -> None:
    known.path.read_bytes()
    assert known.why(known.state) is Why.KNOWN
    os.chmod(known.path, 0o600)
    assert known.why(known.state) is Why.TOUCHED


def write_one_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(7)
        file.write(b"!")


def write_and_set_mtime_back(path: Path) -> None:
    before = path.stat()
    write_one_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_a_copy_in_its_place(path: Path) -> None:
    """As cp -p and rsync do: the same size and mtime."""
    before = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.rename(path)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 512)


@pytest.mark.parametrize("change", [write_one_byte, write_and_set_mtime_back, put_a_copy_in_its_place, grow])
def test_whatever_happens_to_the_backing_file_is_noticed(known: Known, change: object) -> None:
    with open_disk(known.path) as disk:
        assert settled(disk) == known.state.identity
    change(known.path)  # type: ignore[operator]
    assert known.why(known.state) is Why.TOUCHED


def test_a_store_without_the_very_index_knows_nothing(known: Known) -> None:
    key = base_key("g", "var")
    for raw in (index_of(IMAGE[:-1] + b"x").build(), known.store.data[key][:-1], b""):
        known.store.data[key] = raw
        assert known.why(known.state) is Why.OTHER
    del known.store.data[key]
    assert known.why(known.state) is Why.LOST


def test_an_index_of_other_cuts_is_no_base(known: Known) -> None:
    other = Index(index_of(b"v" * 100).table + index_of(IMAGE).table[40:])
    assert other.size_bytes == len(IMAGE)
    known.store.data[base_key("g", "var")] = other.build()
    state = BaseState("g", "var", other.digest(), known.state.identity)
    assert known.why(state) is Why.OTHER


def test_a_stack_of_cow_files_is_never_known(tmp_path: Path, known: Known) -> None:
    middle = tmp_path / "middle"
    model.write_cow(middle, known.path, {})
    with CowFile.open(middle) as cow:
        basis = decide(known.store, known.state, guest="g", drive="var", disk=cow.layer)
    assert (basis.index, basis.why) == (None, Why.STACKED)


# -- looks ------------------------------------------------------------------------------------------------------------


def test_every_write_after_a_look_makes_the_file_look_different(tmp_path: Path) -> None:
    """Without the wait some writes fall into the same tick of the clock as the one before."""
    path = model.write_image(tmp_path / "var_fs", IMAGE)
    with open_disk(path, writable=True) as disk:
        for number in range(100):
            look = settled(disk)
            disk.write_at(number, b"x")
            assert BackingIdentity.of(disk.status) != look


def test_a_look_costs_at_most_a_tick_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model.write_image(tmp_path / "var_fs", IMAGE)
    sleep, slept = time.sleep, [0.0]

    def counted(seconds: float) -> None:
        slept[-1] += seconds
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", counted)
    with open_disk(path) as disk:
        settled(disk)
        slept.append(0.0)
        assert settled(disk) == BackingIdentity.of(os.stat(path))
    assert slept[0] < 0.1
    assert slept[1] == 0


@pytest.mark.parametrize(("ahead_ns", "waits"), [(50_000_000, True), (60_000_000_000, False)])
def test_a_time_that_lies_ahead_is_waited_for_or_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_ns: int, waits: bool
) -> None:
    path = model.write_image(tmp_path / "var_fs", IMAGE)
    now = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: now(clock) - ahead_ns)
    with open_disk(path) as disk:
        assert (settled(disk) == BackingIdentity.of(disk.status)) is waits
        assert not waits or now(5) - ahead_ns > disk.status.st_ctime_ns


# -- what is read -----------------------------------------------------------------------------------------------------


class Drawn:
    """A disk of any dialect with its COW file, opened."""

    def __init__(self, directory: Path, disk: model.Disk, resources: ExitStack) -> None:
        self.disk = disk
        cow, _backing = disk.write(directory)
        self.layer = resources.enter_context(CowFile.open(cow, access=Access())).layer

    def touched(self) -> list[int]:
        """Return the places that bytes of the bitmap with any bit set speak for."""
        group_bytes = 8 * self.disk.sector_bytes
        groups = {sector // 8 * group_bytes for sector in self.disk.changes}
        ends = ((start, min(start + group_bytes, len(self.disk.base))) for start in groups)
        return sorted({at - at % PLACE for start, end in ends for at in range(start, end, 512)})


def test_nothing_changed_nothing_read(tmp_path: Path) -> None:
    with ExitStack() as resources:
        drawn = Drawn(tmp_path, model.Disk(IMAGE, {}, model.Dialect.V3, 512, 4096), resources)
        assert list(plan_changes(drawn.layer)) == []


@given(model.disks())
def test_places_that_the_bitmap_touches_are_read_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, disk: model.Disk
) -> None:
    with ExitStack() as resources:
        drawn = Drawn(tmp_path_factory.mktemp("disk"), disk, resources)
        plan = list(plan_changes(drawn.layer))
        read = [place for reading in plan for place in reading.view]
        assert read == drawn.touched()
        assert all(reading.region <= place < reading.region + REGION for reading in plan for place in reading.view)
        assert not any(reading.below for reading in plan)


@given(model.disks())
def test_both_ways_of_reading_give_the_index_of_the_whole_view(
    tmp_path_factory: pytest.TempPathFactory, disk: model.Disk
) -> None:
    store, task = MemoryStore(), SILENT.task("")
    with ExitStack() as resources:
        drawn = Drawn(tmp_path_factory.mktemp("disk"), disk, resources)
        whole = take_in(
            drawn.layer, plan_whole(drawn.layer, with_below=True), store, base=None, task=task, with_below=True
        )
        assert items_of(whole.index) == items(disk.view)
        assert whole.below is not None
        assert items_of(whole.below) == items(disk.base)
        assert nights.contents(store, whole.index) == disk.view
        assert nights.contents(store, whole.below) == disk.base
        quick = take_in(drawn.layer, plan_changes(drawn.layer), store, base=whole.below, task=task)
    assert quick.index == whole.index
    assert quick.below is None
    assert quick.stored_bytes == 0
    assert quick.read_bytes <= whole.read_bytes


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "var_fs"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(5 << 30)
        file.write(b"x")
    with open_disk(path) as disk:
        plan = list(plan_whole(RawLayer(disk), with_below=False))
    assert [(reading.region, reading.view, reading.below) for reading in plan] == [(5 << 30, (5 << 30,), ())]


@given(st.integers(1, 5 * PLACE))
def test_lengths_of_places(size_bytes: int) -> None:
    assert length_of([start for start, _end in places(size_bytes)], size_bytes) == size_bytes


def test_progress_counts_the_whole_disk_once(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.amounts: list[int] = []

        def add(self, amount: int) -> None:
            self.amounts.append(amount)

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *_error: object) -> None:
            pass

    size_bytes = 3 * REGION + 17
    path = model.write_image(tmp_path / "var_fs", bytes(REGION) + b"x" * (size_bytes - REGION))
    task = Counting()
    with open_disk(path) as disk:
        layer = RawLayer(disk)
        take_in(layer, plan_whole(layer, with_below=False), MemoryStore(), base=None, task=task)
    assert sum(task.amounts) == size_bytes
    assert min(task.amounts) >= 0
