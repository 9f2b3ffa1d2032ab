"""How mke2fs is asked: the command, and that nothing of the machine gets into what it makes."""

import hashlib
import itertools
import os
import uuid
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.image import mkfs
from umldisk.image.ext import read_superblock
from umldisk.image.reader import DiskReader
from umldisk.system.files import open_disk
from umldisk.system.process import run

_UUID = uuid.UUID("7b1e6d2a-6a36-4b53-8d92-1a2b3c4d5e6f")
_TIME_NS = 1_600_000_000 * 10**9


def _make(directory: Path, kind: str = "ext4", **environment: str) -> Path:
    directory.mkdir()
    configuration = directory / "mke2fs.conf"
    configuration.write_text(mkfs.CONFIGURATION)
    image = directory / "image"
    image.touch()
    os.truncate(image, 64 << 20)
    argv = mkfs.mke2fs_argv(str(image), label="root", uuid=_UUID, inodes=4096, kind=kind)
    run(argv, environment={**environment, **mkfs.environment(str(configuration), _TIME_NS)})
    return image


def test_the_command_for_a_file_system() -> None:
    argv = mkfs.mke2fs_argv("/d/root_fs", label="root", uuid=_UUID, inodes=5, tree="/d/tree", kind="ext3")
    assert argv[0] == "mke2fs"
    assert argv[-3:] == ["-d", "/d/tree", "/d/root_fs"]
    pairs = dict(itertools.pairwise(argv))
    assert (pairs["-t"], pairs["-b"], pairs["-L"], pairs["-U"]) == ("ext3", "4096", "root", str(_UUID))
    assert {"assume_storage_prezeroed=1", "no_copy_xattrs"} <= set(pairs["-E"].split(","))
    assert "-d" not in mkfs.mke2fs_argv("/d/root_fs", label="root", uuid=_UUID, inodes=5)


def test_there_are_inodes_for_what_is_needed_and_some_to_spare() -> None:
    assert mkfs.inode_count(1 << 30, 100) == 65536
    assert mkfs.inode_count(1 << 30, 100_000) == 112_564


@pytest.mark.parametrize(("time_ns", "seconds"), [(0, "1"), (-5, "1"), (7 * 10**9, "7"), (10**20, str(2**32 - 1))])
def test_a_superblock_counts_seconds_from_one(time_ns: int, seconds: str) -> None:
    times = {"E2FSPROGS_FAKE_TIME": seconds, "E2FSCK_TIME": seconds}
    assert mkfs.environment("/c", time_ns) == {"MKE2FS_CONFIG": "/c", **times}


@needs("mke2fs")
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_the_kind_is_what_was_asked_for(kind: str, tmp_path: Path) -> None:
    with open_disk(_make(tmp_path / "x", kind)) as disk:
        found = read_superblock(DiskReader(disk))
    assert (found.kind, found.uuid, found.label, found.inodes) == (kind, _UUID, "root", 4096)
    assert found.created is not None
    assert found.created.timestamp() == _TIME_NS // 10**9


@needs("mke2fs")
def test_two_file_systems_are_the_same_bytes_whatever_the_zone(tmp_path: Path) -> None:
    images = [_make(tmp_path / "a"), _make(tmp_path / "b", TZ="Asia/Tokyo", MKE2FS_DEVICE_SECTSIZE="4096")]
    assert len({hashlib.sha256(image.read_bytes()).digest() for image in images}) == 1
