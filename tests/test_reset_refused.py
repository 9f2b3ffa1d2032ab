"""What is not reset: of running guests, through what strangers planted; the guest stays as it was."""

import dataclasses
import os
from pathlib import Path

import pytest

from tests.kit.peers import mounted, needs, require
from tests.kit.resets import STRANGER, reset
from tests.kit.restorable import HOME, ROOT, VAR, Broken, SmallerSite, SmallSite, broken_guest
from umldisk.build.ownership import plan_ownership
from umldisk.checkpoint.catalog import CATALOG_NAME
from umldisk.config.guest import Guest
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError, StorageError, UsageError
from umldisk.guest import rundir
from umldisk.ops.restoring import evidence, planning, restore, stages
from umldisk.ops.restoring.planning import Purpose, Wish
from umldisk.ops.restoring.resetting import command
from umldisk.ops.running.reset import reset_guest
from umldisk.system import locks
from umldisk.system.swapping import Standing

_DEFAULTS = ("root_cow", "home_cow", "swap_fs")


class _SiteWithVarAlone(SmallSite):
    """A site whose guests have nothing that is reset by default."""

    drives = (VAR,)


@pytest.fixture
def broken(tmp_path: Path) -> Broken:
    return broken_guest(SmallerSite(str(tmp_path / "site")))


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("name", ["root_cow", "var_cow", "home_fs", "swap_fs"])
def test_a_running_guest_is_left_alone(name: str, now: bool, dry_run: bool, broken: Broken) -> None:
    before = broken.files()
    with open(broken.directory / name, "r+b") as user:
        assert locks.try_lock(user.fileno(), exclusive=True)
        with pytest.raises(BusyError):
            reset(broken, now=now, dry_run=dry_run)
    assert broken.files() == before
    assert broken.evidence == []


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_guest_that_is_being_started_is_left_alone(dry_run: bool, broken: Broken) -> None:
    """It may not have opened a disk yet."""
    before = broken.files()
    with rundir.claim(broken.site.run_directory(broken.name)):
        with pytest.raises(BusyError):
            reset(broken, dry_run=dry_run)
        with pytest.raises(BusyError):
            broken.restore(dry_run=dry_run)
    assert broken.files() == before
    reset(broken)


