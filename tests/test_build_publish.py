"""Publishing a set of disks: cut off at every system call, taken up again, nothing lost."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import publish
from umldisk.build.ownership import Ownership, plan_ownership
from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError, StorageError
from umldisk.image.drives import DRIVES, Drive
from umldisk.system import locks
from umldisk.system.swapping import Standing

_CALLS = ("rename", "mkdir", "rmdir", "fsync", "unlink", "fchmod", "fchown")
_BASES = [drive.file_name for drive in DRIVES]
_MANIFEST = "manifest.json"
_UID, _GID, _SHARED_GID = 61_234, 61_235, 61_236
_OURS = plan_ownership(Guest("x", "/x"), is_root=False)
_THEIRS = Ownership(
    user="x",
    directory=Standing(0o711, _UID, _GID),
    base=Standing(0o440, _UID, _SHARED_GID),
    writable=Standing(0o600, _UID, _GID),
    manifest=Standing(0o640, _UID, _GID),
    parents_mode=0o711,
    group_is_private=True,
)


class _Killed(BaseException):
    """As little handled as a SIGKILL."""


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest("x", str(tmp_path / "x"))


def _put(guest: Guest, *names: str) -> None:
    os.makedirs(guest.directory, exist_ok=True)
    for name in names:
        Path(guest.directory, name).write_text(f"old {name}")


def _new(guest: Guest) -> dict[str, str]:
    return {name: f"new {name}" for name in (*(drive.file_name for drive in guest.drives), _MANIFEST)}


def _stage(guest: Guest) -> None:
    os.makedirs(guest.directory, exist_ok=True)
    building = Path(publish.begin(guest))
    for name, text in _new(guest).items():
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
    Path(guest.directory, publish.BUILDING, "scratch").mkdir()
    assert publish.publish(guest, _OURS) is None
    assert _files(guest) == _new(guest)
    assert sorted(os.listdir(guest.directory)) == sorted([*_BASES, _MANIFEST])


def test_old_disks_are_replaced_and_cows_kept_with_their_bases_and_manifest(guest: Guest) -> None:
    _put(guest, *_BASES, _MANIFEST, "root_cow", "home_cow", "replaced-1", "notes")
    _stage(guest)
    assert publish.publish(guest, _OURS) == os.path.join(guest.directory, "replaced-2")
    pairs = [f"{name}_{kind}" for name in ("root", "home") for kind in ("cow", "fs")]
    kept = {f"replaced-2/{name}": f"old {name}" for name in [*pairs, _MANIFEST]}
    others = {name: f"old {name}" for name in ("replaced-1", "notes")}
    assert _files(guest) == {**_new(guest), **kept, **others}


def test_a_manifest_of_disks_that_nobody_needs_goes_with_them(guest: Guest) -> None:
    _put(guest, *_BASES, _MANIFEST)
    _stage(guest)
    assert publish.publish(guest, _OURS) is None
    assert _files(guest) == _new(guest)


def test_a_set_without_a_manifest_has_none_not_the_old_one(guest: Guest) -> None:
    _put(guest, *_BASES, _MANIFEST)
    _stage(guest)
    os.unlink(os.path.join(guest.directory, publish.BUILDING, _MANIFEST))
    publish.publish(guest, _OURS)
    assert _MANIFEST not in _files(guest)


def test_a_cow_whose_base_is_gone_is_kept_too(guest: Guest) -> None:
    _put(guest, "var_cow")
    _stage(guest)
    publish.publish(guest, _OURS)
    assert _files(guest) == {**_new(guest), "replaced-1/var_cow": "old var_cow"}


def test_disks_of_another_layout_do_not_stay_behind(guest: Guest) -> None:
    """Root ran copy-on-write and no longer does, /var the other way round; /srv and a scratch disk are gone."""
    _put(guest, "root_fs", "root_cow", "var_fs", "srv_fs", "old_fs", "swap_fs")
    rows = [
        {"name": "root", "file": "root_fs", "cow": "root_cow", "mount": "/"},
        {"name": "var", "file": "var_fs", "cow": None, "mount": "/var"},
        {"name": "srv", "file": "srv_fs", "cow": None, "mount": "/srv"},
        {"name": "old", "file": "old_fs", "cow": None, "mount": "/tmp"},
    ]
    Path(guest.directory, _MANIFEST).write_text(json.dumps({"format": 1, "drives": rows, "files": []}))
    now = replace(guest, drives=(Drive("root", 0, "/", copy_on_write=False), *DRIVES[1:]))
    _stage(now)
    retired = publish.publish(now, _OURS)
    assert retired == os.path.join(guest.directory, "replaced-1")
    assert sorted(os.listdir(retired)) == [_MANIFEST, "root_cow", "root_fs", "srv_fs", "var_fs"]
    assert {name for name in _files(now) if "/" not in name} == _new(now).keys()


def test_a_directory_with_the_name_of_a_disk_is_kept(guest: Guest) -> None:
    _put(guest, "swap_fs")
    Path(guest.directory, "tmp_fs").mkdir()
    Path(guest.directory, "tmp_fs", "precious").write_text("old")
    _stage(guest)
    publish.publish(guest, _OURS)
    assert _files(guest) == {**_new(guest), "replaced-1/tmp_fs/precious": "old"}


def test_an_incomplete_set_is_not_published(guest: Guest) -> None:
    _put(guest, *_BASES)
    before = _files(guest)
    _stage(guest)
    os.unlink(os.path.join(guest.directory, publish.BUILDING, "var_fs"))
    with pytest.raises(StorageError, match="var_fs"):
        publish.publish(guest, _OURS)
    publish.abandon(guest)
    assert not publish.is_unfinished(guest)
    assert _files(guest) == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("ownership", [pytest.param(_THEIRS, marks=needs("root"), id="theirs"), _OURS])
def test_a_publication_cut_off_anywhere_is_taken_up(
    after: bool, ownership: Ownership, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = set()
    for count in range(1, 200):
        guest = Guest("x", str(tmp_path / f"{count}-{after}"))
        _put(guest, *_BASES, _MANIFEST, "root_cow", "var_cow", "srv_fs")
        old = _files(guest)
        _stage(guest)
        with monkeypatch.context() as patch:
            _kill_at(patch, count, after=after)
            try:
                publish.publish(guest, ownership)
                break
            except _Killed:
                pass
        outcomes.add(_take_up(guest, old, ownership))
    assert outcomes == {"nothing happened", "finished"}
    assert count > 40


def _take_up(guest: Guest, old: dict[str, str], ownership: Ownership) -> str:
    """Go on as the next build would; check that either nothing has happened or all of it."""
    _refuse_mixture(guest, ownership)
    with publish.claimed(guest, ownership):
        if publish.is_unfinished(guest):
            publish.finish(guest, ownership)
        publish.abandon(guest)
    os.unlink(os.path.join(guest.directory, ".lock"))
    if _files(guest) == old:
        return "nothing happened"
    kept = ["root_cow", "root_fs", "var_cow", "var_fs", "srv_fs", _MANIFEST]
    assert _files(guest) == {**_new(guest), **{f"replaced-1/{name}": f"old {name}" for name in kept}}
    assert not [name for name in os.listdir(guest.directory) if name.startswith(".")]
    _require_standings(guest, ownership)
    if ownership.directory.uid is not None:
        assert Standing.of(os.stat(guest.directory)) == ownership.directory
        assert Standing.of(os.stat(f"{guest.directory}/replaced-1")) == ownership.closed_directory
    return "finished"


def _refuse_mixture(guest: Guest, ownership: Ownership) -> None:
    """Where root's disk is, there is the whole of its set and nothing of the other."""
    now = {name: text.split()[0] for name, text in _files(guest).items() if "/" not in name}
    if "root_fs" in now:
        assert set(now.values()) == {now["root_fs"]}
        assert now.keys() >= {*_BASES, _MANIFEST}
    if now.get("root_fs") == "new":
        _require_standings(guest, ownership)


