"""Publishing a set of disks: cut off at every system call, taken up again, nothing lost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from umldisk.build import publish
from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError, StorageError
from umldisk.image.drives import DRIVES
from umldisk.system import locks

_CALLS = ("rename", "mkdir", "rmdir", "fsync")
_BASES = [drive.file_name for drive in DRIVES]
_NEW = {name: f"new {name}" for name in _BASES}


class _Killed(BaseException):
    """As little handled as a SIGKILL."""


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest("x", str(tmp_path / "x"))


def _put(guest: Guest, *names: str) -> None:
    os.makedirs(guest.directory, exist_ok=True)
    for name in names:
        Path(guest.directory, name).write_text(f"old {name}")


def _stage(guest: Guest) -> None:
    os.makedirs(guest.directory, exist_ok=True)
    building = Path(publish.begin(guest))
    for name, text in _NEW.items():
        (building / name).write_text(text)


def _files(guest: Guest) -> dict[str, str]:
    top = Path(guest.directory)
    return {str(p.relative_to(top)): p.read_text() for p in top.rglob("*") if p.is_file()}


def _kill_at(monkeypatch: pytest.MonkeyPatch, count: int, *, after: bool) -> None:
    left = count

    def wrap(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise _Killed
            try:
                return real(*args, **options)
            finally:
                if left == 0:
                    raise _Killed

        return call

    for name in _CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


def test_a_first_set_is_put_in_place(guest: Guest) -> None:
    _stage(guest)
    assert publish.publish(guest) is None
    assert _files(guest) == _NEW
    assert sorted(os.listdir(guest.directory)) == sorted(_BASES)


def test_old_disks_are_replaced_and_cows_kept_with_their_bases(guest: Guest) -> None:
    _put(guest, *_BASES, "root_cow", "home_cow", "replaced-1")
    _stage(guest)
    assert publish.publish(guest) == os.path.join(guest.directory, "replaced-2")
    pairs = [f"{name}_{kind}" for name in ("root", "home") for kind in ("cow", "fs")]
    kept = {f"replaced-2/{name}": f"old {name}" for name in pairs}
    assert _files(guest) == {**_NEW, **kept, "replaced-1": "old replaced-1"}


def test_a_cow_whose_base_is_gone_is_kept_too(guest: Guest) -> None:
    _put(guest, "var_cow")
    _stage(guest)
    publish.publish(guest)
    assert _files(guest) == {**_NEW, "replaced-1/var_cow": "old var_cow"}


@pytest.mark.parametrize("after", [False, True])
def test_a_publication_cut_off_anywhere_is_taken_up(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()
    for count in range(1, 100):
        guest = Guest("x", str(tmp_path / f"{count}-{after}"))
        _put(guest, *_BASES, "root_cow", "var_cow")
        old = _files(guest)
        _stage(guest)
        with monkeypatch.context() as patch:
            _kill_at(patch, count, after=after)
            try:
                publish.publish(guest)
                break
            except _Killed:
                pass
        outcomes.add(_take_up(guest, old))
    assert outcomes == {"nothing happened", "finished"}
    assert count > 15


def _take_up(guest: Guest, old: dict[str, str]) -> str:
    """Go on as the next build would; check that either nothing has happened or all of it."""
    root = Path(guest.directory, "root_fs")
    if root.exists() and root.read_text() == _NEW["root_fs"]:
        assert {name: _files(guest)[name] for name in _BASES} == _NEW
    if publish.is_unfinished(guest):
        publish.finish(guest)
    publish.abandon(guest)
    if _files(guest) == old:
        return "nothing happened"
    pairs = [f"{name}_{kind}" for name in ("root", "var") for kind in ("cow", "fs")]
    assert _files(guest) == {**_NEW, **{f"replaced-1/{name}": f"old {name}" for name in pairs}}
    assert not [name for name in os.listdir(guest.directory) if name.startswith(".")]
    return "finished"


def test_what_a_killed_build_left_is_cleared(guest: Guest) -> None:
    building = Path(guest.directory, ".building", "root.tree", "deep")
    building.mkdir(parents=True)
    (building / "file").write_text("left over")
    assert os.listdir(publish.begin(guest)) == []


def test_an_error_while_publishing_is_a_storage_error(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    _stage(guest)
    monkeypatch.setattr(os, "rename", _full)
    with pytest.raises(StorageError, match="No space left"):
        publish.publish(guest)
    monkeypatch.undo()
    assert not publish.is_unfinished(guest)
    assert not publish.existing_files(guest)


def _full(*_args: object) -> None:
    raise OSError(28, "No space left on device")


def test_two_builds_do_not_share_a_guest(guest: Guest) -> None:
    with publish.claimed(guest), pytest.raises(BusyError, match="being built"), publish.claimed(guest):
        pass
    with publish.claimed(guest):
        pass


def test_a_directory_that_cannot_be_made_is_named(guest: Guest) -> None:
    Path(guest.directory).write_text("a file is in the way")
    with pytest.raises(CannotCreateError), publish.claimed(guest):
        pass


@pytest.mark.parametrize("name", ["tmp_fs", "root_fs", "root_cow"])
def test_a_disk_in_use_is_not_replaced(name: str, guest: Guest) -> None:
    _put(guest, *_BASES, "root_cow")
    with open(os.path.join(guest.directory, name), "rb") as user:
        assert locks.try_lock(user.fileno(), exclusive=False)
        with pytest.raises(BusyError), publish.held(guest):
            pass
    with publish.held(guest), open(os.path.join(guest.directory, name), "rb") as user:
        assert not locks.try_lock(user.fileno(), exclusive=False)
