"""Opening disk images: what is refused and how, reading and writing at places, and who is the same file."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.faults import Way, failing, without_rights
from tests.kit.peers import needs
from tests.kit.things import dangling, fifo, symlink_loop, unix_socket
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.system.files import identify, open_disk, refuse_same_file
from umldisk.system.staging import remove, sync_directory

NO_DISKS: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "missing": (lambda path: path, "No such file"),
    "below-a-file": (lambda _path: Path(__file__) / "x", "Not a directory"),
    "empty-name": (lambda _path: "", "No such file"),
    "nul-in-name": (lambda path: f"{path}\0x", "null"),
    "name-too-long": (lambda path: path.parent / ("x" * 300), "too long"),
    "dangling": (dangling, "No such file"),
    "loop": (symlink_loop, "symbolic links"),
    "directory": (lambda path: path.parent, "a directory"),
    "fifo": (fifo, "a FIFO"),
    "socket": (unix_socket, "a socket"),
    "zero": (lambda _path: Path("/dev/zero"), "a character device"),
    "null": (lambda _path: Path("/dev/null"), "a character device"),
    "terminal": (lambda _path: Path("/dev/tty"), "a character device"),
}


@pytest.mark.timeout(5)
@pytest.mark.parametrize("writable", [False, True], ids=["reading", "writing"])
@pytest.mark.parametrize("kind", NO_DISKS)
def test_what_is_no_disk_is_refused_at_once(tmp_path: Path, kind: str, writable: bool) -> None:
    make, words = NO_DISKS[kind]
    path = make(tmp_path / "thing")
    with pytest.raises(NoInputError) as caught:
        open_disk(path, writable=writable)
    assert caught.value.exit_code == 66
    assert caught.value.where == os.fspath(path)
    assert words in caught.value.line()


@pytest.mark.timeout(5)
def test_a_file_that_turns_into_a_fifo_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "thing", os.stat

    def swap(name: str) -> os.stat_result:
        status = real(name)
        os.unlink(name)
        os.mkfifo(name)
        return status

    path.touch()
    descriptors = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "stat", swap)
    with pytest.raises(NoInputError, match="a FIFO"):
        open_disk(path)
    assert len(os.listdir("/proc/self/fd")) == descriptors


@needs("root")
@pytest.mark.parametrize(("mode", "writable"), [(0o000, False), (0o000, True), (0o444, True)])
def test_a_file_that_may_not_be_opened_is_refused(tmp_path: Path, mode: int, writable: bool) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    path = tmp_path / "disk"
    path.touch(mode=mode)
    with without_rights(), pytest.raises(NoInputError, match="Permission denied") as caught:
        open_disk(path, writable=writable)
    assert caught.value.exit_code == 66


def test_an_open_disk_knows_itself_under_every_name(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 700)
    os.utime(path, ns=(0, 1_234_567_890_999_999_999))
    (tmp_path / "symlink").symlink_to("disk")
    (tmp_path / "hardlink").hardlink_to(path)
    with open_disk(path) as disk:
        assert (disk.size_bytes, disk.mtime_seconds, disk.is_block_device) == (700, 1_234_567_890, False)
        for name in ("disk", "symlink", "hardlink"):
            assert identify(tmp_path / name) == disk.identity
    assert identify(tmp_path / "missing") is None
    assert identify("nul\0") is None


def test_an_mtime_before_1970_is_rounded_down(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.utime(path, ns=(0, -1))
    with open_disk(path) as disk:
        assert disk.mtime_seconds == -1


def test_reading_and_writing_at_places(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"0123456789")
    with open_disk(path, writable=True) as disk:
        disk.write_at(3, memoryview(b"abc"))
        assert disk.read_at(2, 5) == b"2abc6"
        assert disk.read_at(8, 100) == b"89"
        assert disk.read_at(100, 1) == b""
        disk.sync()


def test_short_writes_are_carried_on(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    contents = bytes(range(256)) * 10
    for after in range(2):
        with open_disk(path, writable=True) as disk, failing(after, Way.SHORT, calls=["pwrite"]) as tally:
            disk.write_at(0, contents)
            disk.write_at(len(contents), contents)
        assert tally.struck
        assert path.read_bytes() == contents * 2


@pytest.mark.parametrize(
    ("call", "verb"),
    [("pread", "read"), ("pwrite", "write"), ("fsync", "sync")],
)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_what_the_system_refuses_is_a_storage_error_with_the_path(
    tmp_path: Path, call: str, verb: str, error: int
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    with open_disk(path, writable=True) as disk, failing(0, error=error, calls=[call]):
        action = {
            "pread": lambda: disk.read_at(0, 1),
            "pwrite": lambda: disk.write_at(0, b"y"),
            "fsync": disk.sync,
        }[call]
        with pytest.raises(StorageError) as caught:
            action()
    assert caught.value.line() == f"cannot {verb}: {os.strerror(error)} ({path})"


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    disk = open_disk(path)
    disk.close()
    disk.close()


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO])
def test_a_directory_that_cannot_be_synced(tmp_path: Path, error: int) -> None:
    with failing(0, error=error, calls=["fsync"]):
        if error == errno.EINVAL:
            sync_directory(str(tmp_path))
            return
        with pytest.raises(StorageError, match="cannot sync"):
            sync_directory(str(tmp_path))


def test_remove_is_content_when_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    remove(str(path))
    remove(str(path))
    assert os.listdir(tmp_path) == []
    with pytest.raises(StorageError, match="cannot remove"):
        remove(str(tmp_path))


def test_an_output_that_is_an_input_is_refused_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    (tmp_path / "symlink").symlink_to("disk")
    (tmp_path / "hardlink").hardlink_to(path)
    (tmp_path / "other").touch()
    with open_disk(path) as disk, open_disk(tmp_path / "other") as other:
        for name in ("disk", "symlink", "hardlink", "../" + tmp_path.name + "/disk"):
            with pytest.raises(DataError, match="one of the inputs"):
                refuse_same_file(tmp_path / name, other, disk)
        refuse_same_file(tmp_path / "new", other, disk)
        refuse_same_file(tmp_path / "other", disk)
