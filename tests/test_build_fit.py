"""Whether a share fits: the count against what mke2fs really needs, and what is refused."""

import dataclasses
import re
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import disks
from umldisk.build.disks import Workshop
from umldisk.build.fit import Need, need_of, require_fit
from umldisk.build.pool import Pool
from umldisk.build.scratch import Layout
from umldisk.build.tree import Entry, FileType, HardLink, Inode, Text, Tree, directory, file, plant, symlink
from umldisk.config.guest import Guest
from umldisk.errors import DataError, StorageError
from umldisk.image.drives import VAR, Content, Drive
from umldisk.image.ext import read_superblock
from umldisk.image.reader import DiskReader
from umldisk.system.files import open_disk

pytestmark = needs("mke2fs", "debugfs", "e2fsck")

_MIB = 1 << 20
_SMALL = dataclasses.replace(VAR, size_bytes=48 * _MIB)


class _Made:
    """A share with everything around it that making its disk takes."""

    def __init__(self, directory: Path, entries: list[Entry | HardLink]) -> None:
        directory.mkdir()
        self.directory = directory
        self.share: Tree = plant({}, Pool(str(directory / "pool")).take(iter(entries)))
        self.workshop = Workshop.open(str(directory), time_ns=10**18)

    def make(self, drive: Drive) -> str:
        tree, path = str(self.directory / "tree"), str(self.directory / "disk")
        Layout([self.share]).write(tree, self.share)
        disks.make_ext_disk(path, Guest("x", "/x"), drive, self.share, workshop=self.workshop, tree=tree)
        return path


def _used_blocks(image: str, empty: str) -> int:
    def free(path: str) -> int:
        with open_disk(path) as disk:
            return read_superblock(DiskReader(disk)).free_blocks

    return free(empty) - free(image)


_SHARES: dict[str, list[Entry | HardLink]] = {
    "nothing": [],
    "small files": [file(f"/d{number % 7}/file-{number}", b"x" * (number % 9000)) for number in range(2000)],
    "long names": [file(f"/{number:0>200}", b"") for number in range(500)],
    "large files": [file(f"/{number}", b"x" * (5 * _MIB + number)) for number in range(3)],
    "links": [symlink(f"/{number}", "x" * (50 + number % 30)) for number in range(500)],
    "scattered": [file("/s", b"".join(b"x" + bytes(12287) for _ in range(1000)))],
    "many directories": [directory(f"/d{number}") for number in range(700)],
    "attributes": [
        Entry(
            f"/{number}",
            Inode(FileType.FILE, 0o644, contents=Text(), xattrs=(("user.a", bytes(300) + b"%d" % number),)),
        )
        for number in range(100)
    ],
    "attributes just too long for an inode": [
        Entry(f"/{number}", Inode(FileType.FILE, 0o644, contents=Text(), xattrs=(("user.a", bytes(70)),)))
        for number in range(100)
    ],
}


@pytest.mark.parametrize("kind", [Content.EXT4, Content.EXT2])
@pytest.mark.parametrize("name", _SHARES)
def test_the_count_is_never_too_small_and_not_far_too_large(name: str, kind: Content, tmp_path: Path) -> None:
    drive = dataclasses.replace(VAR, size_bytes=128 * _MIB, content=kind)
    made = _Made(tmp_path / "made", _SHARES[name])
    empty = _Made(tmp_path / "empty", [])
    need = need_of(made.share)
    inodes = len(made.share) - len(empty.share)
    used = _used_blocks(made.make(drive), empty.make(drive)) + 1  # the top directory's block is in both
    assert used <= need.blocks <= used * 1.25 + 8
    assert need.inodes == inodes + 1


def test_names_of_one_file_count_once(tmp_path: Path) -> None:
    made = _Made(tmp_path / "made", [file("/a", b"x" * 8192), HardLink("/b", "/a")])
    assert need_of(made.share) == Need(blocks=3, inodes=2)


@pytest.mark.parametrize("kind", [Content.EXT4, Content.EXT2])
def test_the_size_that_is_named_is_enough(kind: Content, tmp_path: Path) -> None:
    drive = dataclasses.replace(_SMALL, content=kind)
    made = _Made(tmp_path / "made", [file(f"/{number}", b"x" * (3 * _MIB)) for number in range(20)])
    with pytest.raises(DataError, match="does not fit on the var drive") as refused:
        require_fit("x", drive, made.share, made.workshop)
    assert refused.value.hint is not None
    size = re.fullmatch(r'set size = "(\d+)M" in \[guest\.x\.drives\.var\] of umldisk\.toml', refused.value.hint)
    assert size is not None
    enough = dataclasses.replace(drive, size_bytes=int(size[1]) * _MIB)
    require_fit("x", enough, made.share, made.workshop)
    made.make(enough)


def test_what_is_refused_would_not_have_fitted(tmp_path: Path) -> None:
    made = _Made(tmp_path / "made", [file(f"/{number}", b"x" * (3 * _MIB)) for number in range(20)])
    with pytest.raises(StorageError):
        made.make(_SMALL)


def test_many_files_get_more_inodes_instead_of_a_refusal(tmp_path: Path) -> None:
    made = _Made(tmp_path / "made", [file(f"/{number}", b"") for number in range(5000)])
    require_fit("x", _SMALL, made.share, made.workshop)
    made.make(_SMALL)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    made = _Made(tmp_path / "made", [file("/a", b"x" * (30 * _MIB))])
    require_fit("x", dataclasses.replace(_SMALL, size_bytes=64 * _MIB), made.share, made.workshop)
    assert sorted(path.name for path in made.directory.iterdir()) == ["mke2fs.conf", "pool"]
