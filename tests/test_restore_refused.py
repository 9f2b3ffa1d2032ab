"""What is not restored: from damaged stores, over changed bases, under running guests; the guest stays as it was."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.memory_store import MemoryStore
from tests.kit.peers import mounted, needs
from tests.kit.restorable import (
    HOME,
    Broken,
    SmallerSite,
    broken_guest,
)
from umldisk.build import publish
from umldisk.checkpoint.store import base_key, chunk_key, index_key, record_key
from umldisk.errors import BusyError, CannotCreateError, DataError, HistoryError, NoInputError, StorageError, UsageError
from umldisk.ops.restoring import evidence, restore
from umldisk.ops.restoring.planning import Wish
from umldisk.ops.restoring.restore import restore_guest
from umldisk.system import locks


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path / "site")))


def _visible(broken: Broken) -> set[str]:
    return {name for name in os.listdir(broken.directory) if name != ".lock"}


# -- bases ------------------------------------------------------------------------------------------------------------


def test_a_changed_base_is_refused(broken: Broken) -> None:
    broken.spoil(HOME)
    before = broken.files()
    with pytest.raises(DataError, match="drive home is not the one that was built") as refused:
        broken.restore()
    assert "umldisk build --force blackdance" in str(refused.value.hint)
    assert broken.files() == before
    broken.restore(Wish(drives=("var", "root")))


def test_a_base_that_a_merge_made_is_what_its_checkpoint_says(broken: Broken) -> None:
    seen = broken.write(HOME, 40, 41, word="work")
    number = broken.take("home", merge=True)
    broken.break_in()
    report = broken.restore()
    assert broken.seen(HOME) == seen
    assert report.drives[2].reference == f"checkpoint {number}"
    broken.break_in()
    broken.spoil(HOME)
    with pytest.raises(DataError) as refused:
        broken.restore()
    assert "umldisk restore blackdance --drive home" in str(refused.value.hint)
    assert broken.restore(Wish(drives=("home",))).drives[0].checkpoint == number
    assert broken.seen(HOME) == seen


def test_reading_a_changed_base_does_not_vouch_for_it(broken: Broken) -> None:
    broken.write(HOME, 7, word="work")
    broken.spoil(HOME)
    broken.take("home")
    with pytest.raises(DataError, match="not the one that was built"):
        broken.restore()


def test_an_index_of_the_base_that_somebody_else_put_there_does_not_either(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=MemoryStore())
    assert broken.store is not None
    broken.write(HOME, 40, word="work")
    broken.take("home", merge=True)
    assert broken.restore().drives[2].reference.startswith("checkpoint")
    broken.store.put(base_key("blackdance", "home"), broken.store.get(base_key("blackdance", "var")))
    with pytest.raises(DataError, match="drive home"):
        broken.restore()


def test_without_a_manifest_there_is_nothing_to_hold_a_base_against(broken: Broken) -> None:
    os.unlink(broken.directory / "manifest.json")
    with pytest.raises(NoInputError, match="manifest"):
        broken.restore()
    broken.restore(Wish(drives=("var", "swap")))


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("name", ["var_cow", "root_cow", "home_fs", "swap_fs"])
def test_a_running_guest_is_left_alone(name: str, dry_run: bool, broken: Broken) -> None:
    before = broken.files()
    with open(broken.directory / name, "r+b") as user:
        assert locks.try_lock(user.fileno(), exclusive=True)
        with pytest.raises(BusyError):
            broken.restore(dry_run=dry_run)
    assert broken.files() == before


def test_a_guest_that_starts_while_disks_are_made_is_left_alone(
    broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = broken.files()

    def start(*_arguments: object, **_options: object) -> None:
        raise BusyError("the disk is in use")

    monkeypatch.setattr(publish.Held, "check", start)
    with pytest.raises(BusyError):
        broken.restore()
    assert broken.files() == before
    assert not os.path.exists(f"{broken.site.directory}/evidence")


def test_a_store_that_is_written_is_busy(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=MemoryStore())
    assert broken.store is not None
    with broken.store.writing("blackdance"), pytest.raises(BusyError):
        broken.restore()


def test_what_does_not_exist_is_refused(broken: Broken, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such guest"):
        restore_guest(broken.site, "other")
    with pytest.raises(UsageError):
        restore_guest(broken.site, "../x")
    with pytest.raises(NoInputError, match="no checkpoint 77"):
        broken.restore(Wish(number=77))
    bare = Broken(SmallerSite(str(tmp_path / "bare"))).make()
    with pytest.raises(NoInputError, match="no good checkpoint"):
        bare.restore()
    with pytest.raises(NoInputError, match="no good checkpoint"):
        bare.restore(dry_run=True)


Tamper = Callable[[MemoryStore], object]


def _flip(store: MemoryStore, key: str) -> None:
    data = store.data[key]
    store.data[key] = data[:-1] + bytes([data[-1] ^ 1])


def _some_chunk(store: MemoryStore) -> str:
    """Return a chunk that the second night alone needs, so that no seed has it."""
    from umldisk.checkpoint.index import parse

    second, first = (parse(store.data[index_key("blackdance", n)]).names() for n in (2, 1))
    base = parse(store.data[base_key("blackdance", "var")]).names()
    return chunk_key(min(second - first - base))


@pytest.mark.parametrize(
    ("tamper", "error"),
    [
        (lambda store: store.delete([_some_chunk(store)]), DataError),
        (lambda store: _flip(store, _some_chunk(store)), DataError),
        (lambda store: _flip(store, index_key("blackdance", 2)), DataError),
        (lambda store: store.delete([index_key("blackdance", 2)]), DataError),
        (lambda store: _flip(store, record_key("blackdance", 1)), HistoryError),
        (lambda store: store.delete([record_key("blackdance", 1)]), HistoryError),
        (lambda store: store.delete([record_key("blackdance", 2)]), HistoryError),
    ],
    ids=["chunk gone", "chunk damaged", "index damaged", "index gone", "record", "record gone", "last record gone"],
)
def test_nothing_is_restored_from_a_damaged_store(tamper: Tamper, error: type[Exception], tmp_path: Path) -> None:
    store = MemoryStore()
    broken = broken_guest(SmallerSite(str(tmp_path / "site")), store=store)
    before = broken.files()
    tamper(store)
    with pytest.raises(error):
        broken.restore()
    assert broken.files() == before
    assert not os.path.exists(f"{broken.site.directory}/evidence")


@pytest.mark.parametrize("kind", ["symlink", "hard link", "directory"])
def test_what_cannot_be_moved_as_evidence_is_refused_first(kind: str, broken: Broken, tmp_path: Path) -> None:
    cow = broken.directory / "root_cow"
    if kind == "symlink":
        cow.rename(tmp_path / "elsewhere")
        cow.symlink_to(tmp_path / "elsewhere")
    elif kind == "hard link":
        os.link(cow, tmp_path / "elsewhere")
    else:
        cow.unlink()
        cow.mkdir()
    with pytest.raises(DataError, match="as evidence"):
        broken.restore()
    assert _visible(broken) == {"manifest.json"} | {
        *(drive.file_name for drive in broken.guest.drives),
        *(drive.cow_name for drive in broken.guest.drives if drive.cow_name),
    }


@needs("ext4")
def test_evidence_on_another_file_system_is_refused_first(broken: Broken, tmp_path: Path) -> None:
    before = broken.files()
    with mounted("ext4", tmp_path) as point:
        os.symlink(point, f"{broken.site.directory}/evidence")
        with pytest.raises(CannotCreateError, match="another file system"):
            broken.restore()
        assert os.listdir(point) == ["lost+found"]
    assert broken.files() == before


def test_an_unfinished_build_is_finished_first(broken: Broken) -> None:
    (broken.directory / ".ready").mkdir()
    with pytest.raises(DataError, match="cut off") as refused:
        broken.restore()
    assert refused.value.hint == "finish it first: umldisk build blackdance"


@pytest.mark.parametrize("fault", [StorageError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["make_all", "examine", "write_texts"])
def test_a_failure_before_the_commit_leaves_everything(
    fault: BaseException, step: str, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = broken.files()

    def fail(*_arguments: object, **_options: object) -> None:
        raise fault

    monkeypatch.setattr(restore if step == "make_all" else evidence, step, fail)
    with pytest.raises(type(fault)):
        broken.restore()
    assert broken.files() == before
    assert not os.path.exists(f"{broken.site.directory}/evidence")
