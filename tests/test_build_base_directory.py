"""A directory as a base: what is in it is what comes out, and nothing leads out of it.

`make_rich_tree` and `look_at` serve the other bases too: a tree with everything that an inode can have, and an
independent look at it by lstat, readlink, getxattr and read.
"""

import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest

from tests.kit import things
from tests.kit.peers import mounted, needs
from umldisk.build.bases.base import Base
from umldisk.build.bases.directory import DirectoryBase
from umldisk.build.tree import Entry, FileType, HardLink, Inode, path_bytes, path_text, plant
from umldisk.errors import DataError, NoInputError, StorageError

MIB = 1 << 20
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
LONG = b"n" * 200


@dataclass(frozen=True)
class Look:
    """Everything that two trees must have in common at one path; `links` are all names of the inode."""

    type: FileType
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    digest: str
    target: bytes
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    links: frozenset[bytes]


def make_plain_tree(root: Path) -> None:
    """Make what even an archive of v7 can hold."""
    (root / "etc").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "etc/passwd").write_bytes(b"root:x:0:0\n" * 300)
    (root / "etc/zero").touch()
    (root / "bin").symlink_to("usr/bin")
    (root / "dangling").symlink_to("/no where")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/su").write_bytes(b"\x7fELF" + bytes(508))
    os.link(root / "usr/bin/su", root / "etc/su")
    os.chown(root / "etc/passwd", 1000, 123456)
    modes = {"usr/bin/su": 0o6755, "empty": 0o1777, "etc": 0o2750, "etc/zero": 0}
    for name, mode in modes.items():
        os.chmod(root / name, mode)
    set_times(root, {}, otherwise=1_234_567_890 * 10**9)


def make_rich_tree(root: Path) -> None:
    """Add what GNU and pax archives can hold, and file systems; needs root."""
    make_plain_tree(root)
    base = os.fsencode(root)
    for name in (b"not \xff utf-8", b"new\nline", b" ", b"-rf", b"\xc3\xa9", LONG, LONG[:99], LONG[:100], b"a" * 101):
        Path(path_text(base + b"/" + name)).write_bytes(name)
    deep = base + b"/deep/" + LONG + b"/" + LONG + b"/" + LONG[:150]
    os.makedirs(deep)
    os.symlink(b"t" * 300, deep + b"/link")
    os.link(base + b"/etc/passwd", deep + b"/passwd")
    os.link(base + b"/dangling", base + b"/dangling too", follow_symlinks=False)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "huge", stat.S_IFCHR | 0o600, os.makedev(4095, 1048575))
    os.mknod(root / "sda", stat.S_IFBLK | 0o660, os.makedev(8, 0))
    os.mkfifo(root / "fifo")
    os.chown(root / "sda", 4_000_000_000, 3_000_000_000)
    (root / "sparse").write_bytes(b"head")
    with (root / "sparse").open("r+b") as stream:
        for number in range(1, 60):
            stream.seek(number * MIB)
            stream.write(b"data" * 1024)
        stream.truncate(100 * MIB)
    (root / "hole").touch()
    os.truncate(root / "hole", 5 * MIB)
    os.setxattr(root / "etc/passwd", "user.a=b%c", b"bin\0\xff\n=ary")
    os.setxattr(root / "etc/passwd", "user.empty", b"")
    os.setxattr(root / "usr/bin", "trusted.note", b"x" * 3000)
    os.setxattr(root / "dangling", "trusted.link", b"on a link", follow_symlinks=False)
    os.setxattr(root / "usr/bin/su", "security.capability", CAPABILITY)
    os.setxattr(root / "null", "security.selinux", b"system_u:object_r:null_t:s0\0")
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:777:r,g:3000000000:x", root / "etc/passwd"], check=True)
    subprocess.run(["setfacl", "-m", "u:4321:rwx", "-m", "d:u:99:rx,d:g:98:-", root / "empty"], check=True)
    odd = {"null": -1_500_000_000, "fifo": 1, "sda": 5_000_000_000 * 10**9 + 7, "hole": -(2**31) * 10**9, " ": 0}
    set_times(root, odd, otherwise=1_600_000_000_123_456_789)


def set_times(root: Path, times: dict[str, int], *, otherwise: int) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(0, times.get(path.name, otherwise)), follow_symlinks=False)
    os.utime(root, ns=(0, otherwise))


