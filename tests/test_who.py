"""Who has a file: held in every way by real processes, asked for by every name."""

import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit import model
from tests.kit.as_user import USER_ID
from tests.kit.children import child
from tests.kit.command_line import CommandLine
from tests.kit.peers import mounted, needs
from tests.kit.runs import Run, process_id
from umldisk.config.site import Site
from umldisk.errors import NoInputError
from umldisk.ops.running.who import FileHolders, Hold, How, who_has
from umldisk.system.holders import DeviceKind

# Each holds the files on its command line in one way, says so, and ends with its stdin.
_HOLDERS = {
    "read": "files = [open(name, 'rb') for name in names]",
    "write": "files = [open(name, 'r+b') for name in names]",
    "posix-write": "files = [open(name, 'r+b') for name in names]; [fcntl.lockf(f, fcntl.LOCK_EX) for f in files]",
    "posix-read": "files = [open(name, 'rb') for name in names]; [fcntl.lockf(f, fcntl.LOCK_SH) for f in files]",
    "ofd-read": "files = [open(name, 'rb') for name in names]; [ofd(f, fcntl.F_RDLCK) for f in files]",
    "ofd-write": "files = [open(name, 'r+b') for name in names]; [ofd(f, fcntl.F_WRLCK) for f in files]",
    "flock": "files = [open(name, 'rb') for name in names]; [fcntl.flock(f, fcntl.LOCK_EX) for f in files]",
    "map-read": "maps = [mapped(name, 'rb', mmap.ACCESS_READ) for name in names]",
    "map-write": "maps = [mapped(name, 'r+b', mmap.ACCESS_WRITE) for name in names]",
    "guest": "files = [open(n, 'r+b' if not i else 'rb') for i, n in enumerate(names)];"
    " [fcntl.lockf(f, fcntl.LOCK_SH if i else fcntl.LOCK_EX) for i, f in enumerate(files)]",
    "nothing": "",
}
_CHILD = """
import ctypes, fcntl, mmap, os, struct
names = sys.argv[2:2 + int(sys.argv[1])]
def ofd(file, kind):
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, 0, 0, 0, 0))
def mapped(name, mode, access):
    # Not mmap.mmap: that keeps a descriptor of its own.
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    with open(name, mode) as file:
        return libc.mmap(None, 4096, 1 if access == mmap.ACCESS_READ else 3, 1, file.fileno(), 0)
%s
"""

_EXPECTED = {
    "read": (How.OPEN_FOR_READING,),
    "write": (How.OPEN_FOR_WRITING,),
    "posix-write": (How.LOCKED_FOR_WRITING, How.OPEN_FOR_WRITING),
    "posix-read": (How.LOCKED_FOR_READING, How.OPEN_FOR_READING),
    "ofd-read": (How.LOCKED_FOR_READING, How.OPEN_FOR_READING),
    "ofd-write": (How.LOCKED_FOR_WRITING, How.OPEN_FOR_WRITING),
    "flock": (How.FLOCKED, How.OPEN_FOR_READING),
    "map-read": (How.MAPPED_FOR_READING,),
    "map-write": (How.MAPPED_FOR_WRITING,),
}


@contextmanager
def held(how: str, *paths: Path, words: tuple[str, ...] = (), cwd: Path | None = None) -> Iterator[int]:
    """Let a child process have the files; `words` stand on its command line. Yields its id."""
    with child(_CHILD % _HOLDERS[how], str(len(paths)), *map(str, paths), *words, cwd=cwd) as holder:
        yield holder.pid


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "root_fs"
    path.write_bytes(b"x" * 4096)
    return path


def holders_of(path: Path, site: Site | None = None) -> FileHolders:
    (found,) = who_has([str(path)], site).files
    return found


def only_hold(path: Path, site: Site | None = None) -> Hold:
    (hold,) = holders_of(path, site).holds
    return hold


# -- ways of having a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", _EXPECTED)
def test_every_way_of_having_a_file_is_found_and_called_by_its_name(image: Path, how: str) -> None:
    with held(how, image) as pid:
        hold = only_hold(image)
        assert (hold.pid, hold.pids, hold.how, hold.former) == (pid, (pid,), _EXPECTED[how], False)
        assert (hold.guest, hold.umid, hold.command) == (None, None, Path(f"/proc/{pid}/comm").read_text().strip())
    assert not holders_of(image).is_held


