"""The end of a restore, when every disk is in place: what fails there costs a whole reading, and never the guest."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.kit.commands import LAYOUT, Commands, commands
from tests.kit.faults import Died
from tests.kit.memory_store import MemoryStore
from tests.kit.peers import mounted, needs
from tests.kit.restorable import VAR, Broken, SmallerSite, broken_guest
from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.store import base_key, index_key
from umldisk.errors import BusyError, NoInputError, StorageError, UmldiskError
from umldisk.ops.checkpoints.exporting import export_named
from umldisk.ops.checkpoints.take_report import TakenDrive
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.restoring.noted import parse_note, parse_notes
from umldisk.ops.restoring.planning import Wish
from umldisk.ops.restoring.restore import is_unfinished
from umldisk.system.swapping import Directory

_VAR_1 = Wish(number=1, drives=("var",))
_NOTE = "var: the next checkpoint reads all of it: "


def _base_state(broken: Broken) -> BaseState | None:
    with Catalog.open(f"{broken.site.directory}/{CATALOG_NAME}", writable=False) as catalog:
        return catalog.base_state(broken.name, "var")


def _next_night(broken: Broken) -> TakenDrive:
    """Let the guest run and record var; what was recorded must be what it saw."""
    seen = broken.write(VAR, 77, word="after")
    (taken,) = take_checkpoint(broken.site, broken.name, store=broken.store, clock=broken.clock).drives
    if broken.store is None:
        out = Path(broken.site.directory, "exported")
        export_named(broken.site, broken.name, str(taken.number), out)
        assert out.read_bytes() == seen
    return taken


@contextlib.contextmanager
def _cut_off_before(what: str) -> Iterator[None]:
    """Let the process die when a directory of this name is about to be renamed."""
    real = Directory.move

    def move(self: Directory, name: str, to: Directory, new_name: str | None = None) -> None:
        if name == what:
            raise Died
        real(self, name, to, new_name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directory, "move", move)
        try:
            yield
        except Died:
            return
    pytest.fail("nothing of that name was renamed")


# -- a store that fails -----------------------------------------------------------------------------------------------


class _Failing(MemoryStore):
    """A store in which one call fails once the restore is committed."""

    def __init__(self) -> None:
        super().__init__()
        self.armed: dict[tuple[str, str], UmldiskError] = {}
        self.guest: Path | None = None

    def _strike(self, call: str, key: str) -> None:
        error = self.armed.get((call, key))
        if error is not None and self.guest is not None and (self.guest / ".returning").is_dir():
            raise error

    def get(self, key: str) -> bytes:
        self._strike("get", key)
        return super().get(key)

    def put(self, key: str, data: bytes) -> None:
        self._strike("put", key)
        super().put(key, data)


@pytest.mark.parametrize(
    "error", [StorageError("no space"), BusyError("the hold on the store was lost"), NoInputError("no such object")]
)
@pytest.mark.parametrize("call", [("get", index_key("blackdance", 1)), ("put", base_key("blackdance", "var"))])
def test_a_store_that_fails_at_the_end_costs_a_whole_reading(
    call: tuple[str, str], error: UmldiskError, tmp_path: Path
) -> None:
    store = _Failing()
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=store)
    assert _base_state(broken)
    store.armed, store.guest = {call: error}, broken.directory
    report = broken.restore(_VAR_1)
    assert report.notes == (_NOTE + error.line(),)
    assert report.steps[-1] == report.notes[0]
    assert broken.seen(VAR) == broken.nights[1]
    assert not is_unfinished(broken.guest)
    assert _base_state(broken) is None
    store.armed = {}
    assert _next_night(broken).read_whole
    assert not _next_night(broken).read_whole


def test_a_catalog_that_fails_at_the_end_does_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")))

    def fail(*_arguments: object) -> None:
        raise StorageError("cannot use the catalog: database or disk is full")

    monkeypatch.setattr(Catalog, "forget_base_state", fail)
    report = broken.restore(_VAR_1)
    assert report.notes == (f"{_NOTE}cannot use the catalog: database or disk is full",)
    assert not is_unfinished(broken.guest)
    monkeypatch.undo()
    assert _next_night(broken).read_whole


@needs("tmpfs")
@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_store_is_told_and_the_guest_is_back(as_json: bool, tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=8 << 20) as point:
        (tmp_path / "site").mkdir()
        umldisk = commands(tmp_path / "site")
        shutil.move(umldisk.store, point / "store")
        (umldisk.directory / "umldisk.toml").write_text(f'{LAYOUT}store = "{point}/store"\n')
        _fill(point)
        said = umldisk("restore", *(["--json"] if as_json else []), "--drive", "var", "blackdance", "1")
        assert (said.code, said.err) == (0, "")
        (note,) = said.json["notes"] if as_json else [line.strip() for line in said.lines if _NOTE in line]
        assert note.startswith(f"{_NOTE}cannot ")
        assert "No space left" in note
        assert umldisk.broken.seen(VAR) == umldisk.broken.nights[1]
        assert not is_unfinished(umldisk.broken.guest)
        os.unlink(point / "filled")
        _require_next_night(umldisk, read_whole=True)


def _fill(point: Path) -> None:
    with open(point / "filled", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def _require_next_night(umldisk: Commands, *, read_whole: bool) -> None:
    seen = umldisk.broken.write(VAR, 77, word="after")
    said = umldisk("checkpoint", "take", "--json", "blackdance")
    assert [drive["read_whole"] for drive in said.json["drives"]] == [read_whole]
    assert umldisk("checkpoint", "export", "blackdance", "latest", umldisk.directory / "out").code == 0
    assert (umldisk.directory / "out").read_bytes() == seen


class _Away(MemoryStore):
    """A store that nothing can be had of."""

    def writing(self, guest: str, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        raise StorageError("the object store cannot be reached")


def test_what_is_complete_is_finished_without_the_store(tmp_path: Path) -> None:
    store = MemoryStore()
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=store)
    with _cut_off_before("var_fs"):
        broken.restore(_VAR_1)
    broken.store = _Away(store.data)
    report = broken.restore(_VAR_1)
    assert report.resumed
    assert report.notes == (f"{_NOTE}the object store cannot be reached",)
    assert broken.seen(VAR) == broken.nights[1]
    assert not is_unfinished(broken.guest)
    assert _base_state(broken) is None
    with pytest.raises(StorageError, match="cannot be reached"):
        broken.restore(_VAR_1)


def test_without_the_store_nothing_else_follows(tmp_path: Path) -> None:
    store = MemoryStore()
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=store)
    with _cut_off_before("var_fs"):
        broken.restore(_VAR_1)
    broken.store = _Away(store.data)
    with pytest.raises(StorageError, match="cannot be reached"):
        broken.restore(Wish(number=2, drives=("var",)))
    assert broken.seen(VAR) == broken.nights[1]
    assert not is_unfinished(broken.guest)
    assert len(broken.evidence) == 1


# -- a catalog that was lost ------------------------------------------------------------------------------------------


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    """A site whose catalog was lost."""
    made = commands(tmp_path)
    for path in tmp_path.glob(f"{CATALOG_NAME}*"):
        path.unlink()
    return made


@pytest.mark.parametrize(("words", "code"), [(["77"], 66), (["1", "--dry-run"], 0)])
def test_what_restores_nothing_makes_no_catalog(words: list[str], code: int, umldisk: Commands) -> None:
    assert umldisk("restore", "--drive", "var", "blackdance", *words).code == code
    assert not list(umldisk.directory.glob(f"{CATALOG_NAME}*"))
    said = umldisk("checkpoint", "list", "blackdance")
    assert said.code == 66
    assert "umldisk checkpoint rebuild" in said.err


def test_what_restores_makes_a_whole_one(umldisk: Commands) -> None:
    said = umldisk("restore", "--json", "--drive", "var", "blackdance", "1")
    assert (said.code, said.json["notes"]) == (0, [])
    assert umldisk.broken.seen(VAR) == umldisk.broken.nights[1]
    with Catalog.open(umldisk.directory / CATALOG_NAME, writable=False) as catalog:
        assert [one.number for one in catalog.checkpoints("blackdance")] == [1, 2]
    _require_next_night(umldisk, read_whole=False)


# -- notes of others --------------------------------------------------------------------------------------------------

_IDENTITY = {"size_bytes": 1, "mtime_ns": 2, "inode": 3, "ctime_ns": 4, "device": 5}
_ROW = {"guest": "x", "drive": "var", "index_sha256": "7" * 64, "identity": _IDENTITY}


def test_a_note_is_read_as_it_was_written() -> None:
    assert parse_notes({"var": _ROW}) == {"var": BaseState("x", "var", "7" * 64, BackingIdentity(1, 2, 3, 4, 5))}


@pytest.mark.parametrize(
    "row",
    [
        None,
        "7" * 64,
        [],
        _ROW | {"guest": 1},
        _ROW | {"drive": None},
        _ROW | {"index_sha256": "7" * 63},
        _ROW | {"index_sha256": 7},
        _ROW | {"identity": None},
        _ROW | {"identity": [1, 2, 3, 4, 5]},
        *(_ROW | {"identity": _IDENTITY | {name: value}} for name in _IDENTITY for value in (None, "1", 1.0, True)),
        *(_ROW | {"identity": {name: 1 for name in _IDENTITY if name != lost}} for lost in _IDENTITY),
    ],
)
def test_anything_else_is_none(row: object) -> None:
    assert parse_note(row) is None
    assert parse_notes({"var": row, "home": _ROW}) == {}  # the second is of another drive
    assert parse_notes([row]) == {}


@pytest.mark.parametrize("made", ["earlier", "of another guest", "of another index's drive", "unreadable"])
def test_a_restore_that_an_earlier_version_began_is_finished_and_nothing_is_known(made: str, tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")))
    with _cut_off_before("var_fs"):
        broken.restore(_VAR_1)
    (stage,) = broken.directory.glob(".restored")
    plan = json.loads((stage / "plan.json").read_text())
    (stage / "plan.json").write_text(json.dumps(plan | {"known": {"root": "7" * 64, "var": "7" * 64}}))
    outcome = json.loads((stage / "made.json").read_text())
    if made == "earlier":
        del outcome["made"]["var"]["known"]
    elif made == "of another guest":
        outcome["made"]["var"]["known"]["guest"] = "whitedance"
    elif made == "of another index's drive":
        outcome["made"]["home"] = outcome["made"].pop("var")
    (stage / "made.json").write_text("{" if made == "unreadable" else json.dumps(outcome))
    report = broken.restore(_VAR_1)
    assert report.resumed
    assert report.notes == (f"{_NOTE}nothing tells that var_fs was not changed meanwhile",)
    assert broken.seen(VAR) == broken.nights[1]
    assert _next_night(broken).read_whole


def test_what_was_written_down_before_it_was_cut_off_is_believed(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")))
    with _cut_off_before(".returning"):
        broken.restore(_VAR_1)
    report = broken.restore(_VAR_1)
    assert (report.resumed, report.notes) == (True, ())
    assert not _next_night(broken).read_whole