def paths_below(root: bytes) -> Iterator[bytes]:
    yield b"/"
    for folder, directories, files in os.walk(root):
        yield from (folder[len(root) :] + b"/" + name for name in directories + files)


def look_at(root: Path) -> dict[bytes, Look]:
    """Look at a tree in the file system, attributes of other name spaces than ours left out."""
    base = os.fsencode(root)
    status = {path: os.lstat(base + path) for path in paths_below(base)}
    looks = {}
    for path, seen in status.items():
        place, kind = base + path.rstrip(b"/"), FileType(stat.S_IFMT(seen.st_mode))
        names = os.listxattr(place, follow_symlinks=False)
        xattrs = sorted((name, os.getxattr(place, name, follow_symlinks=False)) for name in names)
        looks[path] = Look(
            kind,
            seen.st_mode & 0o7777,
            (seen.st_uid, seen.st_gid),
            seen.st_mtime_ns,
            sha256(Path(os.fsdecode(place)).read_bytes()).hexdigest() if kind is FileType.FILE else "",
            os.readlink(place) if kind is FileType.SYMLINK else b"",
            (os.major(seen.st_rdev), os.minor(seen.st_rdev)),
            tuple(xattrs),
            frozenset(other for other, twin in status.items() if twin.st_ino == seen.st_ino),
        )
    return looks


def look_at_base(base: Base) -> dict[bytes, Look]:
    """Read a base to its end and look at the tree it makes; contents are digested as they pass."""
    digests: dict[int, str] = {}

    def reading() -> Iterator[Entry | HardLink]:
        for entry in base.entries():
            if isinstance(entry, Entry) and entry.inode.type is FileType.FILE:
                digests[id(entry.inode)] = digest_of(entry.inode)
            yield entry

    with base:
        tree = plant({}, reading())
    names: dict[int, set[bytes]] = {}
    for path, inode in tree.items():
        names.setdefault(id(inode), set()).add(path_bytes(path))
    return {
        path_bytes(path): Look(
            inode.type,
            inode.mode,
            (inode.uid, inode.gid),
            inode.mtime_ns,
            digests.get(id(inode), ""),
            path_bytes(inode.target),
            inode.device,
            inode.xattrs,
            frozenset(names[id(inode)]),
        )
        for path, inode in tree.items()
    }


def digest_of(inode: Inode) -> str:
    """Digest contents with their holes; what is stored of a file of 5 MiB and more here is at most 2 MiB."""
    digest, end, stored = sha256(), 0, 0
    for offset, data in inode.contents.pieces():
        assert offset >= end
        assert data
        for done in range(end, offset, MIB):
            digest.update(bytes(min(MIB, offset - done)))
        digest.update(data)
        end, stored = offset + len(data), stored + len(data)
    assert end <= inode.contents.size_bytes
    for done in range(end, inode.contents.size_bytes, MIB):
        digest.update(bytes(min(MIB, inode.contents.size_bytes - done)))
    assert inode.contents.size_bytes < 5 * MIB or stored < 2 * MIB
    return digest.hexdigest()