def test_each_file_has_its_own_answer_and_each_process_its_own_line(image: Path, tmp_path: Path) -> None:
    other, third = tmp_path / "other", tmp_path / "third"
    for path in (other, third):
        path.write_bytes(b"o")
    with held("read", image, other) as first, held("posix-read", image) as second:
        report = who_has([str(image), str(other), str(third)])
        assert [sorted(hold.pid or 0 for hold in file.holds) for file in report.files] == [
            sorted([first, second]),
            [first],
            [],
        ]
        assert report.is_any_held


def test_a_file_is_found_by_all_of_its_names(image: Path, tmp_path: Path) -> None:
    (tmp_path / "symlink").symlink_to(image)
    (tmp_path / "hardlink").hardlink_to(image)
    with held("read", image) as pid:
        assert only_hold(tmp_path / "symlink").pid == pid
        assert only_hold(tmp_path / "hardlink").pid == pid
        assert only_hold(Path(os.path.relpath(image))).pid == pid


def test_this_process_does_not_count(image: Path) -> None:
    with image.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert not holders_of(image).is_held


# -- files that lost their name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["posix-write", "map-write"])
def test_a_removed_file_is_found_by_the_name_it_had(image: Path, how: str) -> None:
    with held(how, image) as pid:
        image.unlink()
        found = holders_of(image)
        assert not found.exists
        (hold,) = found.holds
        assert (hold.pid, hold.former, hold.path, hold.how) == (pid, True, f"{image} (deleted)", _EXPECTED[how])
    with pytest.raises(NoInputError):
        who_has([str(image)])


def test_who_writes_to_a_file_that_was_replaced_is_told_from_who_has_the_new_one(image: Path) -> None:
    with held("write", image) as before:
        new = image.with_name("new")
        new.write_bytes(b"n")
        new.replace(image)
        with held("read", image) as after:
            found = {hold.pid: hold for hold in holders_of(image).holds}
            assert {pid: hold.former for pid, hold in found.items()} == {before: True, after: False}
            assert found[before].how == (How.OPEN_FOR_WRITING,)


def test_a_file_that_was_moved_is_no_longer_what_it_was_called(image: Path) -> None:
    with held("write", image) as pid:
        moved = image.rename(image.with_name("moved"))
        image.write_bytes(b"n")
        assert not holders_of(image).is_held
        assert only_hold(moved).pid == pid


def test_a_file_that_is_called_deleted_is_not(image: Path) -> None:
    odd = image.with_name("root_fs (deleted)")
    odd.write_bytes(b"o" * 4096)
    with held("read", odd) as pid, held("map-read", odd):
        assert not holders_of(image).is_held
        assert pid in [hold.pid for hold in holders_of(odd).holds]


# -- guests -----------------------------------------------------------------------------------------------------------


def test_a_guest_is_called_by_its_umid(image: Path) -> None:
    with held("posix-write", image, words=("mem=64M", "umid=mailhost")):
        hold = only_hold(image)
        assert (hold.guest, hold.umid) == (None, "mailhost")


@pytest.mark.parametrize("option", ["ubd0={}", "ubd12r={}", "ubd0=/x/root_cow,{}", "ubd0={}:/x/base"])
def test_a_guest_that_was_started_with_a_file_and_has_not_opened_it_is_found(image: Path, option: str) -> None:
    with held("nothing", words=("umid=mailhost", option.format(image))) as pid:
        hold = only_hold(image)
        assert (hold.pid, hold.umid, hold.how) == (pid, "mailhost", (How.NAMED,))
    with held("nothing", words=("umid=mailhost", option.format("root_fs")), cwd=image.parent) as pid:
        assert only_hold(image).pid == pid
    with held("nothing", words=("umid=mailhost", option.format(f"{image}.old"), f"root={image}")):
        assert not holders_of(image).is_held


def test_what_is_open_is_not_said_again_to_be_named(image: Path) -> None:
    with held("posix-write", image, words=("umid=mailhost", f"ubd0={image}")):
        assert only_hold(image).how == _EXPECTED["posix-write"]
        image.unlink()
        assert only_hold(image).how == _EXPECTED["posix-write"]


def test_a_backing_file_leads_to_the_cow_files_on_it(image: Path, tmp_path: Path) -> None:
    cow, alien = tmp_path / "root_cow", tmp_path / "alien_cow"
    model.write_cow(cow, image, {1: b"c" * 512})
    model.write_cow(alien, model.write_image(tmp_path / "alien", b"a" * 4096), {})
    with held("guest", cow, image, alien, words=("umid=mailhost",)):
        assert only_hold(image).cow_files == (str(cow),)
        assert only_hold(image).how == (How.LOCKED_FOR_READING, How.OPEN_FOR_READING)
        assert only_hold(cow).cow_files == ()


