"""What root makes for a start in a directory that belongs to the guest's user, who may have laid snares."""

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

from tests.kit.faults import NOBODY, Died, Way, failing, without_rights
from tests.kit.peers import needs
from tests.kit.resets import STRANGER, shown, start, started_guest
from tests.kit.restorable import ROOT, Broken, SmallerSite
from umldisk.build.ownership import plan_ownership
from umldisk.config.guest import Guest
from umldisk.errors import DataError
from umldisk.image.drives import AtStart
from umldisk.ops.restoring import restore
from umldisk.ops.running import drives_at_start
from umldisk.system.swapping import Standing

_DIRECTORY, _WRITABLE = Standing(0o711, STRANGER, STRANGER), Standing(0o600, STRANGER, STRANGER)
_CALLS = ("ftruncate", "link", "mkdir", "pwrite", "rename", "rmdir")


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return started_guest(str(tmp_path / "site"))


@pytest.fixture
def theirs(broken: Broken, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """The guest of an ordinary user, who owns its directory."""

    def plan(guest: Guest, **_options: object) -> object:
        return dataclasses.replace(plan_ownership(guest, is_root=True), directory=_DIRECTORY, writable=_WRITABLE)

    for module in (drives_at_start, restore):
        monkeypatch.setattr(module, "plan_ownership", plan)
    for name in broken.names:
        os.chown(broken.directory / name, STRANGER, STRANGER)
    os.chown(broken.directory, STRANGER, STRANGER)
    os.chmod(broken.directory, 0o711)
    return broken


@needs("root")
def test_all_that_is_made_is_the_guests_users(theirs: Broken) -> None:
    disks = start(theirs, "root", "swap", home=AtStart.REBUILD)
    for name in ("root", "var", "home", "swap"):
        assert Standing.of(os.stat(disks[name].path)) == _WRITABLE
    assert Standing.of(os.stat(theirs.directory)) == _DIRECTORY


@needs("root")
@pytest.mark.parametrize("planted", [".root_cow.discard", ".var_cow.discard", ".starting"])
@pytest.mark.parametrize("kind", ["symlink", "dangling", "directory", "hard link"])
def test_what_lies_in_the_way_is_replaced_and_not_followed(
    kind: str, planted: str, theirs: Broken, tmp_path: Path
) -> None:
    target, seen = tmp_path / "target", theirs.seen(ROOT)
    target.write_text("root's own")
    target.chmod(0o600)
    place = theirs.directory / planted
    if kind == "directory":
        (place / "inner").mkdir(parents=True)
    elif kind == "hard link":
        os.link(target, place)
    else:
        place.symlink_to(target if kind == "symlink" else tmp_path / "missing")
    disks = start(theirs, "root")
    assert shown(disks["root"].path) == seen
    assert not os.path.islink(disks["root"].path)
    assert (target.read_text(), Standing.of(target.stat())) == ("root's own", Standing(0o600, 0, 0))
    assert not (tmp_path / "missing").exists()
    assert not (theirs.directory / ".starting").exists()


@needs("root")
def test_a_new_cow_file_does_not_go_where_a_symlink_leads(theirs: Broken, tmp_path: Path) -> None:
    """A symlink to nothing counts as a file that is there; it is never written through."""
    (theirs.directory / "var_cow").symlink_to(tmp_path / "missing")
    start(theirs)
    assert not (tmp_path / "missing").exists()


@needs("root")
@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo"])
def test_only_a_cow_file_of_the_guests_own_is_copied(kind: str, theirs: Broken, tmp_path: Path) -> None:
    """A copy is the guest's user's to read."""
    secret, cow = tmp_path / "secret", theirs.directory / "root_cow"
    secret.write_text("of root alone")
    secret.chmod(0o600)
    cow.unlink()
    if kind == "symlink":
        cow.symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, cow)
    else:
        os.mkfifo(cow)
    with pytest.raises(DataError, match="COW file is"):
        start(theirs, "root")
    assert b"of root alone" not in b"".join(data for name, data in theirs.files().items() if "discard" in name)
    assert Standing.of(os.stat(theirs.directory)) == _DIRECTORY


@needs("root")
def test_whoever_is_not_root_may_copy_through_a_symlink() -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as site:
        os.chmod(site, 0o711)
        broken = Broken(SmallerSite(site)).make()
        seen = broken.write(ROOT, 1, 2, word="work")
        cow = broken.directory / "root_cow"
        cow.rename(broken.directory / "elsewhere")
        cow.symlink_to(broken.directory / "elsewhere")
        for path in (broken.directory, *broken.directory.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        with without_rights():
            disks = start(broken, "root")
        assert shown(disks["root"].path) == seen
        assert os.stat(disks["root"].path).st_uid == NOBODY


@needs("root")
def test_a_start_that_dies_while_files_are_made_is_taken_up_by_the_next(theirs: Broken) -> None:
    before, seen, deaths = theirs.files(), theirs.seen(ROOT), 0
    for after in range(200):
        for name in theirs.names - before.keys():
            os.unlink(theirs.directory / name)
        try:
            with failing(after, Way.DEAD, calls=_CALLS):
                start(theirs, "root")
            break
        except Died:
            deaths += 1
        assert {name: data for name, data in theirs.files().items() if name in before} == before
        disks = start(theirs, "root")
        assert (shown(disks["root"].path), shown(disks["var"].path)) == (seen, theirs.bases["var"])
        assert theirs.names == before.keys() | {"var_cow", ".root_cow.discard"}
        assert Standing.of(os.stat(theirs.directory)) == _DIRECTORY
    assert deaths > 5


@needs("root")
def test_a_directory_that_a_killed_start_left_is_given_back(theirs: Broken) -> None:
    os.chown(theirs.directory, 0, STRANGER)
    os.chmod(theirs.directory, 0o1711)
    (theirs.directory / ".starting").mkdir(0o700)
    (theirs.directory / ".starting" / ".root_cow.discard").write_text("half of it")
    start(theirs, "root")
    assert Standing.of(os.stat(theirs.directory)) == _DIRECTORY
    assert not (theirs.directory / ".starting").exists()