def _require_standings(guest: Guest, ownership: Ownership) -> None:
    wanted = {drive.file_name: ownership.of_disk(drive) for drive in guest.drives} | {_MANIFEST: ownership.manifest}
    for name, standing in wanted.items():
        found = Standing.of(os.stat(os.path.join(guest.directory, name)))
        assert found == standing or (standing.uid is None and found.mode == standing.mode)


@needs("root")
def test_no_disk_ever_stands_open_to_others_on_its_way(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = os.rename

    def rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if source in _BASES:
            seen.append(Standing.of(os.stat(source, dir_fd=src_dir_fd)))
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    _stage(guest)
    monkeypatch.setattr(os, "rename", rename)
    publish.publish(guest, _THEIRS)
    assert len(seen) == len(_BASES)
    assert set(seen) == {_THEIRS.base, _THEIRS.writable}


def test_what_killed_builds_left_is_cleared(guest: Guest) -> None:
    for name in (".building", ".verifying"):
        deep = Path(guest.directory, name, "root.tree", "deep")
        deep.mkdir(parents=True)
        (deep / "file").write_text("left over")
        deep.chmod(0)
    assert os.listdir(publish.begin(guest)) == []
    assert os.listdir(guest.directory) == [".building"]
    second = publish.begin_second(guest)
    assert second == os.path.join(guest.directory, ".verifying")
    publish.abandon(guest)
    assert os.listdir(guest.directory) == []


def test_an_error_while_publishing_is_a_storage_error(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    _stage(guest)
    monkeypatch.setattr(os, "rename", _full)
    with pytest.raises(StorageError, match="No space left"):
        publish.publish(guest, _OURS)
    monkeypatch.undo()
    assert not publish.is_unfinished(guest)
    assert not publish.existing_files(guest)


def _full(*_args: object, **_options: object) -> None:
    raise OSError(28, "No space left on device")


def test_two_builds_do_not_share_a_guest(guest: Guest) -> None:
    with (
        publish.claimed(guest, _OURS),
        pytest.raises(BusyError, match="being built"),
        publish.claimed(guest, _OURS),
    ):
        pass
    with publish.claimed(guest, _OURS):
        pass


def test_a_directory_that_cannot_be_made_is_named(guest: Guest) -> None:
    Path(guest.directory).write_text("a file is in the way")
    with pytest.raises(CannotCreateError), publish.claimed(guest, _OURS):
        pass


@pytest.mark.parametrize("name", ["tmp_fs", "root_fs", "root_cow", "srv_fs", "srv_cow"])
def test_a_disk_in_use_is_not_replaced(name: str, guest: Guest) -> None:
    _put(guest, *_BASES, "root_cow", "srv_fs", "srv_cow")
    with open(os.path.join(guest.directory, name), "rb") as user:
        assert locks.try_lock(user.fileno(), exclusive=False)
        with pytest.raises(BusyError), publish.held(guest):
            pass
    with publish.held(guest), open(os.path.join(guest.directory, name), "rb") as user:
        assert not locks.try_lock(user.fileno(), exclusive=False)


def test_a_symlink_to_nothing_and_other_types_hold_nothing_up(guest: Guest) -> None:
    _put(guest, "root_fs")
    Path(guest.directory, "var_fs").symlink_to("nowhere")
    os.mkfifo(os.path.join(guest.directory, "home_fs"))
    with publish.held(guest) as holding:
        assert [os.path.basename(disk.path) for disk in holding.disks] == ["root_fs"]
