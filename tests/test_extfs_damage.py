"""The ext reader on file systems with one thing wrong: each is refused with its place and what was found there."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.extimage import (
    SMALL_BLOCK_BYTES,
    LimitedReader,
    block_of,
    debugfs,
    inode_offset,
    make_image,
    patch,
    small_image,
)
from tests.kit.peers import needs
from tests.kit.readers import BytesReader
from umldisk.errors import DataError
from umldisk.image.extfs.volume import Volume

pytestmark = needs("mke2fs", "debugfs")


class Sick:
    """One image to be damaged on purpose."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        path.write_bytes(small_image(kind))

    def number(self, path: str) -> int:
        return dict(self.volume().walk())[path]

    def volume(self) -> Volume:
        return Volume.open(LimitedReader(self.path.read_bytes()), where="image")

    def patch_inode(self, path: str, offset: int, data: bytes) -> None:
        patch(self.path, inode_offset(self.path, self.number(path), SMALL_BLOCK_BYTES) + offset, data)

    def patch_block(self, path: str, offset: int, data: bytes) -> None:
        patch(self.path, block_of(self.path, self.number(path)) * SMALL_BLOCK_BYTES + offset, data)

    def dirent(self, directory: str, name: bytes) -> int:
        """Return where in its block the entry `name` of a directory begins."""
        start = block_of(self.path, self.number(directory)) * SMALL_BLOCK_BYTES
        return self.path.read_bytes().index(name, start, start + SMALL_BLOCK_BYTES) - start - 8


def _circle(sick: Sick) -> None:
    debugfs(sick.path, "ln d d/e/again", writable=True)


def _circle_to_itself(sick: Sick) -> None:
    debugfs(sick.path, "ln d/e d/e/me", writable=True)


def _root_again(sick: Sick) -> None:
    debugfs(sick.path, "ln / d/root", writable=True)


