"""Locks against other processes: ours, and POSIX ones as the UML kernel takes them."""

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.children import child
from tests.reliability.scenes import fingerprints, run
from umldisk.errors import BusyError, StorageError
from umldisk.system import locks
from umldisk.system.files import open_disk
from umldisk.system.locks import Holder, holder, try_lock, umid_of

Takes = Callable[[int, bool], None]
READ, WRITE = False, True
_KINDS = {READ: "LOCK_SH", WRITE: "LOCK_EX"}

# Each child takes one lock.
_POSIX_CHILD = """
import fcntl, os
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(fd, getattr(fcntl, sys.argv[2]) | fcntl.LOCK_NB)
"""
_OUR_CHILD = """
import os
from umldisk.system import locks
fd = os.open(sys.argv[1], os.O_RDWR)
locks.lock(fd, sys.argv[1], exclusive=sys.argv[2] == "LOCK_EX")
"""
CHILDREN = {"posix": _POSIX_CHILD, "ours": _OUR_CHILD}


def held(
    path: Path, kind: str, *, exclusive: bool, words: tuple[str, ...] = ()
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Let a child process hold a lock; `words` stand on its command line."""
    return child(CHILDREN[kind], str(path), _KINDS[exclusive], *words)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "root_fs"
    path.write_bytes(b"x" * 4096)
    return path


every_holder = pytest.mark.parametrize("kind", CHILDREN)


@every_holder
@pytest.mark.parametrize("theirs", [READ, WRITE], ids=["they-read", "they-write"])
@pytest.mark.parametrize("ours", [READ, WRITE], ids=["we-read", "we-write"])
def test_only_readers_share(image: Path, kind: str, theirs: bool, ours: bool) -> None:
    with held(image, kind, exclusive=theirs), open_disk(image, writable=True) as disk:
        shared = not theirs and not ours
        assert try_lock(disk.fd, exclusive=ours) is shared


@every_holder
def test_the_refusal_names_the_process(image: Path, kind: str) -> None:
    with held(image, kind, exclusive=True) as holding, open_disk(image) as disk:
        with pytest.raises(BusyError) as caught:
            locks.lock(disk.fd, str(image), exclusive=False)
        assert caught.value.pid == holding.pid
        assert caught.value.where == str(image)
        assert f"PID {holding.pid}" in caught.value.line()
        assert caught.value.hint


@every_holder
def test_the_refusal_names_the_guest_when_it_is_one(image: Path, kind: str) -> None:
    with held(image, kind, exclusive=True, words=("mem=64M", "umid=mailhost")) as holding, open_disk(image) as disk:
        with pytest.raises(BusyError) as caught:
            locks.lock(disk.fd, str(image), exclusive=False)
        assert (caught.value.pid, caught.value.umid) == (holding.pid, "mailhost")


@every_holder
def test_the_holder_is_known_without_asking_for_the_lock(image: Path, kind: str) -> None:
    with open_disk(image, writable=True) as disk:
        assert holder(disk.fd) is None
        with held(image, kind, exclusive=False) as holding:
            assert holder(disk.fd) == Holder(holding.pid, exclusive=False)
            assert holder(disk.fd, exclusive=False) is None
        with held(image, kind, exclusive=True) as holding:
            assert holder(disk.fd) == Holder(holding.pid, exclusive=True)
        assert holder(disk.fd) is None


@every_holder
def test_a_lock_dies_with_its_process(image: Path, kind: str) -> None:
    with open_disk(image, writable=True) as disk, held(image, kind, exclusive=True) as holding:
        assert not try_lock(disk.fd, exclusive=True)
        holding.kill()
        holding.wait(timeout=20)
        assert try_lock(disk.fd, exclusive=True)


def _takes_posix_lock(path: str, exclusive: bool) -> int:
    """Return 0 when a POSIX lock is to be had, else the errno that UML would print."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.lockf(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


def posix_lock_from_a_child(path: Path, *, exclusive: bool) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_takes_posix_lock, (str(path), exclusive))


