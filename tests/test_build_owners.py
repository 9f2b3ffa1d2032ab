"""Building where somebody else lives: the directory while root works in it, and what an ordinary user may not do."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.faults import NOBODY, without_rights
from tests.kit.peers import needs
from umldisk.build import publish
from umldisk.build.ownership import Ownership, plan_ownership
from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError
from umldisk.image.drives import DRIVES
from umldisk.system import locks
from umldisk.system.swapping import Standing

pytestmark = needs("root")

_OURS = plan_ownership(Guest("x", "/x"), is_root=False)
_THEIRS = Ownership(
    user="nobody",
    directory=Standing(0o711, NOBODY, NOBODY),
    base=Standing(0o440, NOBODY, NOBODY),
    writable=Standing(0o600, NOBODY, NOBODY),
    manifest=Standing(0o640, NOBODY, NOBODY),
    parents_mode=0o711,
    group_is_private=True,
)
_BASES = [drive.file_name for drive in DRIVES]
_GUARDED = Standing(0o1771, 0, NOBODY)


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest in a site below /tmp, where others may pass, with a directory and disks of its user's own."""
    with tempfile.TemporaryDirectory(prefix="umldisk-") as site:
        os.chmod(site, 0o711)
        guest = Guest("x", f"{site}/guests/x")
        with publish.claimed(guest, _THEIRS):
            _stage(guest)
            publish.publish(guest, _THEIRS)
        yield guest


def _stage(guest: Guest) -> None:
    building = Path(publish.begin(guest))
    for name in _BASES:
        (building / name).write_text(name)


def _standing(path: str) -> Standing:
    return Standing.of(os.stat(path))


def _made(path: str) -> bool:
    """Whether the guest's user can make the file, as a kernel that makes a COW file must."""
    with without_rights(), contextlib.suppress(PermissionError), open(path, "x"):
        return True
    return False


def test_the_first_build_makes_what_its_user_can_pass(guest: Guest) -> None:
    assert _standing(guest.directory) == _THEIRS.directory
    assert stat.S_IMODE(os.stat(os.path.dirname(guest.directory)).st_mode) & 0o711 == 0o711
    with without_rights(), open(f"{guest.directory}/root_fs") as base:
        assert base.read() == "root_fs"
    assert _made(f"{guest.directory}/root_cow")


def test_a_cow_file_that_the_guest_makes_for_all_is_its_own(guest: Guest) -> None:
    before = os.umask(0)
    try:
        with without_rights():
            os.close(os.open(f"{guest.directory}/root_cow", os.O_RDWR | os.O_CREAT, 0o644))
    finally:
        os.umask(before)
    assert _standing(f"{guest.directory}/root_cow") == Standing(0o600, NOBODY, NOBODY)
    with publish.claimed(guest, _THEIRS):
        _stage(guest)  # whose files are made with the modes that were asked for
        assert _standing(f"{guest.directory}/.building/root_fs").mode == 0o644
        retired = publish.publish(guest, _THEIRS)
    assert retired is not None
    assert _standing(retired) == Standing(0o700, NOBODY, NOBODY)


