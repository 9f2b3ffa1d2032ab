"""Root starts a guest whose own user is hostile: he owns the guest's directory, and lays snares between two looks."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.kit.resets import STRANGER
from tests.kit.sites import NAME, BuiltSite
from umldisk.build.ownership import Ownership, plan_ownership
from umldisk.config.guest import Guest
from umldisk.cow import journal
from umldisk.cow.creating import create
from umldisk.ops.running import drives_at_start, starting
from umldisk.system.accounts import User
from umldisk.system.acting import acting_as

pytestmark = needs("linux", "bwrap", "setarch", "mke2fs", "busybox", "root")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[BuiltSite]:
    """Give a site whose guest, with all in its directory, is the stranger's."""

    def plan(guest: Guest, **_options: object) -> Ownership:
        stranger = User("stranger", STRANGER, STRANGER)
        return replace(plan_ownership(guest, is_root=True), account=stranger)

    with tempfile.TemporaryDirectory(prefix="umldisk-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        site = BuiltSite(directory).build()
        other = directory / "link_fs"
        other.symlink_to(site.guest / "root_fs")
        create(site.guest / "root_cow", other)  # so that its header has to be rewritten
        create(site.guest / "var_cow", site.guest / "var_fs")
        for path in (site.guest, *site.guest.iterdir()):
            os.chown(path, STRANGER, STRANGER)
        monkeypatch.setattr(starting, "plan_ownership", plan)
        yield site
        site.end()


def _at_the_last_moment(monkeypatch: pytest.MonkeyPatch, snare: Callable[[], object]) -> None:
    """Lay a snare when everything was looked over."""
    apply = drives_at_start.apply_policies

    def apply_and_wait(*arguments: object, **options: object) -> object:
        disks = apply(*arguments, **options)  # type: ignore[arg-type]
        snare()
        return disks

    monkeypatch.setattr(starting, "apply_policies", apply_and_wait)


def test_the_site_would_start(site: BuiltSite) -> None:
    assert site.good("start", "--dry-run", "--json", NAME).json["uid"] == STRANGER


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_root_writes_no_header_into_somebody_elses_file(
    kind: str, site: BuiltSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, cow = site.directory / "victim_cow", site.guest / "root_cow"
    shutil.copyfile(cow, victim)
    victim.chmod(0o600)
    before = victim.read_bytes()

    def snare() -> None:
        cow.unlink()
        os.link(victim, cow) if kind == "hard link" else cow.symlink_to(victim)

    _at_the_last_moment(monkeypatch, snare)
    said = site("start", NAME)
    assert said.code == 66
    assert "Permission denied" in said.err
    assert victim.read_bytes() == before


def test_root_writes_no_journal_through_a_symlink(site: BuiltSite, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, write = site.directory / "victim", journal.write
    victim.write_text("root's own")
    victim.chmod(0o600)

    def write_into_a_snare(changed: str, *arguments: object, **options: object) -> None:
        os.symlink(victim, journal.path_for(changed))
        write(changed, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "write", write_into_a_snare)
    assert site("start", NAME).code != 0
    assert victim.read_text() == "root's own"
    assert os.geteuid() == 0


@pytest.mark.parametrize(("name", "mode"), [("root_fs", 0o440), ("var_cow", 0o600), ("tmp_fs", 0o600)])
def test_a_disk_that_the_kernel_could_not_use(name: str, mode: int, site: BuiltSite) -> None:
    os.chown(site.guest / name, 0, 0)
    (site.guest / name).chmod(mode)
    said = site("start", "--dry-run", NAME)
    assert said.code == 74
    assert f"{name}, expected a file that UID {STRANGER} may use" in said.err


def test_a_disk_that_the_kernel_could_not_write(site: BuiltSite) -> None:
    (site.guest / "swap_fs").chmod(0o400)
    said = site("start", "--dry-run", NAME)
    assert said.code == 74
    assert "may not write the disk" in said.err


@pytest.mark.parametrize("kind", ["FIFO", "directory", "character device", "loop"])
@pytest.mark.parametrize("name", ["var_cow", "var_fs", "tmp_fs"])
def test_something_else_in_the_place_of_a_disk(kind: str, name: str, site: BuiltSite) -> None:
    path = site.guest / name
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "character device" else path)
    said = site("start", NAME)
    assert (said.code, said.out) == (66, "")
    assert not (site.run / "state.json").exists()


@pytest.mark.parametrize("drives", ["[1, null]", '[{"name": "root"}]', '[{"name": [], "digest": {}}]'])
def test_a_manifest_that_makes_no_sense(drives: str, site: BuiltSite) -> None:
    text = '{"format": 1, "guest": "x", "base": {}, "files": [], "init": 7, "drives": ' + drives + "}"
    (site.guest / "manifest.json").write_text(text)
    assert site("start", "--dry-run", NAME).code == 0


def _look_and_fail() -> None:
    assert (os.geteuid(), os.getegid(), os.getgroups(), os.getuid()) == (STRANGER, STRANGER, [5], 0)
    os.open("/etc/shadow", os.O_RDONLY)


def test_rights_come_back_whatever_happens() -> None:
    groups = os.getgroups()
    with pytest.raises(PermissionError), acting_as(STRANGER, STRANGER, groups=[5]):
        _look_and_fail()
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