@pytest.mark.parametrize(
    ("ours", "theirs", "refused"),
    [(WRITE, WRITE, True), (WRITE, READ, True), (READ, WRITE, True), (READ, READ, False)],
)
def test_our_lock_stops_a_guest(image: Path, ours: bool, theirs: bool, refused: bool) -> None:
    with open_disk(image, writable=True) as disk:
        locks.lock(disk.fd, str(image), exclusive=ours)
        answer = posix_lock_from_a_child(image, exclusive=theirs)
    assert (answer in (errno.EAGAIN, errno.EACCES)) is refused
    assert posix_lock_from_a_child(image, exclusive=True) == 0


def test_opening_and_closing_the_file_elsewhere_in_this_process_keeps_the_lock(image: Path) -> None:
    with open_disk(image, writable=True) as disk:
        locks.lock(disk.fd, str(image), exclusive=True)
        open_disk(image).close()
        assert posix_lock_from_a_child(image, exclusive=False) != 0


def test_two_openings_in_one_process_exclude_each_other(image: Path) -> None:
    with ExitStack() as opened:
        first = opened.enter_context(open_disk(image, writable=True))
        second = opened.enter_context(open_disk(image, writable=True))
        assert try_lock(first.fd, exclusive=True)
        assert not try_lock(second.fd, exclusive=False)
        first.close()
        assert try_lock(second.fd, exclusive=True)


def test_a_lock_upgrade_waits_for_nobody(image: Path) -> None:
    with open_disk(image, writable=True) as disk, held(image, "posix", exclusive=False) as holding:
        locks.lock(disk.fd, str(image), exclusive=False)
        with pytest.raises(BusyError) as caught:
            locks.lock(disk.fd, str(image), exclusive=True)
        assert caught.value.pid == holding.pid


