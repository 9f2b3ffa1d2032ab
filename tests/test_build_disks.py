"""Disks against debugfs, dumpe2fs and e2fsck: contents, owners, modes, times, attributes, sizes."""

import errno
import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import disks
from umldisk.build.disks import Workshop
from umldisk.build.pool import Pool
from umldisk.build.scratch import Layout
from umldisk.build.tree import Entry, FileType, HardLink, Inode, Text, Tree, directory, file, in_order, plant, symlink
from umldisk.config.guest import Guest
from umldisk.errors import StorageError
from umldisk.image.drives import SWAP, VAR, Content, Drive, drive_uuid
from umldisk.image.ext import read_superblock
from umldisk.image.reader import DiskReader
from umldisk.image.swap import read_header
from umldisk.system.files import open_disk
from umldisk.system.process import run

pytestmark = needs("mke2fs", "debugfs", "e2fsck")

_GUEST = Guest("blackdance", "/unused")
_NS = 1_000_000_000
_TIME_NS = 1_600_000_000 * _NS
_2106_NS = (1 << 32) * _NS + 123_456_789


def _special(path: str, kind: FileType, device: tuple[int, int] = (0, 0)) -> Entry:
    return Entry(path, Inode(kind, 0o620, 3, 4, _TIME_NS, device=device))


_ENTRIES = [
    Entry("/", Inode(FileType.DIRECTORY, 0o1777, 5, 6, 1 * _NS, xattrs=(("user.top", b"\0\n"),))),
    directory("/secret", 0o000, uid=70_000, gid=2_000_000_000, mtime_ns=-5 * _NS + 1),
    file("/secret/key", b"\0\xff" * 3000, 0o4711, gid=42, mtime_ns=_2106_NS),
    Entry("/blank \"quoted\" 'name' é", Inode(FileType.FILE, 0o600, 1, 2, 7 * _NS, Text(b"x"))),
    Entry("/" + "n" * 255, Inode(FileType.FILE, 0o600, contents=Text(b"x"))),
    symlink("/link", "/nowhere", mtime_ns=9 * _NS),
    symlink("/long", "/x" * 200),
    file("/empty", b""),
    _special("/null", FileType.CHARACTER_DEVICE, (1, 3)),
    _special("/secret/disk", FileType.BLOCK_DEVICE, (259, 70_000)),
    _special("/fifo", FileType.FIFO),
    _special("/socket", FileType.SOCKET),
    HardLink("/secret/same", "/empty"),
]


def _make(directory: Path, entries: list[Entry | HardLink], drive: Drive = VAR, name: str = "var_fs") -> str:
    """Make a disk as the build does; return its path."""
    directory.mkdir()
    pool = Pool(str(directory / "pool"))
    share: Tree = plant({}, pool.take(iter(entries)))
    workshop = Workshop.open(str(directory), time_ns=_TIME_NS)
    Layout([share]).write(str(directory / "tree"), share)
    path = str(directory / name)
    disks.make_ext_disk(path, _GUEST, drive, share, workshop=workshop, tree=str(directory / "tree"))
    disks.check(path, workshop.environment)
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _make(tmp_path_factory.mktemp("disks") / "work", list(_ENTRIES))


def _debugfs(image: str, command: str) -> bytes:
    return run(["debugfs", "-R", command, image]).stdout


def _quoted(path: str) -> str:
    return '"' + path.replace('"', '""') + '"'


_KINDS = {
    "directory": FileType.DIRECTORY,
    "regular": FileType.FILE,
    "symlink": FileType.SYMLINK,
    "character special": FileType.CHARACTER_DEVICE,
    "block special": FileType.BLOCK_DEVICE,
    "FIFO": FileType.FIFO,
    "socket": FileType.SOCKET,
}
_PLANTED = list(in_order(plant({}, _ENTRIES)))


@pytest.mark.parametrize(("path", "inode"), _PLANTED, ids=[path[:20] for path, _inode in _PLANTED])
def test_every_inode_is_what_the_tree_says(path: str, inode: Inode, image: str) -> None:
    said = _debugfs(image, f"stat {_quoted(path)}").decode()
    found = re.search(r"Type: (.*?)\s+Mode:\s+(\d+)", said)
    owner = re.search(r"User:\s+(\d+)\s+Group:\s+(\d+)", said)
    assert found is not None
    assert owner is not None
    assert _KINDS[found[1]] is inode.type
    assert int(found[2], 8) == inode.mode
    assert (int(owner[1]), int(owner[2])) == (inode.uid, inode.gid)
    if inode.type is FileType.FILE:
        contents = b"".join(data for _offset, data in inode.contents.pieces())
        assert _debugfs(image, f"cat {_quoted(path)}") == contents


@pytest.mark.parametrize(("path", "inode"), _PLANTED, ids=[path[:20] for path, _inode in _PLANTED])
def test_all_four_times_are_the_one(path: str, inode: Inode, image: str) -> None:
    said = _debugfs(image, f"stat {_quoted(path)}").decode()
    times = re.findall(r"(\w*time): 0x([0-9a-f]{8}):([0-9a-f]{8})", said)
    assert {name for name, _low, _extra in times} == {"ctime", "atime", "mtime", "crtime"}
    for _name, low, extra in times:
        seconds = int(low, 16) - ((int(low, 16) >> 31) << 32) + ((int(extra, 16) & 3) << 32)
        assert seconds * _NS + (int(extra, 16) >> 2) == inode.mtime_ns


def test_a_scratch_tree_that_cannot_be_written_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    share = plant({}, Pool(str(tmp_path / "pool")).take(iter([file("/d/one", "x"), HardLink("/d/two", "/d/one")])))
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="Too many links") as failed:
        Layout([share]).write(str(tmp_path / "tree"), share)
    assert failed.value.where == str(tmp_path / "tree/d/two")