def test_without_acls_nobody_else_passes(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    os.removexattr(guest.directory, "system.posix_acl_default")
    monkeypatch.setattr(os, "setxattr", _no_acls)
    with publish.claimed(guest, _THEIRS):
        _stage(guest)
        publish.publish(guest, _THEIRS)
    assert _standing(guest.directory) == Standing(0o700, NOBODY, NOBODY)
    assert _made(f"{guest.directory}/root_cow")


def _no_acls(*_arguments: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_while_root_builds_the_user_cannot_move_its_work_aside(guest: Guest) -> None:
    Path(guest.directory, ".lock").unlink()
    _made(f"{guest.directory}/.lock")  # the user's own, which it could replace any time
    with publish.claimed(guest, _THEIRS):
        building = publish.begin(guest)
        assert _standing(guest.directory) == _GUARDED
        with without_rights():
            for name in (building, f"{guest.directory}/.lock"):
                with pytest.raises(PermissionError):
                    os.rename(name, f"{guest.directory}/aside")
            with pytest.raises(PermissionError):
                os.listdir(building)
        assert _made(f"{guest.directory}/root_cow")
        assert os.stat(f"{guest.directory}/.lock").st_uid == 0
        with pytest.raises(BusyError), publish.claimed(guest, _THEIRS):
            pass
        assert _standing(guest.directory) == _GUARDED
    assert _standing(guest.directory) == _THEIRS.directory


def test_a_group_that_others_share_does_not_get_in(guest: Guest) -> None:
    with publish.claimed(guest, replace(_THEIRS, group_is_private=False)):
        assert not _made(f"{guest.directory}/root_cow")
    assert _made(f"{guest.directory}/root_cow")


def test_a_build_that_comes_to_nothing_leaves_the_directory_as_it_was(guest: Guest) -> None:
    os.chmod(guest.directory, 0o750)
    with pytest.raises(ZeroDivisionError), publish.claimed(guest, _THEIRS):
        raise ZeroDivisionError
    assert _standing(guest.directory) == replace(_THEIRS.directory, mode=0o750)


@pytest.mark.parametrize("mode", [0o1771, 0o1770, 0o1711])
def test_after_a_kill_the_next_build_gives_the_directory_back(mode: int, guest: Guest) -> None:
    os.chown(guest.directory, 0, NOBODY)
    os.chmod(guest.directory, mode)
    with publish.claimed(guest, _THEIRS):
        pass
    assert _standing(guest.directory) == _THEIRS.directory


def test_a_set_is_guarded_until_the_build_has_ended(guest: Guest) -> None:
    """A build that took up another one's set goes on to its own, in the same directory."""
    with publish.claimed(guest, _THEIRS):
        for _ in range(2):
            _stage(guest)
            publish.publish(guest, _THEIRS)
            assert _standing(guest.directory) == _GUARDED
    assert _standing(guest.directory) == _THEIRS.directory


def test_planted_names_do_not_lead_root_elsewhere(guest: Guest) -> None:
    elsewhere = Path(guest.directory).parents[1] / "elsewhere"
    elsewhere.mkdir()
    for name in (*_BASES, "manifest.json"):
        (elsewhere / name).write_text("not the guest's")
    with without_rights():
        for name in (".building", ".verifying", ".ready", ".complete", ".retiring"):
            os.symlink(elsewhere, f"{guest.directory}/{name}")
    with publish.claimed(guest, _THEIRS):
        assert not publish.is_unfinished(guest)
        _stage(guest)
        assert publish.publish(guest, _THEIRS) is None
    assert {name for name in os.listdir(guest.directory) if name != ".lock"} == set(_BASES)
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == dict.fromkeys(
        (*_BASES, "manifest.json"), "not the guest's"
    )
    assert {os.stat(elsewhere / name).st_uid for name in _BASES} == {0}


def test_a_planted_lock_is_not_followed(guest: Guest) -> None:
    Path(guest.directory, ".lock").unlink()
    os.symlink("/etc/passwd", f"{guest.directory}/.lock")
    with pytest.raises(CannotCreateError), publish.claimed(guest, _THEIRS):
        pass
    assert _standing(guest.directory) == _THEIRS.directory


def test_the_user_builds_in_its_directory_after_root_has(guest: Guest) -> None:
    ours = replace(_OURS, user="nobody")
    with without_rights(), publish.claimed(guest, ours), publish.held(guest) as holding:
        _stage(guest)
        assert publish.publish(guest, ours, holding=holding) is None
    assert {_standing(guest.base_path(drive)) for drive in DRIVES} == {Standing(0o600, NOBODY, NOBODY)}
    assert _standing(guest.directory) == _THEIRS.directory


@pytest.mark.parametrize("umask", [0o777, 0o000])
def test_the_umask_of_an_ordinary_user_does_not_matter(umask: int, guest: Guest) -> None:
    inner = Guest("y", f"{guest.directory}/site/guests/y")
    before = os.umask(umask)
    try:
        with without_rights(), publish.claimed(inner, _OURS), publish.held(inner):
            _stage_and_open(inner)
            publish.publish(inner, _OURS)
        with without_rights(), publish.claimed(inner, _OURS), publish.held(inner):
            pass
    finally:
        os.umask(before)
    assert _standing(inner.directory) == Standing(0o700, NOBODY, NOBODY)
    assert {_standing(inner.base_path(drive)) for drive in DRIVES} == {Standing(0o600, NOBODY, NOBODY)}


def _stage_and_open(guest: Guest) -> None:
    building = publish.begin(guest)
    for name in _BASES:
        os.close(os.open(f"{building}/{name}", os.O_WRONLY | os.O_CREAT, 0o600))


def test_a_base_that_may_only_be_read_is_watched(guest: Guest) -> None:
    """An ordinary user cannot lock it against a guest that starts, but sees one before and after."""
    base = guest.base_path(DRIVES[0])
    with open(base, "rb+") as user:
        assert locks.try_lock(user.fileno(), exclusive=False)
        with without_rights(), pytest.raises(BusyError), publish.held(guest):
            pass
    with open(base, "rb+") as user, without_rights(), publish.claimed(guest, _OURS), publish.held(guest) as holding:
        holding.check()
        assert not locks.try_lock(user.fileno(), exclusive=True)
        _stage(guest)
        assert locks.try_lock(user.fileno(), exclusive=False)
        with pytest.raises(BusyError):
            publish.publish(guest, _OURS, holding=holding)
        assert not publish.is_unfinished(guest)
