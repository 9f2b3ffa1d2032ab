"""The store on a directory: what every store promises, and what only files have."""

import os
import stat
from pathlib import Path

import pytest

from tests.kit.faults import without_rights
from tests.kit.peers import needs
from tests.kit.store_contract import Home, StoreContract, chunk
from umldisk.checkpoint import pending
from umldisk.checkpoint.directory_place import Place
from umldisk.checkpoint.store import index_key, record_key
from umldisk.checkpoint.stores import open_store
from umldisk.errors import NoInputError, StorageError, UsageError

INDEX, RECORD = index_key("web", 1), record_key("web", 1)


class TestDirectory(StoreContract):
    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return Home(str(tmp_path))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.mark.parametrize("location", ["", "http://host/x", "gs://bucket"])
def test_other_locations_are_refused(location: str) -> None:
    with pytest.raises(UsageError, match="not a store"):
        open_store(location)


def test_opening_and_reading_make_nothing(place: Path) -> None:
    store = open_store(str(place))
    assert [*store.list("")] == []
    store.flush()
    assert not place.exists()


def test_the_directory_above_must_be_there(place: Path) -> None:
    store = open_store(str(place / "in"))
    with pytest.raises(StorageError, match="no place") as caught:
        store.put(*chunk(1))
    assert caught.value.hint
    assert not place.exists()


def test_a_chunk_has_no_name_before_it_is_durable(place: Path) -> None:
    store = open_store(str(place))
    key, _data = chunk(1)
    store.put(key, b"contents")
    assert not (place / key).exists()
    store.flush()
    assert (place / key).read_bytes() == b"contents"


def test_many_chunks_are_published_on_the_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "_BATCH", 10)
    monkeypatch.setattr(pending, "_FEW", 8)
    store = open_store(str(place))
    for number in range(25):
        store.put(*chunk(number))
    assert len([*place.glob("chunks/*/*.cacnk")]) == 20
    store.flush()
    assert {path.name for path in place.glob("chunks/*/*.cacnk")} == {Path(chunk(n)[0]).name for n in range(25)}


@pytest.mark.parametrize(
    ("count", "unwritten_bytes", "at_once"), [(3, 0, False), (5, 0, True), (5, 1 << 40, False), (9, 1 << 40, True)]
)
def test_the_file_system_is_synced_when_that_does_not_wait_for_others(
    count: int, unwritten_bytes: int, at_once: bool, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(pending, "_FEW", 4)
    monkeypatch.setattr(pending, "_MANY", 8)
    monkeypatch.setattr(pending, "unwritten_bytes", lambda: unwritten_bytes)
    monkeypatch.setattr(Place, "sync", lambda _self: synced.append("all"))
    monkeypatch.setattr(pending, "_sync_each", synced.extend)
    store = open_store(str(place))
    for number in range(count):
        store.put(*chunk(number))
    store.flush()
    files, directories = synced[: 1 if at_once else count], synced[1 if at_once else count :]
    assert files == ["all"] if at_once else all(path.startswith(f"{place}/staging/") for path in files)
    assert directories == ["all"] if at_once else f"{place}/chunks" in directories


def test_foreign_files_are_left_alone(place: Path) -> None:
    store = open_store(str(place))
    key, data = chunk(1)
    store.put(key, data)
    store.put(INDEX, b"index")
    store.flush()
    directory = place / key
    foreign = [directory.parent / "README", place / "notes.txt", place / "guests/web/00000001.json~"]
    foreign += [place / f"chunks/0000/{'1' * 64}.cacnk", place / "guests/web/.hidden.json", place / "guests/x.json"]
    foreign += [place / f"chunks/{directory.name[:4]}/{directory.name}.tmp"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    (place / "guests/web/00000009.json").mkdir()
    (place / "guests/web/00000008.json").symlink_to("nowhere")
    with store.collecting():
        assert [one.key for one in store.list("")] == [key, INDEX]
        store.delete([key, INDEX])
    assert all(path.read_bytes() == b"mine" for path in foreign)


# -- permissions ------------------------------------------------------------------------------------------------------


def _modes(place: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"files": set(), "directories": set()}
    for path in place.rglob("*"):
        found["directories" if path.is_dir() else "files"].add(stat.S_IMODE(path.stat().st_mode))
    return found


def _fill(place: Path) -> None:
    store = open_store(str(place))
    with store.writing("web"):
        store.put(*chunk(1))
        store.flush()
        store.put(INDEX, b"index")
        store.put_new(RECORD, b"record")
        assert _modes(place)["directories"] == {stat.S_IMODE(place.stat().st_mode)}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_store_is_its_owners_alone(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        _fill(place)
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert _modes(place) == {"files": {0o600}, "directories": {0o700}}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_store_opened_to_a_group_stays_so(place: Path, umask: int) -> None:
    place.mkdir()
    place.chmod(0o2770)
    before = os.umask(umask)
    try:
        _fill(place)
    finally:
        os.umask(before)
    assert _modes(place) == {"files": {0o660}, "directories": {0o2770}}


@needs("root")
def test_what_root_adds_belongs_to_the_stores_owner(place: Path) -> None:
    place.mkdir()
    os.chown(place, 1234, 4321)
    _fill(place)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in place.rglob("*")} == {(1234, 4321)}


@needs("root")
def test_a_directory_that_may_not_be_written(place: Path) -> None:
    _fill(place)
    place.chmod(0o755)
    for path in place.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    key, data = chunk(1)
    for above in place.parents:  # pytest's own directories are root's alone
        if above.stat().st_mode & 0o001 == 0 and above.stat().st_uid == 0:
            above.chmod(above.stat().st_mode | 0o011)
    with without_rights():
        store = open_store(str(place))
        assert store.get(key) == data
        assert store.get(RECORD) == b"record"
        new = record_key("web", 2)
        for act in (lambda: store.put(*chunk(2)), lambda: store.put(INDEX, b""), lambda: store.put_new(new, b"x")):
            with pytest.raises(StorageError, match="Permission denied"):
                act()
        with pytest.raises(StorageError, match="Permission denied"):
            store.delete([key])
        with pytest.raises(StorageError, match="Permission denied"), store.writing("web"):
            pass
    assert open_store(str(place)).get(RECORD) == b"record"


def test_something_else_where_the_store_should_be(place: Path) -> None:
    place.write_bytes(b"a file")
    store = open_store(str(place))
    with pytest.raises(StorageError, match="Not a directory"):
        store.put(*chunk(1))
    with pytest.raises(NoInputError):
        store.get(RECORD)
    assert place.read_bytes() == b"a file"
