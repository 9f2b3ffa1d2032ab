"""Disks against debugfs, dumpe2fs and blkid: contents, owners, modes, sizes."""

import os
import re
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import disks
from umldisk.build.tree import Entry, FileType, directory, file, make_tree, symlink
from umldisk.config.guest import Guest
from umldisk.errors import StorageError
from umldisk.image.drives import SWAP, VAR, drive_uuid
from umldisk.image.ext import read_superblock
from umldisk.image.reader import DiskReader
from umldisk.image.swap import read_header
from umldisk.system.files import open_disk
from umldisk.system.process import run

pytestmark = needs("mke2fs", "debugfs", "e2fsck")

_GUEST = Guest("blackdance", "/unused")
_TREE = make_tree(
    [
        directory("/", 0o1777, uid=5, gid=6),
        directory("/secret", 0o000, uid=70_000, gid=2_000_000_000),
        file("/secret/key", b"\0\xff" * 3000, 0o4711, gid=42),
        Entry("/blank \"quoted\" 'name' é", FileType.FILE, 0o600, 1, 2, contents=b"x"),
        symlink("/link", "/nowhere"),
        symlink("/long", "/x" * 200),
        file("/empty", b""),
    ]
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    scratch = tmp_path_factory.mktemp("disks")
    path = str(scratch / "var_fs")
    disks.make_ext_disk(path, _GUEST, VAR, _TREE, scratch=str(scratch / "tree"))
    assert os.listdir(scratch) == ["var_fs"]
    return path


def _debugfs(image: str, command: str) -> bytes:
    return run(["debugfs", "-R", command, image]).stdout


def _quoted(path: str) -> str:
    return '"' + path.replace('"', '""') + '"'


@pytest.mark.parametrize("entry", _TREE, ids=lambda entry: entry.path)
def test_every_inode_is_what_its_entry_says(entry: Entry, image: str) -> None:
    said = _debugfs(image, f"stat {_quoted(entry.path)}").decode()
    found = re.search(r"Type: (\S+)\s+Mode:\s+(\d+)", said)
    owner = re.search(r"User:\s+(\d+)\s+Group:\s+(\d+)", said)
    assert found is not None
    assert owner is not None
    kinds = {"directory": FileType.DIRECTORY, "regular": FileType.FILE, "symlink": FileType.SYMLINK}
    assert kinds[found[1]] is entry.type
    assert int(found[2], 8) == entry.mode
    assert (int(owner[1]), int(owner[2])) == (entry.uid, entry.gid)
    if entry.type is FileType.FILE:
        assert _debugfs(image, f"cat {_quoted(entry.path)}") == entry.contents


def test_nothing_else_is_in_the_image(image: str) -> None:
    rows = _debugfs(image, "ls -p /").decode().splitlines()
    names = {row.split("/")[5] for row in rows if row}
    top = {entry.path[1:] for entry in _TREE if entry.path.count("/") == 1 and entry.path != "/"}
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


@needs("dumpe2fs")
def test_no_inode_table_is_left_to_the_kernel(image: str) -> None:
    groups = re.findall(r"^Group \d+: .*", run(["dumpe2fs", image]).stdout.decode(), re.MULTILINE)
    assert len(groups) == 8
    assert all("ITABLE_ZEROED" in group for group in groups)


def test_an_existing_disk_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "var_fs"
    path.write_text("mine")
    with pytest.raises(StorageError):
        disks.make_ext_disk(str(path), _GUEST, VAR, _TREE, scratch=str(tmp_path / "tree"))
    assert path.read_text() == "mine"


def test_a_command_that_debugfs_fails_is_noticed(image: str) -> None:
    with pytest.raises(StorageError, match="File not found"):
        disks.apply_ownership(image, [directory("/"), file("/missing", b"")])


def test_a_damaged_image_is_noticed(image: str, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    run(["cp", "--sparse=always", image, str(damaged)])
    run(["debugfs", "-w", "-R", "clri /secret", str(damaged)])
    with pytest.raises(StorageError, match="e2fsck failed"):
        disks.check(str(damaged))


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
