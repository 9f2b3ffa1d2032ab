"""The whole build: what it makes, refuses, replaces and leaves."""

import os
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import crew, publish
from umldisk.config.site import Site
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError, StorageError, UsageError
from umldisk.image.drives import DRIVES
from umldisk.image.identify import ImageKind, identify
from umldisk.image.reader import DiskReader
from umldisk.ops.checkpoints.taking import take_checkpoint
from umldisk.ops.provision import BuildOptions, BuildReport, build_guest
from umldisk.system.files import open_disk

pytestmark = needs("mke2fs", "debugfs", "e2fsck", "busybox")

_BASES = [drive.file_name for drive in DRIVES]
_SET = sorted([*_BASES, "manifest.json"])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(str(tmp_path / "site"))


def _visible(directory: str) -> list[str]:
    return sorted(name for name in os.listdir(directory) if name != ".lock")


def _identities(report: BuildReport) -> list[int]:
    return [os.stat(drive.path).st_ino for drive in report.drives]


class _Recorder:
    """A progress listener that writes down what it hears."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.left = 0

    def task(self, name: str, total: int | None = None) -> "_Recorder":
        self.stages.append(name)
        self.left += total or 0
        return self

    def add(self, amount: int) -> None:
        self.left -= amount if self.stages[-1] != "reading the base" else 0

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def test_a_build_makes_five_disks_and_reports_them(site: Site) -> None:
    progress = _Recorder()
    report = build_guest(site, "blackdance", progress=progress)
    assert _visible(report.directory) == _SET
    assert [drive.path for drive in report.drives] == [f"{report.directory}/{n}" for n in _BASES]
    assert report.boot_command.startswith("setarch -R linux mem=64M umid=blackdance ")
    assert report.set_aside is None
    kinds = []
    for drive in report.drives:
        with open_disk(drive.path) as disk:
            assert disk.size_bytes == drive.size_bytes
            kinds.append(identify(DiskReader(disk)))
    assert kinds == [*[ImageKind.EXT4] * 4, ImageKind.SWAP]
    assert sum(drive.allocated_bytes or 0 for drive in report.drives) < 8 << 20
    assert progress.stages == ["reading the base", "laying out the drives", "writing the disks"]
    assert progress.left == 0


def test_existing_disks_are_refused_without_force(site: Site) -> None:
    report = build_guest(site, "blackdance")
    before = _identities(report)
    with pytest.raises(CannotCreateError) as refused:
        build_guest(site, "blackdance")
    assert refused.value.hint == "replace them with --force"
    assert _identities(report) == before


@pytest.mark.parametrize("name", ["swap_fs", "home_cow"])
def test_a_single_file_in_the_way_is_enough(name: str, site: Site) -> None:
    directory = Path(site.guest("blackdance").directory)
    directory.mkdir(parents=True)
    (directory / name).write_text("precious")
    with pytest.raises(CannotCreateError, match=name):
        build_guest(site, "blackdance")
    assert _visible(str(directory)) == [name]


def test_force_replaces_disks_and_sets_cows_aside(site: Site) -> None:
    report = build_guest(site, "blackdance")
    before = _identities(report)
    Path(report.directory, "var_cow").write_text("the guest's work")
    again = build_guest(site, "blackdance", BuildOptions(force=True))
    assert not set(before) & set(_identities(again))
    assert again.set_aside == f"{report.directory}/replaced-1"
    assert sorted(os.listdir(again.set_aside)) == ["manifest.json", "var_cow", "var_fs"]
    assert os.stat(f"{again.set_aside}/var_fs").st_ino == before[1]
    assert _visible(report.directory) == sorted([*_SET, "replaced-1"])


def test_a_rehearsal_makes_nothing(site: Site) -> None:
    report = build_guest(site, "blackdance", BuildOptions(dry_run=True))
    assert report.dry_run
    assert [drive.allocated_bytes for drive in report.drives] == [None] * 5
    assert not os.path.exists(site.directory)


def test_a_rehearsal_refuses_what_a_build_refuses(site: Site) -> None:
    directory = Path(site.guest("blackdance").directory)
    directory.mkdir(parents=True)
    (directory / "root_fs").write_text("x")
    with pytest.raises(CannotCreateError):
        build_guest(site, "blackdance", BuildOptions(dry_run=True))
    assert build_guest(site, "blackdance", BuildOptions(dry_run=True, force=True)).dry_run
    assert os.listdir(directory) == ["root_fs"]


def test_a_name_or_directory_that_cannot_boot_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        build_guest(Site(str(tmp_path / "s")), "../x")
    with pytest.raises(DataError, match="ubd option"):
        build_guest(Site(str(tmp_path / "a,b")), "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageError("full")])
def test_an_interrupted_build_leaves_no_disk(error: BaseException, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(crew, "make_swap_disk", fail)
    with pytest.raises(type(error)):
        build_guest(site, "blackdance")
    assert _visible(site.guest("blackdance").directory) == []
    monkeypatch.undo()
    build_guest(site, "blackdance")


def test_a_missing_tool_is_named_and_leaves_no_disk(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("umldisk.system.process._SYSTEM_DIRECTORIES", str(tmp_path))
    with pytest.raises(NoInputError) as refused:
        build_guest(site, "blackdance")
    assert refused.value.hint == "apt-get install e2fsprogs"
    assert _visible(site.guest("blackdance").directory) == []


def test_a_killed_build_is_cleared_by_the_next(site: Site) -> None:
    scratch = Path(site.guest("blackdance").directory, ".building")
    scratch.mkdir(parents=True)
    (scratch / "root_fs").write_text("half done")
    report = build_guest(site, "blackdance")
    assert _visible(report.directory) == _SET


def test_a_publication_that_was_cut_off_is_finished_by_the_next_build(site: Site) -> None:
    guest = site.guest("blackdance")
    report = build_guest(site, "blackdance")
    before = _identities(report)
    complete = Path(guest.directory, ".complete")
    complete.mkdir()
    for name in ("var_fs", "root_fs"):
        os.rename(f"{guest.directory}/{name}", complete / name)
    assert publish.is_unfinished(guest)
    again = build_guest(site, "blackdance")
    assert _identities(again) == before
    assert _visible(guest.directory) == _SET


def test_an_unfinished_restore_is_finished_first(site: Site) -> None:
    report = build_guest(site, "blackdance")
    stage = Path(report.directory, ".restored")
    stage.mkdir(mode=0o700)
    (stage / "plan.json").write_text("{}")
    with pytest.raises(BusyError, match="restore") as refused:
        build_guest(site, "blackdance", BuildOptions(force=True))
    assert refused.value.hint == "finish it with umldisk restore blackdance"
    with pytest.raises(BusyError, match="restore"):
        take_checkpoint(site, "blackdance")