def test_a_file_system_that_cannot_lock_is_an_error_and_not_a_lock(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> bytes:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with open_disk(image) as disk:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
        with pytest.raises(StorageError, match="cannot lock"):
            locks.lock(disk.fd, str(image), exclusive=False)


# -- umid -----------------------------------------------------------------------------------------


@contextmanager
def sleeping(*words: str) -> Iterator[int]:
    """Run a process with these words on its command line; yield its PID."""
    with child("", *words) as sleeper:
        yield sleeper.pid


def test_the_umid_of_a_guest_that_was_given_one() -> None:
    with sleeping("umid=first", "umid=last") as pid:
        assert umid_of(pid) == "last"


def test_the_umid_of_a_guest_that_chose_one_is_found_in_its_directory(tmp_path: Path) -> None:
    with sleeping(f"uml_dir={tmp_path}") as pid:
        for name, contents in [("aaaaaa", "1\n"), ("bbbbbb", f"{pid}\n"), ("cccccc", "rubbish")]:
            (tmp_path / name).mkdir()
            (tmp_path / name / "pid").write_text(contents)
        (tmp_path / "no-directory").touch()
        assert umid_of(pid) == "bbbbbb"


def test_a_directory_that_a_killed_guest_left_does_not_name_the_next_process_with_its_id(tmp_path: Path) -> None:
    with sleeping(f"uml_dir={tmp_path}") as pid:
        for name, age_seconds in (("killed", 60), ("alive", 0)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "pid").write_text(f"{pid}\n")
            then = os.stat(tmp_path / name / "pid").st_mtime - age_seconds
            os.utime(tmp_path / name / "pid", (then, then))
            assert umid_of(pid) == (None if age_seconds else name)


def test_no_guest_has_no_umid(tmp_path: Path) -> None:
    with sleeping(f"uml_dir={tmp_path / 'missing'}") as pid:
        assert umid_of(pid) is None
    assert umid_of(pid) is None  # it has ended


# -- whole commands -------------------------------------------------------------------------------

# Opens the COW file as a command does.
_WORKING_CHILD = """
from umldisk.cow.file import Access, CowFile
change = sys.argv[2] == "write"
opened = CowFile.open(sys.argv[1], access=Access(change_cow=change, change_backing=change))
opened.__enter__()
"""
BUSY = 75
_CONTENTS = b"b" * 4096
COMMANDS = {
    "merge @cow @new": False,
    "merge -d @cow": True,
    "merge -d --reset @cow": True,
    "align @cow": True,
    "rebase @cow @other": True,
    "rebase -u @cow @other": True,
    "diff @other @cow @new": False,
    "create --force @cow @other": True,
}


def working(cow: Path, how: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Let another umldisk have the COW file and its backing file open."""
    return child(_WORKING_CHILD, str(cow), how)


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    for name in ("base", "other"):
        model.write_image(tmp_path / name, _CONTENTS)
    model.write_cow(tmp_path / "cow", tmp_path / "base", {1: b"c" * 512})
    return tmp_path


def umldisk_in(directory: Path, template: str) -> tuple[int, str]:
    words = [str(directory / word[1:]) if word.startswith("@") else word for word in template.split()]
    code, _out, said = run(words)
    return code, said


@pytest.mark.parametrize("how", ["read", "write"])
@pytest.mark.parametrize("template", COMMANDS)
def test_two_umldisks_never_interleave(disks: Path, template: str, how: str) -> None:
    before = fingerprints(disks)
    with working(disks / "cow", how) as holding:
        code, said = umldisk_in(disks, template)
        if how == "read" and not COMMANDS[template]:
            assert code == 0, said
            return
        assert code == BUSY, said
        assert f"PID {holding.pid} " in said
        assert said.splitlines()[1].startswith("hint: ")
        assert fingerprints(disks) == before
    code, said = umldisk_in(disks, template)
    assert code == 0, said


@pytest.mark.parametrize("name", ["cow", "base"])
@pytest.mark.parametrize("template", COMMANDS)
def test_a_disk_in_a_guests_hands_is_busy(disks: Path, template: str, name: str) -> None:
    """UML holds a write lock on the COW file and a read lock on its backing file."""
    before = fingerprints(disks)
    is_cow = name == "cow"
    with held(disks / name, "posix", exclusive=is_cow, words=("umid=mailhost",)) as holding:
        code, said = umldisk_in(disks, template)
        if not is_cow and "-d" not in template:
            assert code == 0, said  # who only reads the backing file disturbs nobody
            return
        assert code == BUSY, said
        assert f"PID {holding.pid}, umid mailhost " in said
        assert fingerprints(disks) == before
    code, said = umldisk_in(disks, template)
    assert code == 0, said


def test_a_sibling_in_a_guests_hands_stops_a_merge_that_would_change_it(disks: Path) -> None:
    model.write_cow(disks / "sibling", disks / "base", {2: b"s" * 512})
    before = fingerprints(disks)
    with held(disks / "sibling", "posix", exclusive=True) as holding:
        code, said = umldisk_in(disks, "merge -d --keep-siblings @cow")
        assert code == BUSY, said
        assert f"PID {holding.pid} " in said
        assert fingerprints(disks) == before


@pytest.mark.parametrize("command", ["info", "check", "map"])
def test_looking_needs_no_lock(disks: Path, command: str) -> None:
    with held(disks / "cow", "posix", exclusive=True) as holding:
        code, _out, said = run([command, str(disks / "cow")])
        assert code in (0, 1), said
        if command == "info":
            assert f"PID {holding.pid}" in run(["info", str(disks / "cow")])[1]


def test_a_real_merge_holds_its_disks_until_it_ends(tmp_path: Path) -> None:
    model.write_image(tmp_path / "base", b"b" * (1 << 20))
    model.write_cow(tmp_path / "cow", tmp_path / "base", {1: b"c" * 512})
    command = [sys.executable, "-m", "umldisk", "merge", str(tmp_path / "cow"), "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as merging:
        assert merging.stdout is not None
        assert merging.stdout.read(1) == b"b"  # the rest does not fit into a pipe: it waits for a reader
        code, said = umldisk_in(tmp_path, "merge -d @cow")
        assert code == BUSY, said
        assert f"PID {merging.pid} " in said
        assert umldisk_in(tmp_path, "merge @cow @new")[0] == 0
        assert len(merging.stdout.read()) == (1 << 20) - 1
    assert merging.returncode == 0
    assert umldisk_in(tmp_path, "merge -d @cow")[0] == 0
