"""Checkpoints out of the store: as an image, a stream, a COW file."""

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.kit.memory_store import MemoryStore
from tests.kit.peers import needs
from tests.kit.restorable import VAR, Broken, SmallerSite, broken_guest, noise
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.history import append
from umldisk.checkpoint.index import parse
from umldisk.checkpoint.record import Kind
from umldisk.checkpoint.store import chunk_key, index_key
from umldisk.cow.file import CowFile
from umldisk.cow.merging import merge
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError
from umldisk.ops.checkpoints.exporting import ExportOptions, export_checkpoint, export_to_stream
from umldisk.system import locks
from umldisk.system.files import open_disk
from umldisk.system.sparse import allocated_bytes


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def broken(tmp_path: Path, store: MemoryStore) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path / "site")), store=store)


def _checkpoint(broken: Broken, number: int) -> Checkpoint:
    with Catalog.open(f"{broken.site.directory}/{CATALOG_NAME}", writable=False) as catalog:
        return catalog.checkpoint(broken.name, number)


@pytest.mark.parametrize("number", [1, 2])
def test_an_image_is_what_the_guest_had(number: int, broken: Broken, store: MemoryStore, tmp_path: Path) -> None:
    output = tmp_path / "out"
    report = export_checkpoint(store, _checkpoint(broken, number), output)
    assert output.read_bytes() == broken.nights[number]
    assert (report.number, report.output, report.size_bytes) == (number, str(output), VAR.size_bytes)
    assert report.assembled is not None
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with open_disk(output) as disk:
        assert allocated_bytes(disk.fd) <= VAR.size_bytes * 3 // 4 + 4096


@pytest.mark.parametrize("number", [1, 2])
def test_a_stream_is_the_same_bytes(number: int, broken: Broken, store: MemoryStore) -> None:
    stream = io.BytesIO()
    report = export_to_stream(store, _checkpoint(broken, number), stream)
    assert stream.getvalue() == broken.nights[number]
    assert report.output == "-"


@pytest.mark.parametrize("number", [1, 2])
def test_a_cow_file_over_a_backing_shows_the_same(
    number: int, broken: Broken, store: MemoryStore, tmp_path: Path
) -> None:
    output, backing = tmp_path / "out_cow", broken.guest.base_path(VAR)
    report = export_checkpoint(store, _checkpoint(broken, number), output, options=ExportOptions(cow_over=backing))
    with CowFile.open(output) as cow:
        assert cow.read(0, cow.size_bytes) == broken.nights[number]
        assert cow.backing.disk.path == backing
        changed = sum(run.end - run.start for run in cow.runs())
    pages = {sector // 8 for sector in ([8, 9, 10, 1500] if number == 1 else [8, 64, 65])}
    assert changed == 8 * len(pages)
    assert report.cow is not None
    assert (report.cow.image, report.cow.changed_bytes) == (f"checkpoint {number}", 4096 * len(pages))
    merge(output, tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == broken.nights[number]
    assert set(os.listdir(tmp_path)) == {"site", "out_cow", "merged"}


@needs("casync")
def test_casync_says_the_same(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")))
    store = tmp_path / "site" / "store"
    argv = [
        "casync",
        "extract",
        f"--store={store}/chunks",
        str(store / index_key("blackdance", 2)),
        str(tmp_path / "c"),
    ]
    subprocess.run(argv, check=True, capture_output=True)
    assert (tmp_path / "c").read_bytes() == broken.nights[2]


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_cow", [False, True])
def test_what_is_there_is_replaced_only_on_request(
    as_cow: bool, broken: Broken, store: MemoryStore, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.write_text("precious")
    output.chmod(0o640)
    over = broken.guest.base_path(VAR) if as_cow else None
    for dry_run in (True, False):
        with pytest.raises(CannotCreateError):
            export_checkpoint(
                store, _checkpoint(broken, 1), output, options=ExportOptions(cow_over=over, dry_run=dry_run)
            )
        assert output.read_text() == "precious"
    export_checkpoint(store, _checkpoint(broken, 1), output, options=ExportOptions(cow_over=over, replace=True))
    assert stat.S_IMODE(output.stat().st_mode) == 0o640
    if not as_cow:
        assert output.read_bytes() == broken.nights[1]


def test_a_disk_in_use_is_not_replaced(broken: Broken, store: MemoryStore) -> None:
    output = broken.guest.base_path(VAR)
    with open(output, "rb") as guest:
        assert locks.try_lock(guest.fileno(), exclusive=False)
        with pytest.raises(BusyError):
            export_checkpoint(store, _checkpoint(broken, 1), output, options=ExportOptions(replace=True))


def test_a_backing_of_another_size_is_refused_first(broken: Broken, store: MemoryStore, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.write_bytes(noise("x", 4096))
    store.log.clear()
    with pytest.raises(DataError, match="differ in size"):
        export_checkpoint(store, _checkpoint(broken, 1), tmp_path / "out", options=ExportOptions(cow_over=str(backing)))
    assert [key for _what, key in store.log] == [index_key("blackdance", 1)]


def test_a_backing_is_never_its_own_output(broken: Broken, store: MemoryStore) -> None:
    backing = broken.guest.base_path(VAR)
    before = Path(backing).read_bytes()
    with pytest.raises(DataError, match="its own backing"):
        export_checkpoint(store, _checkpoint(broken, 1), backing, options=ExportOptions(cow_over=backing, replace=True))
    assert Path(backing).read_bytes() == before


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_bad_chunk_is_named_and_nothing_appears(
    gone: bool, over: bool, broken: Broken, store: MemoryStore, tmp_path: Path
) -> None:
    name = max(chunk.name for chunk in parse(store.data[index_key("blackdance", 1)]).chunks() if not chunk.is_null)
    key = chunk_key(name)
    if gone:
        del store.data[key]
    else:
        store.data[key] = store.data[key][:-1] + b"x"
    options = ExportOptions(cow_over=broken.guest.base_path(VAR) if over else None)
    with pytest.raises(DataError, match="missing" if gone else "damaged|not hold") as refused:
        export_checkpoint(store, _checkpoint(broken, 1), tmp_path / "out", options=options)
    assert refused.value.where == key
    with pytest.raises(DataError):
        export_to_stream(store, _checkpoint(broken, 1), io.BytesIO())
    assert os.listdir(tmp_path) == ["site"]


def test_a_deleted_checkpoint_can_be_had_until_it_is_reclaimed(
    broken: Broken, store: MemoryStore, tmp_path: Path
) -> None:
    with Catalog.open(f"{broken.site.directory}/{CATALOG_NAME}", writable=True) as catalog:
        append(store, catalog, "blackdance", Kind.DELETE, clock=broken.clock, host="h", subjects=[1])
    export_checkpoint(store, _checkpoint(broken, 1), tmp_path / "out")
    store.delete([index_key("blackdance", 1)])
    with pytest.raises(NoInputError, match="was deleted"):
        export_checkpoint(store, _checkpoint(broken, 1), tmp_path / "more")


def test_a_rehearsal_writes_nothing(broken: Broken, store: MemoryStore, tmp_path: Path) -> None:
    report = export_checkpoint(store, _checkpoint(broken, 1), tmp_path / "out", options=ExportOptions(dry_run=True))
    assert (report.dry_run, report.assembled) == (True, None)
    assert os.listdir(tmp_path) == ["site"]
