"""An ext image as a base: everything in it, packed or not, and a clear word about every image that is none."""

import bz2
import gzip
import hashlib
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.extimage import SMALL_ACL, debugfs, guest_image
from tests.kit.peers import needs
from umldisk.build.bases.compression import open_archive
from umldisk.build.bases.image import START_BYTES, ImageBase, is_disk_image
from umldisk.build.tree import Entry, FileType, HardLink, Tree, plant

pytestmark = needs("mke2fs", "debugfs")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(guest_image())
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "scratch"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []


def read(source: Path | str, scratch: Path) -> tuple[dict[str, object], str | None]:
    """Return every path of a base as a plain value, and the digest."""
    found: dict[str, object] = {}
    with ImageBase(str(source), scratch=str(scratch)) as base:
        for entry in base.entries():
            assert entry.path not in found
            found[entry.path] = entry.target if isinstance(entry, HardLink) else _plain(entry)
        assert (base.origin.kind, base.origin.source) == ("ext", str(source))
        return found, base.origin.sha256


def _plain(entry: Entry) -> tuple[object, ...]:
    inode = entry.inode
    contents = bytearray(inode.contents.size_bytes)
    for offset, data in inode.contents.pieces():
        contents[offset : offset + len(data)] = data
    facts = (inode.inode_mode, inode.uid, inode.gid, inode.device, inode.target)
    return (*facts, inode.mtime_ns, hashlib.sha256(contents).hexdigest(), inode.xattrs)


def _entries(image: Path, scratch: Path) -> dict[str, Entry | HardLink]:
    with ImageBase(str(image), scratch=str(scratch)) as base:
        return {entry.path: entry for entry in base.entries()}


def test_entries_are_what_is_in_the_image(image: Path, scratch: Path) -> None:
    entries = _entries(image, scratch)
    paths = ["/", "/copy", "/dev", "/dev/disk", "/dev/null", "/etc", "/etc/motd", "/holes", "/link", "/long", "/pipe"]
    assert list(entries) == paths
    assert entries["/etc/motd"] == HardLink("/etc/motd", "/copy")
    inodes = {path: entry.inode for path, entry in entries.items() if isinstance(entry, Entry)}
    assert inodes["/"].mode == 0o711
    motd = inodes["/copy"]
    assert (motd.type, motd.mode, motd.uid, motd.gid) == (FileType.FILE, 0o4755, 70_000, 5)
    assert motd.mtime_ns == (0x7FFFFFFF + (1 << 32)) * 10**9 + 7
    assert (inodes["/link"].target, inodes["/long"].target) == ("etc/motd", "l" * 100)
    assert (inodes["/dev/null"].type, inodes["/dev/null"].device) == (FileType.CHARACTER_DEVICE, (1, 3))
    assert (inodes["/dev/disk"].type, inodes["/dev/disk"].device) == (FileType.BLOCK_DEVICE, (300, 70_000))
    assert inodes["/pipe"].type is FileType.FIFO
    assert inodes["/etc"].xattrs == (("system.posix_acl_access", SMALL_ACL),)
    assert inodes["/holes"].xattrs == (("user.colour", b"blue"),)


def test_a_tree_can_be_planted_with_it(image: Path, scratch: Path) -> None:
    tree: Tree = {}
    with ImageBase(str(image), scratch=str(scratch)) as base:
        plant(tree, base.entries())
    assert tree["/copy"] is tree["/etc/motd"]
    assert len(tree) == 11


def test_contents_keep_their_holes(image: Path, scratch: Path) -> None:
    with ImageBase(str(image), scratch=str(scratch)) as base:
        (holes,) = (entry for entry in base.entries() if entry.path == "/holes")
        assert isinstance(holes, Entry)
        pieces = list(holes.inode.contents.pieces())
        assert pieces == list(holes.inode.contents.pieces())
    assert holes.inode.contents.size_bytes == 2_000_003
    assert sum(len(data) for _offset, data in pieces) <= 8192
    assert pieces[0][1][:5] == b"start"
    assert pieces[-1][1][-3:] == b"end"


@pytest.mark.parametrize("form", ["gz", "bz2", "xz", "zst"])
def test_packed_images_are_the_same(form: str, image: Path, scratch: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(_packed(form, image.read_bytes()))
    found, digest = read(packed, scratch)
    assert found == read(image, scratch)[0]
    assert digest == hashlib.sha256(packed.read_bytes()).hexdigest()


def _packed(form: str, data: bytes) -> bytes:
    if form == "zst":
        zstandard = pytest.importorskip("zstandard")
        return bytes(zstandard.ZstdCompressor().compress(data))
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[form](data)


def test_the_digest_of_a_plain_image_is_that_of_sha256sum(image: Path, scratch: Path) -> None:
    assert read(image, scratch)[1] == hashlib.sha256(image.read_bytes()).hexdigest()


def test_unpacking_leaves_the_zeros_out(image: Path, scratch: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    with ImageBase(str(packed), scratch=str(scratch)) as base:
        allocated = base._disk.status.st_blocks * 512
        assert base._disk.size_bytes == 8 << 20
        assert 0 < allocated < 3 << 20
        assert len(list(base.entries())) == 11


@pytest.mark.parametrize("through", ["pipe", "file", "fifo"])
def test_an_image_comes_from_anywhere(through: str, image: Path, scratch: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from umldisk.build.bases.image import ImageBase\n"
        "with ImageBase(sys.argv[1], scratch=sys.argv[2]) as base:\n"
        "    paths = [entry.path for entry in base.entries()]\n"
        "    sys.stdout.write(f'{len(paths)} {base.origin.sha256}')\n"
    )
    source = "-"
    if through == "fifo":
        source = str(tmp_path / "fifo")
        os.mkfifo(source)
    command = [sys.executable, "-c", code, source, str(scratch)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as child:
        if through == "fifo":
            Path(source).write_bytes(image.read_bytes())
        out, _err = child.communicate(image.read_bytes() if through == "pipe" else None)
    if through == "file":
        with image.open("rb") as file:
            out = subprocess.run(command, stdin=file, capture_output=True, check=True, cwd=root).stdout
    assert out.decode() == f"11 {hashlib.sha256(image.read_bytes()).hexdigest()}"


def test_an_archive_that_was_peeked_into_is_taken_over(image: Path, scratch: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    archive = open_archive(str(packed))
    assert is_disk_image(archive.peek(START_BYTES))
    with ImageBase(str(packed), scratch=str(scratch), archive=archive) as base:
        assert len(list(base.entries())) == 11
        assert base.origin.sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "command",
    ["sif lost+found mode 040755", "sif lost+found uid 5", "sif lost+found gid 5", "ln pipe lost+found/pipe"],
)
def test_lost_and_found_is_kept_when_it_is_not_as_it_was_made(command: str, image: Path, scratch: Path) -> None:
    debugfs(image, command, writable=True)
    assert "/lost+found" in _entries(image, scratch)


def test_lost_and_found_elsewhere_is_kept(image: Path, scratch: Path) -> None:
    debugfs(image, "mkdir etc/lost+found", "sif etc/lost+found mode 040700", writable=True)
    assert "/etc/lost+found" in _entries(image, scratch)


def test_two_names_are_a_hard_link_whatever_the_inode_counts(image: Path, scratch: Path) -> None:
    debugfs(image, "sif etc/motd links_count 1", writable=True)
    assert _entries(image, scratch)["/etc/motd"] == HardLink("/etc/motd", "/copy")
