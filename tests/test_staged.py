"""Putting files in place: whole or not at all, and what a killed process leaves behind."""

import errno
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.faults import Way, failing
from tests.kit.things import fifo, symlink_loop, unix_socket
from umldisk.cow import journal
from umldisk.errors import CannotCreateError, UmldiskError
from umldisk.system.staging import require_place, staged, sweep, write_file

OLD, NEW = b"old contents", b"new contents"


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.fixture(params=["unnamed", "hidden", "no-proc"])
def stage_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with unnamed stage files, where the file system has none, and where /proc is missing."""
    if request.param == "hidden":
        without_unnamed_files(monkeypatch)
    if request.param == "no-proc":
        real = os.path.isdir
        monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self/fd" and real(path))
    return str(request.param)


def without_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)


def stage(path: Path | str, contents: bytes = NEW, **options: object) -> None:
    with staged(path, **options) as file:  # type: ignore[arg-type]
        file.write_at(0, contents)


@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_the_file_appears_whole_at_the_end(tmp_path: Path, replace: bool, sync: bool) -> None:
    target = tmp_path / "new"
    with staged(target, replace=replace, sync=sync) as file:
        file.write_at(0, NEW)
        assert not target.exists()
    assert target.read_bytes() == NEW
    assert names(tmp_path) == ["new"]


@pytest.mark.usefixtures("stage_kind")
def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    with staged(target, replace=True) as file:
        file.write_at(0, NEW)
        assert target.read_bytes() == OLD
    assert target.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


@pytest.mark.usefixtures("stage_kind")
def test_an_existing_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    with pytest.raises(CannotCreateError, match="exists already") as caught:
        stage(target)
    assert caught.value.hint == "replace it with --force"
    assert (target.read_bytes(), names(tmp_path)) == (OLD, ["file"])


@pytest.mark.usefixtures("stage_kind")
def test_a_file_that_appears_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    target = tmp_path / "file"

    def race() -> None:
        with staged(target) as file:
            file.write_at(0, NEW)
            target.write_bytes(OLD)

    with pytest.raises(CannotCreateError, match="exists already"):
        race()
    assert (target.read_bytes(), names(tmp_path)) == (OLD, ["file"])


@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("replace", [False, True])
def test_when_the_block_fails_nothing_has_happened(tmp_path: Path, replace: bool) -> None:
    target = tmp_path / "file"
    if replace:
        target.write_bytes(OLD)
    before = names(tmp_path)

    def fail() -> None:
        with staged(target, replace=replace) as file:
            file.write_at(0, NEW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == before
    assert not replace or target.read_bytes() == OLD


def _kill_while_staging(path: str, hidden: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if hidden:
            without_unnamed_files(patch)
        with staged(path, replace=True) as file:
            file.write_at(0, NEW)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_killed_process_leaves_nothing_that_the_next_does_not_sweep(tmp_path: Path, hidden: bool) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    child = multiprocessing.get_context("spawn").Process(target=_kill_while_staging, args=(str(target), hidden))
    child.start()
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    assert target.read_bytes() == OLD
    assert (len(names(tmp_path)) > 1) is hidden
    stage(tmp_path / "other")
    assert names(tmp_path) == ["file", "other"]


def test_the_sweep_spares_stages_in_use_and_everything_that_is_no_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_unnamed_files(monkeypatch)
    for name in (".hidden", "umldisk-file", ".file.umldisk", "file.umldisk-1234abcd"):
        (tmp_path / name).touch()
    (tmp_path / ".dir.umldisk-1234abcd").mkdir()
    with staged(tmp_path / "file") as file:
        before = names(tmp_path)
        assert len(before) == 6
        sweep(str(tmp_path))
        assert names(tmp_path) == before
        file.write_at(0, NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_the_sweep_spares_the_journal_of_a_hidden_disk(tmp_path: Path) -> None:
    hidden = tmp_path / ".root_fs"
    hidden.touch()
    pending = journal.MergeJournal(cow="/cow", inode=1, size_bytes=1, mtime=1, reset=False)
    journal.write(str(hidden), pending)
    stage(tmp_path / "other")
    assert journal.read(str(hidden)) == pending


@pytest.mark.usefixtures("stage_kind")
def test_through_a_symlink_the_file_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "file", tmp_path / "link"
    target.write_bytes(OLD)
    link.symlink_to("real/file")
    stage(link, replace=True)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert names(tmp_path / "real") == ["file"]


@pytest.mark.usefixtures("stage_kind")
def test_a_relative_path_means_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage(Path("file"))
    assert (tmp_path / "file").read_bytes() == NEW


@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    "name",
    ["x" * 255, "\N{EURO SIGN}" * 85, os.fsdecode(b"\xff" * 255), ".hidden", "a\nb"],
    ids=["long", "long-in-utf-8", "no-text", "hidden", "newline"],
)
def test_any_name_that_a_file_can_have(tmp_path: Path, name: str, replace: bool) -> None:
    if replace:
        (tmp_path / name).write_bytes(OLD)
    stage(tmp_path / name, replace=replace)
    assert (tmp_path / name).read_bytes() == NEW
    assert names(tmp_path) == [name]


@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_mode_and_owner(tmp_path: Path, mode: int) -> None:
    pattern = tmp_path / "pattern"
    pattern.touch()
    pattern.chmod(mode)
    if os.geteuid() == 0:
        os.chown(pattern, 12345, 54321)
    stage(tmp_path / "like", like=pattern.stat())
    stage(tmp_path / "with", mode=mode)
    assert stat.S_IMODE((tmp_path / "with").stat().st_mode) == mode
    like = (tmp_path / "like").stat()
    assert (like.st_mode, like.st_uid, like.st_gid) == (
        pattern.stat().st_mode,
        pattern.stat().st_uid,
        pattern.stat().st_gid,
    )


@pytest.mark.usefixtures("stage_kind")
def test_without_a_wish_the_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        stage(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


BAD_TARGETS: dict[str, Callable[[Path], Path | str]] = {
    "directory": lambda path: path,
    "fifo": lambda path: fifo(path / "x"),
    "socket": lambda path: unix_socket(path / "x"),
    "null": lambda _path: Path("/dev/null"),
    "missing-directory": lambda path: path / "missing" / "file",
    "below-a-file": lambda _path: Path(__file__) / "file",
    "name-too-long": lambda path: path / ("x" * 300),
    "loop": lambda path: symlink_loop(path / "x"),
}


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("kind", BAD_TARGETS)
def test_a_target_that_cannot_be_made_is_refused(tmp_path: Path, kind: str, replace: bool) -> None:
    target = BAD_TARGETS[kind](tmp_path)
    before = names(tmp_path)
    with pytest.raises(CannotCreateError):
        stage(target, replace=replace)
    assert names(tmp_path) == before


def test_a_place_is_tried_without_a_trace(tmp_path: Path, stage_kind: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    for name in ("file", "new"):
        require_place(str(tmp_path / name))
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD
    for path in (tmp_path, tmp_path / "not there/file"):
        with pytest.raises(CannotCreateError):
            require_place(str(path))


def test_a_nul_in_the_name_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UmldiskError) as caught:
        stage(Path(f"{tmp_path}/a\0b"))
    assert caught.value.exit_code == 73


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    yield target
    stage(target, replace=True)
    assert target.read_bytes() == NEW
    assert names(tmp_path) == ["file"]


@pytest.mark.usefixtures("stage_kind")
@pytest.mark.parametrize("way", [Way.RAISE, Way.SHORT, Way.TORN, Way.FULL])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whatever_fails_the_target_is_old_or_new(prepared: Path, way: Way, error: int) -> None:
    with failing(None) as tally:
        stage(prepared, replace=True, mode=0o644)
    for after in range(len(tally.calls)):
        prepared.write_bytes(OLD)
        with failing(after, way, error=error):
            try:
                stage(prepared, replace=True, mode=0o644)
            except UmldiskError as failure:
                assert failure.exit_code == 74  # noqa: PT017  (a success is right as well)
                assert way is not Way.SHORT
        assert prepared.read_bytes() in (OLD, NEW)
        assert way is not Way.SHORT or prepared.read_bytes() == NEW


def test_write_file_replaces_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "note"
    write_file(str(path), OLD)
    write_file(str(path), NEW, mode=0o600)
    assert path.read_bytes() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["note"]