def _length_zero(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e") + 4, b"\0\0")


def _length_odd(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e") + 4, b"\x0d\0")


def _length_too_long(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e") + 4, (2048).to_bytes(2, "little"))


def _slash(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e") + 8, b"/")


def _nul(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e") + 8, b"\0")


def _twice(sick: Sick) -> None:
    sick.patch_block("/l", sick.dirent("/l", b"1-n") + 8, b"2")


def _large_number(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e"), (1 << 20).to_bytes(4, "little"))


def _reserved_number(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e"), (8).to_bytes(4, "little"))


def _free_inode(sick: Sick) -> None:
    sick.patch_block("/d", sick.dirent("/d", b"e"), (250).to_bytes(4, "little"))


def _no_directory(sick: Sick) -> None:
    number = sick.number("/source")
    sick.patch_block("/d", sick.dirent("/d", b"e"), number.to_bytes(4, "little"))


def _directory_not_whole(sick: Sick) -> None:
    sick.patch_inode("/d", 4, (1000).to_bytes(4, "little"))


def _directory_with_hole(sick: Sick) -> None:
    sick.patch_inode("/d", 4, (2048).to_bytes(4, "little"))


WALKS: dict[str, tuple[Callable[[Sick], None], str]] = {
    "circle": (_circle, "reached twice"),
    "circle to itself": (_circle_to_itself, "reached twice"),
    "the root again": (_root_again, "reserved inode"),
    "length 0": (_length_zero, "bad length of a directory entry"),
    "length odd": (_length_odd, "bad length of a directory entry"),
    "length too long": (_length_too_long, "bad length of a directory entry"),
    "slash": (_slash, "bad directory entry"),
    "nul": (_nul, "bad directory entry"),
    "twice": (_twice, "a name twice"),
    "large number": (_large_number, "bad directory entry"),
    "reserved number": (_reserved_number, "reserved inode"),
    "free inode": (_free_inode, "free inode"),
    "no directory": (_no_directory, "something else"),
    "not whole blocks": (_directory_not_whole, "not whole blocks"),
    "hole": (_directory_with_hole, "has a hole"),
}


@pytest.mark.parametrize("kind", ["ext2", "ext4"])
@pytest.mark.parametrize("case", WALKS)
def test_a_damaged_directory_is_refused(case: str, kind: str, tmp_path: Path) -> None:
    damage, message = WALKS[case]
    sick = Sick(tmp_path / "image", kind)
    damage(sick)
    with pytest.raises(DataError, match=message) as refused:
        list(sick.volume().walk())
    assert str(refused.value.where).startswith("image, inode ")


_EXTENT = struct.Struct("<IHHI")
_HEADER = struct.Struct("<HHHHI")
FILES: dict[str, tuple[str, str, int, bytes, str]] = {
    "no magic of extents": ("ext4", "/source", 40, b"\0\0", "bad magic of an extent tree"),
    "too many extents": ("ext4", "/source", 42, b"\x05\0", "bad number of extents"),
    "depth of the root": ("ext4", "/source", 46, b"\x06\0", "bad depth"),
    "a root that is no leaf": ("ext4", "/source", 46, b"\x01\0", "a block lies outside|bad magic|not ascend"),
    "length 0": ("ext4", "/source", 56, b"\0\0", "do not ascend"),
    "past the end": ("ext4", "/source", 60, b"\xff\xff\xff\0", "outside the file system"),
    "high half": ("ext4", "/source", 58, b"\x01", "outside the file system"),
    "the superblock": ("ext4", "/source", 60, b"\x01\0\0\0", "outside the file system"),
    "pointer past the end": ("ext2", "/source", 40, b"\xff\xff\0\0", "outside the file system"),
    "pointer to the superblock": ("ext2", "/source", 40, b"\x01\0\0\0", "outside the file system"),
    "too long": ("ext4", "/source", 108, b"\xff\xff\xff\x7f", "longer than any can be"),
    "no type": ("ext4", "/source", 0, b"\xa4\x71", "no known type"),
    "extra size": ("ext4", "/source", 128, b"\x81\0", "extra size"),
    "extra size odd": ("ext4", "/source", 128, b"\x1e\0", "extra size"),
    "block of attributes": ("ext2", "/source", 104, b"\x10\0\0\0", "bad magic of a block of attributes"),
    "attributes past the end": ("ext2", "/source", 104, b"\xff\xff\0\0", "outside the file system"),
    "target of length 0": ("ext4", "/link-5", 4, b"\0\0\0\0", "bad length of a symlink"),
    "target with a NUL": ("ext4", "/link-5", 42, b"\0", "no readable target"),
    "target too long": ("ext4", "/link-200", 4, b"\0\x20\0\0", "bad length of a symlink"),
    "target in a hole": ("ext2", "/link-200", 40, b"\0\0\0\0", "no readable target"),
    "name of an attribute": ("ext4", "/source", 164, b"\xff", "bad attribute"),
    "prefix of an attribute": ("ext4", "/source", 165, b"\x0b", "no known kind"),
    "access list": ("ext4", "/source", 164, b"\0\x02", "unknown version"),
    "place of a value": ("ext4", "/source", 166, b"\xfe\xff", "cut off"),
    "size of a value": ("ext4", "/source", 172, b"\xff\xff\xff\xff", "bad attribute"),
    "inode of a value": ("inline", "/source", 168, b"\x0c\0\0\0", "no inode of an attribute"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_inode_is_refused(case: str, tmp_path: Path) -> None:
    kind, path, offset, data, message = FILES[case]
    sick = Sick(tmp_path / "image", kind)
    number = sick.number(path)
    sick.patch_inode(path, offset, data)
    volume = sick.volume()
    with pytest.raises(DataError, match=message) as refused:
        _read_whole(volume, number)
    assert str(refused.value.where).startswith("image, inode ")


def _read_whole(volume: Volume, number: int) -> None:
    inode = volume.inode(number)
    volume.xattrs(inode)
    if inode.is_symlink:
        volume.symlink_target(inode)
    else:
        list(volume.pieces(inode))


def test_pointers_in_a_circle_end(tmp_path: Path) -> None:
    """A block of pointers to itself stands for 256 ** 3 blocks."""
    sick = Sick(tmp_path / "image", "ext2")
    number, block = sick.number("/source"), 900
    patch(sick.path, block * SMALL_BLOCK_BYTES, struct.pack("<I", block) * 256)
    sick.patch_inode("/source", 40 + 14 * 4, struct.pack("<I", block))
    sick.patch_inode("/source", 4, b"\xff\xff\xff\xff")
    volume = sick.volume()
    with pytest.raises(DataError, match="more blocks than there are"):
        _read_whole(volume, number)


def test_a_node_of_extents_that_is_its_own_child_is_refused(tmp_path: Path) -> None:
    sick = Sick(tmp_path / "image", "ext4")
    number, block = sick.number("/source"), 900
    index = struct.pack("<IIHH", 0, block, 0, 0)
    patch(sick.path, block * SMALL_BLOCK_BYTES, _HEADER.pack(0xF30A, 1, 84, 1, 0) + index)
    sick.patch_inode("/source", 40, _HEADER.pack(0xF30A, 1, 4, 2, 0) + index)
    volume = sick.volume()
    with pytest.raises(DataError, match="bad depth"):
        _read_whole(volume, number)


@pytest.mark.parametrize("entries", [0, 1])
def test_one_leaf_under_many_indexes_is_refused(entries: int, tmp_path: Path) -> None:
    sick = Sick(tmp_path / "image", "ext4")
    number, leaf, node = sick.number("/source"), 900, 901
    patch(sick.path, leaf * SMALL_BLOCK_BYTES, _HEADER.pack(0xF30A, entries, 84, 0, 0) + _EXTENT.pack(0, 1, 0, 902))
    indexes = b"".join(struct.pack("<IIHH", first, leaf, 0, 0) for first in range(1, 85))
    patch(sick.path, node * SMALL_BLOCK_BYTES, _HEADER.pack(0xF30A, 84, 84, 1, 0) + indexes)
    roots = b"".join(struct.pack("<IIHH", 0, node, 0, 0) for _ in range(4))
    sick.patch_inode("/source", 40, _HEADER.pack(0xF30A, 4, 4, 2, 0) + roots)
    volume = sick.volume()
    if entries == 0:  # nothing in them, so nothing is wrong but their number
        _read_whole(volume, number)
        return
    with pytest.raises(DataError, match="do not ascend"):
        _read_whole(volume, number)


def test_extents_that_share_blocks_cannot_outgrow_the_disk(tmp_path: Path) -> None:
    sick = Sick(tmp_path / "image", "ext4")
    number = sick.number("/source")
    extents = b"".join(_EXTENT.pack(index * 500, 500, 0, 100) for index in range(4))
    sick.patch_inode("/source", 40, _HEADER.pack(0xF30A, 4, 4, 0, 0) + extents)
    sick.patch_inode("/source", 4, (2000 * SMALL_BLOCK_BYTES).to_bytes(4, "little"))
    volume = sick.volume()
    with pytest.raises(DataError, match="more blocks than there are"):
        _read_whole(volume, number)


SUPERBLOCKS = {
    "cut": (4, (5000).to_bytes(4, "little"), "cut off"),
    "blocks beyond any disk": (0x150, b"\xff\xff\xff\xff", "blocks_count"),
    "first block": (20, b"\x02\0\0\0", "first_data_block"),
    "groups of a few blocks": (32, b"\x01\0\0\0", "blocks_per_group"),
    "inodes of a group": (40, b"\xff\xff\0\0", "inodes_per_group"),
    "inodes": (0, b"\0\x02\0\0", "inodes_count"),
    "size of an inode": (88, b"\x81\0", "inode_size"),
    "size of an inode above a block": (88, b"\0\x08", "inode_size"),
    "first inode": (84, b"\x05\0\0\0", "first_inode"),
    "descriptors": (254, b"\x20\0", "desc_size"),
    "inode table": (1024 + 8, b"\xff\xff\0\0", "inode table"),
}


@pytest.mark.parametrize("case", SUPERBLOCKS)
def test_a_damaged_superblock_is_refused(case: str, tmp_path: Path) -> None:
    offset, data, message = SUPERBLOCKS[case]
    sick = Sick(tmp_path / "image", "ext4")
    patch(sick.path, 1024 + offset, data)
    with pytest.raises(DataError, match=message):
        list(sick.volume().walk())


def test_paths_that_no_program_can_open_are_refused(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext2", "-b", "1024", size="1M")
    name = "n" * 250
    commands = [f"mkdir {name}", f"cd {name}"]
    debugfs(image, *(commands * 17), writable=True)
    with pytest.raises(DataError, match="path is too long"):
        list(Volume.open(BytesReader(image.read_bytes())).walk())


def test_more_directories_than_blocks_are_refused(tmp_path: Path) -> None:
    """Many directories over the same blocks: each can be read, all together never end."""
    sick = Sick(tmp_path / "image", "ext4")
    size = 400 * SMALL_BLOCK_BYTES
    extent = _HEADER.pack(0xF30A, 1, 4, 0, 0) + _EXTENT.pack(0, 400, 0, 600)
    empty = struct.pack("<IHBB", 0, SMALL_BLOCK_BYTES, 0, 0).ljust(SMALL_BLOCK_BYTES, b"\0")
    places = [inode_offset(sick.path, sick.number(path), SMALL_BLOCK_BYTES) for path in ("/d/e/f", "/l", "/lost+found")]
    patch(sick.path, 600 * SMALL_BLOCK_BYTES, empty * 400)
    for place in places:
        patch(sick.path, place + 4, size.to_bytes(4, "little"))
        patch(sick.path, place + 40, extent)
    with pytest.raises(DataError, match="larger than the file system"):
        list(sick.volume().walk())


@pytest.mark.parametrize("number", [-1, 0, 257, 1 << 32])
def test_inodes_that_do_not_exist_are_refused(number: int) -> None:
    volume = Volume.open(BytesReader(small_image("ext4")), where="image")
    with pytest.raises(DataError, match="no such inode"):
        volume.inode(number)


def test_only_files_and_symlinks_have_contents() -> None:
    volume = Volume.open(BytesReader(small_image("ext4")), where="image")
    numbers = dict(volume.walk())
    for path in ("/", "/p", "/c"):
        with pytest.raises(DataError, match="no file with contents"):
            list(volume.pieces(volume.inode(numbers[path])))
    with pytest.raises(DataError, match="length of a symlink"):
        volume.symlink_target(volume.inode(numbers["/source"]))
