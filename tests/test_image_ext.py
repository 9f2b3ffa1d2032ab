"""The ext superblock against dumpe2fs, blkid's rule and a table of damaged ones; mke2fs's argv."""

import struct
import subprocess
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.peers import needs
from tests.kit.readers import BytesReader
from umldisk.errors import DataError
from umldisk.image.ext import has_magic, read_superblock, small_blocks
from umldisk.image.reader import DiskReader
from umldisk.system.files import open_disk
from umldisk.system.process import find_program, run

_UUID = uuid.UUID("7b1e6d2a-6a36-4b53-8d92-1a2b3c4d5e6f")
_FIELDS = {"inodes": 0, "blocks": 4, "free_blocks": 12, "free_inodes": 16, "first": 20}
_FIELDS |= {"log": 24, "blocks_per_group": 32, "inodes_per_group": 40, "mount_time": 44}
_FIELDS |= {"write_time": 48, "compat": 92, "incompat": 96, "ro_compat": 100, "mkfs_time": 264}
_FIELDS |= {"blocks_high": 336}


def _superblock(**changes: int) -> BytesReader:
    """Make the superblock of a small clean ext2 with some 32-bit fields changed."""
    values = {"inodes": 100, "blocks": 4000, "free_blocks": 50, "free_inodes": 60, "log": 2}
    values |= {"blocks_per_group": 32768, "inodes_per_group": 100, "mkfs_time": 1_700_000_000}
    raw = bytearray(1024)
    struct.pack_into("<HHH", raw, 52, 3, 20, 0xEF53)
    struct.pack_into("<H", raw, 58, changes.pop("state", 1))
    for name, value in (values | changes).items():
        struct.pack_into("<I", raw, _FIELDS[name], value)
    return BytesReader(bytes(1024) + bytes(raw))


def _make(path: Path, *options: str, size: str = "16M") -> None:
    mke2fs = find_program("mke2fs")
    command = [mke2fs, "-q", "-F", *options, "-U", str(_UUID), str(path), size]
    subprocess.run(command, check=True, capture_output=True)


def _dump(path: Path) -> dict[str, str]:
    lines = run(["dumpe2fs", "-h", str(path)]).stdout.decode().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


@needs("mke2fs", "dumpe2fs", "blkid")
@pytest.mark.parametrize("block_bytes", ["1024", "2048", "4096"])
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_a_superblock_says_what_dumpe2fs_says(kind: str, block_bytes: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    _make(image, "-t", kind, "-b", block_bytes, "-L", "a label")
    dumped = _dump(image)
    with open_disk(image) as disk:
        found = read_superblock(DiskReader(disk))
        assert small_blocks(DiskReader(disk)) == (block_bytes != "4096")
    assert found.kind == kind == _blkid_type(image)
    assert found.block_bytes == int(dumped["Block size"])
    assert found.blocks == int(dumped["Block count"])
    assert found.free_blocks == int(dumped["Free blocks"])
    assert (found.inodes, found.free_inodes) == (
        int(dumped["Inode count"]),
        int(dumped["Free inodes"]),
    )
    assert set(found.features) == set(dumped["Filesystem features"].split())
    assert (found.label, found.uuid) == (dumped["Filesystem volume name"], _UUID)
    assert found.size_bytes == 16 << 20
    assert found.clean
    assert found.mounted is None


def _blkid_type(image: Path) -> str:
    return run(["blkid", "--probe", "-s", "TYPE", "-o", "value", str(image)]).stdout.decode().strip()


@needs("mke2fs", "dumpe2fs")
@pytest.mark.parametrize(
    "feature",
    [
        "metadata_csum",
        "inline_data",
        "casefold",
        "quota",
        "bigalloc",
        "sparse_super2",
        "large_dir",
        "mmp",
        "project",
        "verity",
        "stable_inodes",
        "fast_commit",
        "encrypt",
        "ea_inode",
    ],
)
def test_features_have_the_names_of_e2fsprogs(feature: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    _make(image, "-t", "ext4", "-O", feature, size="64M")
    with open_disk(image) as disk:
        found = read_superblock(DiskReader(disk))
    assert feature in found.features
    assert set(found.features) == set(_dump(image)["Filesystem features"].split())


def test_times_counts_and_state_are_read() -> None:
    found = read_superblock(_superblock(mount_time=1, write_time=4_000_000_000))
    assert found.created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.mounted == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert found.written == datetime(2096, 10, 2, 7, 6, 40, tzinfo=UTC)
    assert found.mount_count == 3
    assert found.clean
    assert not found.has_errors


@pytest.mark.parametrize(
    ("state", "incompat", "clean", "errors"),
    [(0, 0, False, False), (1, 0, True, False), (3, 0, True, True), (1, 4, False, False)],
)
def test_clean_means_stopped_and_nothing_to_replay(state: int, incompat: int, clean: bool, errors: bool) -> None:
    found = read_superblock(_superblock(state=state, incompat=incompat))
    assert (found.clean, found.has_errors) == (clean, errors)


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        ({}, "ext2"),
        ({"incompat": 0x2, "ro_compat": 0x7}, "ext2"),
        ({"compat": 0x4, "incompat": 0x6, "ro_compat": 0x3}, "ext3"),
        ({"compat": 0x4, "incompat": 0x40}, "ext4"),
        ({"incompat": 0x40}, "ext4"),
        ({"compat": 0x4, "ro_compat": 0x400}, "ext4"),
    ],
)
def test_features_decide_the_kind(features: dict[str, int], kind: str) -> None:
    assert read_superblock(_superblock(**features)).kind == kind


def test_high_halves_count_only_with_64bit() -> None:
    assert read_superblock(_superblock(blocks_high=1)).blocks == 4000
    assert read_superblock(_superblock(blocks_high=1, incompat=0x80)).blocks == (1 << 32) + 4000


def test_unknown_features_are_numbered() -> None:
    assert read_superblock(_superblock(compat=1 << 31, ro_compat=1 << 30)).features == (
        "compat_31",
        "ro_compat_30",
    )


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({"log": 7}, 1048),
        ({"log": 0xFFFFFFFF}, 1048),
        ({"inodes": 0}, 1024),
        ({"inodes": 59}, 1024),
        ({"blocks": 0}, 1028),
        ({"free_blocks": 4001}, 1028),
        ({"first": 4000}, 1028),
        ({"blocks_per_group": 0}, 1056),
        ({"inodes_per_group": 0}, 1056),
    ],
)
def test_what_cannot_be_true_is_named(changes: dict[str, int], offset: int) -> None:
    with pytest.raises(DataError) as refused:
        read_superblock(_superblock(**changes), where="disk")
    assert refused.value.where == f"disk, byte {offset}"
    assert not small_blocks(_superblock(**changes))


@given(st.integers(0, 2047))
def test_a_cut_superblock_is_refused(length: int) -> None:
    cut = BytesReader(_superblock(log=0).data[:length])
    with pytest.raises(DataError, match="cut off"):
        read_superblock(cut)
    assert not small_blocks(cut)


@given(st.binary(min_size=1024, max_size=1024))
def test_any_bytes_parse_or_are_refused(noise: bytes) -> None:
    raw = bytearray(noise)
    raw[56:58] = b"\x53\xef"
    reader = BytesReader(bytes(1024) + bytes(raw))
    assert has_magic(reader)
    try:
        found = read_superblock(reader)
    except DataError:
        assert not small_blocks(reader)
    else:
        assert found.free_blocks <= found.blocks
        assert small_blocks(reader) == (found.block_bytes < 4096)