def test_device_numbers_are_kept(image: str) -> None:
    assert "Device major/minor number: 01:03 " in _debugfs(image, "stat /null").decode()
    assert "Device major/minor number: 259:70000 " in _debugfs(image, "stat /secret/disk").decode()


def test_attributes_are_kept(image: str, tmp_path: Path) -> None:
    value = tmp_path / "value"
    run(["debugfs", "-R", f"ea_get -f {value} / user.top", image])
    assert value.read_bytes() == b"\0\n"


def test_names_of_one_file_are_one_inode(image: str) -> None:
    said = [_debugfs(image, f"stat {path}").decode() for path in ("/empty", "/secret/same")]
    assert said[0] == said[1]
    assert "Links: 2 " in said[0]


def test_nothing_else_is_in_the_image(image: str) -> None:
    rows = _debugfs(image, "ls -p /").decode().splitlines()
    names = {row.split("/")[5] for row in rows if row}
    top = {path[1:] for path, _inode in _PLANTED if path.count("/") == 1 and path != "/"}
    assert names == top | {".", "..", "lost+found"}


def test_the_image_is_sparse_private_and_named(image: str) -> None:
    status = os.stat(image)
    assert status.st_size == VAR.size_bytes
    assert status.st_blocks * 512 < 1 << 20
    assert status.st_mode & 0o777 == 0o600
    with open_disk(image) as disk:
        superblock = read_superblock(DiskReader(disk))
    assert (superblock.kind, superblock.block_bytes, superblock.clean) == ("ext4", 4096, True)
    assert (superblock.label, superblock.uuid) == ("var", drive_uuid("blackdance", VAR))
    assert superblock.created is not None
    assert superblock.written is not None
    assert superblock.created.timestamp() == superblock.written.timestamp() == _TIME_NS // _NS


@needs("dumpe2fs")
def test_no_inode_table_is_left_to_the_kernel(image: str) -> None:
    groups = re.findall(r"^Group \d+: .*", run(["dumpe2fs", image]).stdout.decode(), re.MULTILINE)
    assert len(groups) == 8
    assert all("ITABLE_ZEROED" in group for group in groups)


@pytest.mark.parametrize("kind", [Content.EXT2, Content.EXT3])
def test_older_kinds_hold_the_same(kind: Content, tmp_path: Path) -> None:
    drive = Drive("old", 1, "/old", size_bytes=64 << 20, content=kind)
    image = _make(tmp_path / "work", list(_ENTRIES), drive)
    with open_disk(image) as disk:
        assert read_superblock(DiskReader(disk)).kind == kind.value
    assert _debugfs(image, "cat /secret/key") == b"\0\xff" * 3000
    assert "259:70000" in _debugfs(image, "stat /secret/disk").decode()


def test_the_same_tree_gives_the_same_bytes(image: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    before = os.umask(0o077)
    try:
        again = _make(other / "work", list(reversed(_ENTRIES[:-1])) + _ENTRIES[-1:])
    finally:
        os.umask(before)
    with open(image, "rb") as one, open(again, "rb") as two:
        assert hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(two, "sha256").digest()


@needs("root", "setfacl")
def test_no_attribute_of_the_builder_gets_in(image: str, tmp_path: Path) -> None:
    run(["setfacl", "--default", "--modify=user:1000:rwx", str(tmp_path)])
    again = _make(tmp_path / "work", list(_ENTRIES))
    run(["cmp", image, again])


def test_holes_and_zeros_are_holes(tmp_path: Path) -> None:
    zeros = file("/zeros", bytes(1 << 20) + b"x" + bytes(1 << 20))
    image = _make(tmp_path / "work", [zeros])
    assert "Blockcount: 8\n" in _debugfs(image, "stat /zeros").decode()


def test_an_existing_disk_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "var_fs"
    path.write_text("mine")
    with pytest.raises(StorageError):
        disks.make_sparse(str(path), 4096)
    assert path.read_text() == "mine"


def test_a_command_that_debugfs_fails_is_noticed(image: str, tmp_path: Path) -> None:
    copy = shutil.copy(image, tmp_path / "copy")
    with pytest.raises(StorageError, match="debugfs failed"):
        disks.attributes.run_script(str(copy), iter([b"sif <99999999> mode 0\n"]), str(tmp_path), environment={})


def test_a_damaged_image_is_noticed(image: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    run(["cp", "--sparse=always", image, str(damaged)])
    run(["debugfs", "-w", "-R", "clri /secret", str(damaged)])
    with pytest.raises(StorageError, match="e2fsck failed"):
        disks.check(str(damaged), {})


def test_a_swap_disk_is_one_page_and_a_hole(tmp_path: Path) -> None:
    path = str(tmp_path / "swap_fs")
    disks.make_swap_disk(path, _GUEST, SWAP)
    status = os.stat(path)
    assert (status.st_size, status.st_mode & 0o777) == (256 << 20, 0o600)
    assert status.st_blocks * 512 <= 16384
    with open_disk(path) as disk:
        header = read_header(DiskReader(disk))
    assert header.size_bytes == 256 << 20
    assert header.uuid == drive_uuid("blackdance", SWAP)


@needs("blkid", "swaplabel")
def test_other_tools_know_the_swap_disk(tmp_path: Path) -> None:
    path = str(tmp_path / "swap_fs")
    disks.make_swap_disk(path, _GUEST, SWAP)
    said = run(["blkid", "-o", "export", "-p", path]).stdout.decode()
    assert "TYPE=swap\n" in said
    assert f"UUID={drive_uuid('blackdance', SWAP)}" in said
    assert "LABEL: swap" in run(["swaplabel", path]).stdout.decode()