def test_a_guest_of_the_site_is_called_by_its_name_and_believed_by_its_state_alone(image: Path, tmp_path: Path) -> None:
    site = Site(str(tmp_path))
    for name in ("blackdance", "mirage"):
        (tmp_path / "guests" / name).mkdir(parents=True)
    with held("write", image, words=("umid=mirage",)) as pid, held("read", image, words=("umid=mirage",)) as liar:
        Run(site, "blackdance").begins(process_id(pid))
        found = {hold.pid: (hold.guest, hold.umid) for hold in holders_of(image, site).holds}
        assert found == {pid: ("blackdance", "blackdance"), liar: (None, "mirage")}


# -- devices ----------------------------------------------------------------------------------------------------------


@needs("ext4")
def test_a_loop_device_and_what_is_mounted_of_it_are_found(tmp_path: Path) -> None:
    directory = tmp_path / "a b\\c"
    directory.mkdir()
    with mounted("ext4", directory) as point:
        image = directory / "ext4.img"
        loop, mount = holders_of(image).devices
        assert (loop.kind, loop.former) == (DeviceKind.LOOP, False)
        assert Path("/sys/block", Path(loop.name).name, "loop/backing_file").read_text() == f"{image}\n"
        assert (mount.kind, mount.name) == (DeviceKind.MOUNT, str(point))
        assert [device.kind for device in holders_of(Path(loop.name)).devices] == [DeviceKind.MOUNT]
        image.unlink()
        assert [(device.kind, device.former) for device in holders_of(image).devices] == [
            (DeviceKind.LOOP, True),
            (DeviceKind.MOUNT, False),
        ]


# -- what cannot be seen ----------------------------------------------------------------------------------------------

_AS_USER = """
import json, os, sys
import umldisk.cli.output, umldisk.guest.stopping, umldisk.ops.running.who
from umldisk.ops.running.who import who_has
os.setgroups([])
os.setresgid(*[int(sys.argv[1])] * 3)
os.setresuid(*[int(sys.argv[1])] * 3)
print(json.dumps(umldisk.cli.output.plain(who_has(sys.argv[2:]))))
"""


def seen_by_a_user(*paths: Path) -> Any:
    """Ask as an ordinary user, in another process."""
    command = [sys.executable, "-c", _AS_USER, str(USER_ID), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.fixture
def public() -> Iterator[Path]:
    """Make a file in a directory that every user may look into."""
    with tempfile.TemporaryDirectory(prefix="umldisk-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        path = Path(name, "root_fs")
        path.write_bytes(b"x" * 4096)
        path.chmod(0o644)
        yield path


@needs("root")
def test_who_is_no_root_is_told_of_locks_all_the_same_and_what_stays_unseen(public: Path) -> None:
    with held("posix-write", public, words=("umid=mailhost",)) as pid:
        report = seen_by_a_user(public)
        (file,) = report["files"]
        (hold,) = file["holds"]
        assert (hold["pid"], hold["umid"], hold["how"]) == (pid, "mailhost", ["locked for writing"])
        assert report["unseen_processes"] >= 1
    with held("ofd-read", public):
        (file,) = seen_by_a_user(public)["files"]
        (hold,) = file["holds"]
        assert (hold["pid"], hold["how"]) == (None, ["locked for reading"])
        public.chmod(0o600)
        (file,) = seen_by_a_user(public)["files"]
        assert (file["holds"], file["lock_known"]) == ([], False)


@needs("root")
def test_root_misses_no_process_of_its_children(public: Path) -> None:
    with held("read", public) as pid:
        assert only_hold(public).pid == pid
        assert seen_by_a_user(public)["files"][0]["holds"] == []


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def umldisk(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_the_exit_code_says_whether_somebody_has_it_and_the_text_who(umldisk: CommandLine, image: Path) -> None:
    nobody = umldisk("who", image)
    assert (nobody.code, nobody.lines) == (0, [f"{image}: nobody"])
    with held("posix-write", image) as pid:
        said = umldisk("who", image)
        assert said.code == 1
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        assert said.lines == [f"{image}:", f"  PID {pid} ({name}): locked for writing, open for writing"]
        assert umldisk("who", "-q", image).out == ""
        (file,) = umldisk("who", "--json", image).json["files"]
        assert file["holds"][0]["how"] == ["locked for writing", "open for writing"]
        image.unlink()
        assert "which was replaced or removed since" in umldisk("who", image).out


def test_what_is_no_disk_is_refused(umldisk: CommandLine, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "no/such", "."):
        said = umldisk("who", tmp_path / name)
        assert (said.code, said.out) == (66, ""), name
    assert umldisk("who", "").code == 66
    assert umldisk("who").code == 2
