"""The ext reader against e2fsprogs, for everyone and for what the kernel does not mount here.

mke2fs -d fills the image from a directory that is then compared with what is read, so that nothing has to be mounted.
"""

import os
import re
from pathlib import Path

import pytest

from tests.kit.extimage import block_of, contents, debugfs, make_image, open_volume, patch, stat_inode
from tests.kit.model import write_cow
from tests.kit.peers import needs
from umldisk.cow.file import CowFile
from umldisk.errors import DataError
from umldisk.image.extfs.volume import Volume, inode_numbers

pytestmark = needs("mke2fs", "debugfs")

KINDS = {
    "blocks of 64 KiB": ["-t", "ext4", "-b", "65536"],
    "meta_bg, 64bit": ["-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,64bit,^resize_inode"],
    "meta_bg, every group with a superblock": [
        *("-t", "ext2", "-b", "1024", "-g", "512"),
        *("-O", "^sparse_super,meta_bg,^resize_inode"),
    ],
    "bigalloc, meta_bg": ["-t", "ext4", "-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode"],
    "casefold and large_dir": ["-t", "ext4", "-O", "casefold,large_dir"],
    "no file types": ["-t", "ext2", "-O", "^filetype"],
    "revision 0": ["-t", "ext2", "-r", "0"],
    "hurd": ["-t", "ext2", "-o", "hurd"],
    "encrypt, without a file that is": ["-t", "ext4", "-O", "encrypt"],
    "quota, mmp, verity, project": ["-t", "ext4", "-I", "256", "-O", "quota,mmp,verity,project"],
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for number in range(40):
        directory = tree / f"directory {number % 7}" / f"sub {number}"
        directory.mkdir(parents=True)
        for size in (0, 10, 5000 * number):
            (directory / f"file-{size}").write_bytes(os.urandom(size))
        (directory / "link").symlink_to("../" + "x" * number * 3)
    (tree / "many").mkdir()
    for number in range(3000):
        (tree / "many" / f"{number:x}").touch()
    with (tree / "sparse").open("wb") as file:
        file.truncate(40 << 20)
        os.pwrite(file.fileno(), b"end", (40 << 20) - 3)
    return tree


@pytest.mark.parametrize("kind", KINDS)
def test_what_mke2fs_takes_is_read(kind: str, tree: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", *KINDS[kind], "-N", "4096", size="96M", tree=tree)
    expected = {"/", "/lost+found"} | {f"/{path.relative_to(tree)}" for path in tree.rglob("*")}
    with open_volume(image) as volume:
        numbers = inode_numbers(volume)
        assert set(numbers) == expected
        for path in expected - {"/", "/lost+found"}:
            inode, real = volume.inode(numbers[path]), tree / path[1:]
            status = real.lstat()
            assert (inode.mode, inode.mtime_ns // 10**9) == (status.st_mode, status.st_mtime_ns // 10**9)
            if real.is_symlink():
                assert volume.symlink_target(inode) == os.fsencode(os.readlink(real))
            elif real.is_file():
                assert contents(volume, inode) == real.read_bytes()
        assert sum(len(data) for _offset, data in volume.pieces(volume.inode(numbers["/sparse"]))) <= 65536


def test_debugfs_lists_the_same_numbers(tree: Path, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096", "-N", "4096", size="32M", tree=tree / "many")
    with open_volume(image) as volume:
        numbers = inode_numbers(volume)
    lines = [line.split("/") for line in debugfs(image, "ls -p /").splitlines() if line.startswith("/")]
    listed = {f"/{fields[5]}": int(fields[1]) for fields in lines if fields[5] not in (".", "..")}
    assert len(listed) == 3001
    assert numbers == {"/": 2} | listed


def test_birth_and_generation_are_those_of_debugfs(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", size="8M")
    debugfs(image, "mkdir d", "sif d crtime 0x0fffffff", "sif d crtime_extra 0x00000007", writable=True)
    debugfs(image, "sif d generation 77", "sif d flags 0x80010", writable=True)
    with open_volume(image) as volume:
        inode = volume.inode(inode_numbers(volume)["/d"])
        assert inode.born_ns == (0x0FFFFFFF + (3 << 32)) * 10**9 + 1
        assert (inode.generation, inode.flags) == (77, 0x80010)
        found = re.search(r"Generation: (\d+)", stat_inode(image, inode.number))
        assert found is not None
        assert int(found[1]) == 77


def test_small_inodes_have_no_birth(tmp_path: Path) -> None:
    with open_volume(make_image(tmp_path / "image", "-t", "ext2", "-I", "128", size="8M")) as volume:
        assert volume.inode(2).born_ns is None


def test_three_levels_of_pointers_are_followed(tmp_path: Path) -> None:
    """With blocks of 1 KiB the third level begins at 64 MiB."""
    big = tmp_path / "tree" / "big"
    big.parent.mkdir()
    pieces = {0: b"direct", 12 << 10: b"one", 268 << 10: b"two", 65804 << 10: b"three", (16 << 30) - 5: b"last!"}
    with big.open("wb") as file:
        for offset, data in pieces.items():
            os.pwrite(file.fileno(), data, offset)
    image = make_image(tmp_path / "image", "-t", "ext2", "-b", "1024", size="8M", tree=big.parent)
    with open_volume(image) as volume:
        inode = volume.inode(inode_numbers(volume)["/big"])
        found = {
            offset + data.find(part): part for offset, data in volume.pieces(inode) for part in [data.strip(b"\0")]
        }
    assert inode.size_bytes == 16 << 30
    assert {offset: data for offset, data in found.items() if data} == pieces


def test_an_extent_tree_of_two_levels_is_followed(tmp_path: Path) -> None:
    """340 extents fill a block of 4 KiB, four of those the inode: more need one level more."""
    path = tmp_path / "tree" / "holes"
    path.parent.mkdir()
    with path.open("wb") as file:
        for number in range(1500):
            os.pwrite(file.fileno(), b"%d" % number, number * 8192)
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096", size="32M", tree=path.parent)
    with open_volume(image) as volume:
        inode = volume.inode(inode_numbers(volume)["/holes"])
        assert contents(volume, inode) == path.read_bytes()
        assert len(list(volume.pieces(inode))) == 1500
    levels = re.search(
        r"Level Entries.*?^ (\d+)/ *(\d+)", debugfs(image, "dump_extents /holes"), re.DOTALL | re.MULTILINE
    )
    assert levels is not None
    assert int(levels[2]) >= 2


class _Counting:
    """A reader that remembers what was asked of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.lengths: list[int] = []

    def read(self, offset: int, length: int) -> bytes:
        self.lengths.append(length)
        return self.data[offset : offset + length]


def test_numbers_cost_no_more_than_the_directories(tmp_path: Path) -> None:
    """An inode and its few blocks for each directory, nothing for each file: so 100,000 names take a moment."""
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096", "-O", "^dir_index", "-N", "1000", size="16M")
    commands = [f"mkdir d{number}" for number in range(20)]
    links = [f"ln target d{number % 20}/name-{number}" for number in range(2000)]
    debugfs(image, *commands, "mknod target p", *links, writable=True)
    reader = _Counting(image.read_bytes())
    volume = Volume.open(reader)
    reader.lengths.clear()
    assert len(inode_numbers(volume)) == 2023
    descriptors, directories = 1, 22
    assert len(reader.lengths) <= descriptors + directories * 2
    assert sum(reader.lengths) < (directories + 5) * 5000


def test_a_journal_to_replay_is_a_fact(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", size="8M")
    with open_volume(image) as volume:
        assert not volume.needs_recovery
    debugfs(image, "feature needs_recovery", writable=True)
    with open_volume(image) as volume:
        assert volume.needs_recovery
        assert set(inode_numbers(volume)) == {"/", "/lost+found"}


@pytest.mark.parametrize(
    ("feature", "bit"), [("compression", 0), ("journal_dev", 3), ("dirdata", 12), ("incompat_31", 31)]
)
def test_features_that_change_the_meaning_are_refused_by_name(feature: str, bit: int, tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext2", size="8M")
    offset = 1024 + 96
    mask = int.from_bytes(image.read_bytes()[offset : offset + 4], "little") | 1 << bit
    patch(image, offset, mask.to_bytes(4, "little"))
    with pytest.raises(DataError, match=feature), open_volume(image):
        pass


def test_unknown_features_that_only_matter_to_writers_do_no_harm(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", size="8M")
    patch(image, 1024 + 100 + 3, b"\x80")
    patch(image, 1024 + 92 + 3, b"\x80")
    with open_volume(image) as volume:
        assert {"compat_31", "ro_compat_31"} <= volume.features
        assert "/lost+found" in inode_numbers(volume)


def test_encrypted_files_are_refused_where_they_are_read(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", "-O", "encrypt", size="8M")
    debugfs(image, "mkdir d", "symlink s target", "write /dev/null f", writable=True)
    for name in "dsf":
        flags = re.search(r"Flags: (0x[0-9a-f]+)", debugfs(image, f"stat {name}"))
        assert flags is not None
        debugfs(image, f"sif {name} flags {int(flags[1], 16) | 0x800:#x}", writable=True)
    with open_volume(image) as volume:
        children = volume.children(volume.inode(2))
        for reading in (
            lambda: list(volume.walk()),
            lambda: volume.symlink_target(volume.inode(children[b"s"])),
            lambda: list(volume.pieces(volume.inode(children[b"f"]))),
        ):
            with pytest.raises(DataError, match="encrypt"):
                reading()


def test_blocks_are_found_where_debugfs_finds_them(tmp_path: Path) -> None:
    """A block map that does not ascend on the disk: 2, 0, 1."""
    image = make_image(tmp_path / "image", "-t", "ext2", "-b", "1024", size="8M")
    source = tmp_path / "source"
    source.write_bytes(b"0" * 1024 + b"1" * 1024 + b"2" * 1024)
    debugfs(image, f"write {source} f", writable=True)
    with open_volume(image) as volume:
        number = inode_numbers(volume)["/f"]
    blocks = [block_of(image, number, index) for index in range(3)]
    places = [blocks[2], blocks[0], blocks[1]]
    debugfs(image, *(f"sif f block[{index}] {place}" for index, place in enumerate(places)), writable=True)
    with open_volume(image) as volume:
        assert contents(volume, volume.inode(number)) == b"2" * 1024 + b"0" * 1024 + b"1" * 1024


def test_a_file_ends_where_its_size_says(tmp_path: Path) -> None:
    """Blocks past the end are no contents, in either kind of map."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 300_000)
    for kind in ("ext2", "ext4"):
        image = make_image(tmp_path / "image", "-t", kind, "-b", "1024", size="8M")
        debugfs(image, f"write {source} f", "sif f size 1500", f"write {source} g", "sif g size 0", writable=True)
        with open_volume(image) as volume:
            numbers = inode_numbers(volume)
            assert contents(volume, volume.inode(numbers["/f"])) == b"x" * 1500
            assert list(volume.pieces(volume.inode(numbers["/g"]))) == []


def test_a_merged_view_is_read_like_an_image(tmp_path: Path) -> None:
    """What a guest changed is seen through its COW file, what it left alone comes from below."""
    backing = make_image(tmp_path / "backing", "-t", "ext4", "-b", "4096", size="8M")
    debugfs(backing, "mkdir old", "mknod gone p", writable=True)
    before = backing.read_bytes()
    changed = tmp_path / "changed"
    changed.write_bytes(before)
    source = tmp_path / "source"
    source.write_bytes(b"written by the guest" * 1000)
    debugfs(changed, f"write {source} new", "rm gone", writable=True)
    after = changed.read_bytes()
    sectors = {number: after[number * 512 : number * 512 + 512] for number in range(len(after) // 512)}
    sectors = {number: data for number, data in sectors.items() if data != before[number * 512 : number * 512 + 512]}
    write_cow(tmp_path / "cow", backing, sectors)
    with CowFile.open(tmp_path / "cow") as cow:
        volume = Volume.open(cow)
        numbers = inode_numbers(volume)
        assert set(numbers) == {"/", "/lost+found", "/old", "/new"}
        assert contents(volume, volume.inode(numbers["/new"])) == source.read_bytes()