def test_what_does_not_exist_is_refused(broken: Broken, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such guest"):
        reset_guest(broken.site, "other")
    with pytest.raises(UsageError):
        reset_guest(broken.site, "../x")
    with pytest.raises(UsageError, match="no such drive"):
        reset(broken, "etc")
    os.unlink(broken.directory / "home_fs")
    with pytest.raises(NoInputError, match="cannot open"):
        reset(broken, "home")
    alone = Broken(_SiteWithVarAlone(str(tmp_path / "alone"))).make()
    with pytest.raises(UsageError, match="by default") as refused:
        reset(alone)
    assert refused.value.hint == "name the drives: var"


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_what_cannot_be_moved_is_refused_first(kind: str, now: bool, broken: Broken, tmp_path: Path) -> None:
    cow = broken.directory / "root_cow"
    cow.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        cow.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(cow)
    else:
        cow.mkdir()
    elsewhere, home = (tmp_path / "elsewhere").read_bytes(), broken.seen(HOME)
    with pytest.raises(DataError, match="not a regular file"):
        reset(broken, now=now, glance=now)
    assert (tmp_path / "elsewhere").read_bytes() == elsewhere
    assert broken.seen(HOME) == home


def test_an_unfinished_build_is_finished_first(broken: Broken) -> None:
    (broken.directory / ".ready").mkdir()
    with pytest.raises(DataError, match="cut off"):
        reset(broken)


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
        reset(broken)
    assert broken.files() == before
    assert broken.evidence == []


# -- dry run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [False, True])
def test_a_rehearsal_tells_the_plan_and_changes_nothing(now: bool, broken: Broken) -> None:
    def look() -> dict[Path, tuple[int, ...]]:
        paths = sorted(Path(broken.site.directory).rglob("*"))
        found = {path: path.stat() for path in paths if not path.name.startswith(CATALOG_NAME)}
        return {path: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for path, s in found.items()}

    before = look()
    report = reset(broken, now=now, dry_run=True)
    assert look() == before
    assert report.dry_run
    assert report.steps[0].startswith("remove root_cow, home_cow, swap_fs" if now else "keep root_cow, home_cow, swap")
    assert sum(file.changed_bytes for file in report.removed[:2]) == (8 * 512 if now else 0)


# -- owners and strangers ---------------------------------------------------------------------------------------------


@needs("root")
@pytest.mark.parametrize("now", [False, True])
def test_everything_stands_as_a_build_leaves_it(now: bool, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(guest: Guest, **_options: object) -> object:
        return dataclasses.replace(
            plan_ownership(guest, is_root=True),
            directory=Standing(0o711, STRANGER, STRANGER),
            writable=Standing(0o600, STRANGER, STRANGER),
        )

    monkeypatch.setattr(restore, "plan_ownership", theirs)
    os.chown(broken.directory, STRANGER, STRANGER)
    os.chmod(broken.directory, 0o711)
    reset(broken, now=now)
    standings = {name: Standing.of(os.stat(broken.directory / name)) for name in _DEFAULTS}
    assert set(standings.values()) == {Standing(0o600, STRANGER, STRANGER)}
    assert Standing.of(os.stat(broken.directory)) == Standing(0o711, STRANGER, STRANGER)
    assert [Standing.of(kept.stat()) for kept in broken.evidence] == ([] if now else [Standing(0o500, 0, 0)])


@needs("root")
@pytest.mark.parametrize("name", [".restored", ".returning", ".restoring"])
def test_a_plan_that_the_guests_user_planted_is_not_followed(name: str, broken: Broken) -> None:
    planted = broken.directory / name
    (planted / "new").mkdir(parents=True)
    (planted / "new" / "root_cow").write_text("planted")
    (planted / "plan.json").write_text("{}")
    for path in (planted, *planted.rglob("*")):
        os.chown(path, STRANGER, STRANGER)
    report = reset(broken, now=True)
    assert not report.resumed
    assert broken.seen(ROOT) == broken.bases["root"]
    assert not planted.exists()


def test_a_stage_that_is_a_symlink_is_not_followed(broken: Broken, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "new").mkdir(parents=True)
    for name in (".restoring", ".restored", ".returning"):
        (broken.directory / name).symlink_to(tmp_path / "elsewhere")
    reset(broken, now=True)
    assert os.listdir(tmp_path / "elsewhere") == ["new"]
    assert broken.seen(ROOT) == broken.bases["root"]


@needs("root")
def test_evidence_on_another_file_system_is_refused_first(broken: Broken, tmp_path: Path) -> None:
    require("tmpfs")
    before = broken.files()
    with mounted("tmpfs", tmp_path) as point:
        os.symlink(point, f"{broken.site.directory}/evidence")
        with pytest.raises(CannotCreateError, match="another file system"):
            reset(broken)
        assert broken.files() == before
        reset(broken, now=True)
        assert os.listdir(point) == []


# -- the wish ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(), "umldisk restore blackdance"),
        (Wish(number=12, drives=("var", "root")), "umldisk restore --drive var --drive root blackdance 12"),
        (Wish(purpose=Purpose.RESET), "umldisk reset blackdance"),
        (Wish(drives=("tmp", "swap"), purpose=Purpose.RESET), "umldisk reset blackdance tmp swap"),
        (Wish(purpose=Purpose.RESET, keeps_evidence=False), "umldisk reset --now blackdance"),
    ],
)
def test_what_is_unfinished_names_the_command_that_was_given(wish: Wish, words: str, broken: Broken) -> None:
    assert command("blackdance", wish) == words
    plan = planning.plan_restore(
        broken.guest,
        {},
        wish=wish,
        bases={},
        present=[],
        time=broken.clock.now,
        evidence="blackdance-1",
        known={},
    )
    assert planning.parse(plan.build()) == plan
    stages.begin(broken.guest.directory, plan)
    stages.commit(broken.guest.directory, b"{}")
    with pytest.raises(BusyError, match=f"a {wish.purpose.value} of this guest was not finished") as refused:
        stages.require_finished(broken.guest)
    assert refused.value.hint == f"finish it with {words}"


def test_the_order_of_the_words_does_not_matter(broken: Broken) -> None:
    report = reset(broken, "home", "root", "home")
    assert [drive.name for drive in report.drives] == ["root", "home"]