@needs("root", "setfacl")
def test_a_directory_is_what_lstat_shows(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_rich_tree(root)
    things.unix_socket(root / "socket")
    before = look_at(root)
    assert look_at_base(DirectoryBase(str(root), scratch=str(tmp_path))) == before
    assert before[b"/socket"].type is FileType.SOCKET
    assert look_at(root) == before


def paths(root: Path, scratch: Path | None = None) -> list[str]:
    with DirectoryBase(str(root), scratch=str(scratch or root / "none")) as base:
        return [entry.path for entry in base.entries()]


def test_order_is_by_name_and_parents_come_first(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a-", "a/x/y", "B"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(tmp_path) == ["/", "/B", "/a", "/a/x", "/a/x/y", "/a-", "/b", "/b/1", "/b/2"]


def test_symlinks_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    things.symlink_loop(root / "loop")
    assert paths(root) == ["/", "/loop", "/loop-back", "/self", "/up"]
    link = tmp_path / "link"
    link.symlink_to(root)
    assert paths(link) == paths(root)


def test_the_scratch_directory_is_left_out(tmp_path: Path) -> None:
    scratch = tmp_path / "site/scratch"
    scratch.mkdir(parents=True)
    (scratch / "pool").write_bytes(b"x")
    (tmp_path / "site/disk").write_bytes(b"y")
    assert paths(tmp_path, scratch) == ["/", "/site", "/site/disk"]


@needs("root", "tmpfs")
def test_what_is_mounted_is_left_out(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path) as point:
        (point / "inside").touch()
        assert paths(tmp_path) == ["/", f"/{point.name}"]
        assert paths(point) == ["/", "/inside"]


@needs("root")
def test_a_tree_of_many_levels_has_paths_longer_than_the_kernel_takes_from_here(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(16):
        os.mkdir(LONG + b"/", dir_fd=here)
        below = os.open(LONG, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.setxattr(here, "user.deep", b"down")
    os.close(here)
    with DirectoryBase(str(tmp_path) + "/" + "./" * 450, scratch="") as base:
        last = [entry for entry in base.entries() if isinstance(entry, Entry)][-1]
    assert len(last.path) == 16 * 201
    assert last.inode.xattrs == (("user.deep", b"down"),)


def test_missing_or_other_things_are_no_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file", things.symlink_loop(tmp_path / "loop"), "a\0b"):
        with pytest.raises(NoInputError):
            DirectoryBase(str(path), scratch="")


READ_AS_NOBODY = """
import os, sys
from umldisk.build.bases.directory import DirectoryBase
from umldisk.errors import NoInputError
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    for entry in DirectoryBase(".", scratch="").entries():
        list(entry.inode.contents.pieces())
except NoInputError as error:
    print(error, error.hint)
"""


@needs("root")
@pytest.mark.parametrize("name", ["secret", "closed"])
def test_what_may_not_be_read_is_no_input(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x") if name == "secret" else (tmp_path / "closed").mkdir()
    (tmp_path / name).chmod(0)
    tmp_path.chmod(0o755)
    argv = [sys.executable, "-c", READ_AS_NOBODY, str(tmp_path)]
    child = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert child.stdout.startswith(f"cannot read: Permission denied (./{name}) build as root")


def change_and_read(root: Path, change: Callable[[Path], object]) -> None:
    (root / "file").write_bytes(b"x" * 3 * MIB)
    with DirectoryBase(str(root), scratch="") as base:
        entry = list(islice(base.entries(), 2))[1]
        assert isinstance(entry, Entry)
        for number, _piece in enumerate(entry.inode.contents.pieces()):
            if number == 0:
                change(root / "file")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, MIB),
        lambda path: os.truncate(path, 4 * MIB),
        lambda path: path.write_bytes(b"y" * 3 * MIB),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=rf"a file (became shorter|was changed) while it was read \({tmp_path}/file"):
        change_and_read(tmp_path, change)


@pytest.mark.parametrize("replace", [replace_by_fifo, lambda path: (path.unlink(), path.symlink_to("/etc/passwd"))])
def test_a_file_that_was_replaced_is_refused(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with DirectoryBase(str(tmp_path), scratch="") as base:
        entry = next(entry for entry in base.entries() if entry.path == "/file")
        assert isinstance(entry, Entry)
        replace(tmp_path / "file")
        with pytest.raises((DataError, NoInputError)):
            list(entry.inode.contents.pieces())


def test_a_file_that_goes_when_it_was_just_listed_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    real = os.listxattr
    with DirectoryBase(str(tmp_path), scratch="") as base:
        entries = base.entries()
        next(entries)  # the directory itself, whose names are known now
        monkeypatch.setattr(os, "listxattr", lambda at, **how: ((tmp_path / "file").unlink(), real(at, **how)))
        with pytest.raises(NoInputError, match=rf"cannot read: No such file or directory \({tmp_path}/file"):
            next(entries)


def test_a_read_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageError, match=rf"cannot read: Input/output error \({tmp_path}/file"):
        change_and_read(tmp_path, lambda _path: None)


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    before = sorted(os.listdir("/proc/self/fd"))
    paths(tmp_path)
    with DirectoryBase(str(tmp_path), scratch="") as base:
        assert [entry.path for entry in islice(base.entries(), 4)][-1] == "/a/b/c"
    assert sorted(os.listdir("/proc/self/fd")) == before
