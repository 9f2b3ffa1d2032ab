"""Images of ext file systems for tests: made by mke2fs, asked and damaged by debugfs, mounted where possible."""

import functools
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from umldisk.image.extfs.inode import ExtInode
from umldisk.image.extfs.volume import Volume
from umldisk.image.reader import DiskReader
from umldisk.system.files import open_disk
from umldisk.system.process import find_program

SMALL_BLOCK_BYTES = 1024
SMALL_BYTES = 1 << 20
SMALL_KINDS = {
    "ext2": ["-t", "ext2", "-O", "dir_index,ext_attr,^resize_inode", "-I", "128"],
    "ext4": ["-t", "ext4", "-O", "^has_journal,^resize_inode,metadata_csum,64bit"],
    "inline": ["-t", "ext4", "-O", "^has_journal,^resize_inode,inline_data,ea_inode", "-I", "256"],
    "meta_bg": ["-t", "ext4", "-O", "^has_journal,meta_bg,^resize_inode,^flex_bg", "-g", "256"],
}

_NO_ID = 0xFFFFFFFF


def make_image(image: Path, *options: str, size: str = "16M", tree: Path | None = None) -> Path:
    """Make a file system with mke2fs, filled with `tree` where one is given."""
    filling = [] if tree is None else ["-d", str(tree)]
    command = [find_program("mke2fs"), "-q", "-F", *options, *filling, str(image), size]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    return image


def debugfs(image: Path, *commands: str, writable: bool = False) -> str:
    """Run debugfs commands on an image and return what they print."""
    argv = [find_program("debugfs"), *(["-w"] if writable else []), "-f", "-", str(image)]
    text = "".join(f"{command}\n" for command in commands)
    done = subprocess.run(argv, input=text.encode(), capture_output=True, check=True, timeout=120)
    return done.stdout.decode(errors="surrogateescape")


def stat_inode(image: Path, number: int) -> str:
    """Return what debugfs says about an inode."""
    return debugfs(image, f"stat <{number}>")


def block_of(image: Path, number: int, index: int = 0) -> int:
    """Return the block on the disk that block `index` of an inode's contents is."""
    return int(debugfs(image, f"bmap <{number}> {index}").splitlines()[-1])


def inode_offset(image: Path, number: int, block_bytes: int) -> int:
    """Return the byte where an inode stands."""
    found = re.search(r"located at block (\d+), offset 0x([0-9a-f]+)", debugfs(image, f"imap <{number}>"))
    assert found is not None
    return int(found[1]) * block_bytes + int(found[2], 16)


def patch(image: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of an image."""
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@contextmanager
def mount(image: Path, point: Path, options: str = "loop,noatime") -> Iterator[Path]:
    """Mount an image; needs root."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, str(image), str(point)], check=True, capture_output=True, timeout=60)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, capture_output=True, timeout=60)


@contextmanager
def open_volume(image: Path) -> Iterator[Volume]:
    """Open an image with the reader under test."""
    with open_disk(image) as disk:
        yield Volume.open(DiskReader(disk), where="image")


def contents(volume: Volume, inode: ExtInode) -> bytes:
    """Return a file as a whole, holes as zeros; checks that pieces ascend inside the file."""
    data, end = bytearray(inode.size_bytes), 0
    for offset, piece in volume.pieces(inode):
        assert offset >= end
        assert piece
        end = offset + len(piece)
        assert end <= inode.size_bytes
        data[offset:end] = piece
    return bytes(data)


def data_extents(path: Path) -> list[tuple[int, int]]:
    """Return where the kernel says that a file has data."""
    found, position, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:  # only a hole is left
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, position))
    return found


def yielded_extents(volume: Volume, inode: ExtInode) -> list[tuple[int, int]]:
    """Return where the reader says that a file has data, neighbours joined."""
    found: list[tuple[int, int]] = []
    for offset, data in volume.pieces(inode):
        if found and found[-1][1] == offset:
            found[-1] = (found[-1][0], offset + len(data))
        else:
            found.append((offset, offset + len(data)))
    return found


class LimitedReader:
    """A reader that fails the test when far more is read than there is."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = 20 * len(data) + 20 * SMALL_BYTES
        self.largest = 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        self.largest = max(self.largest, length)
        self._left -= length + 256
        assert self._left > 0, "the reader goes round in circles"
        return self._data[offset : offset + length]


SMALL_ACL = struct.pack(
    "<I" + "HHI" * 5, 2, *(1, 6, _NO_ID), *(2, 7, 1000), *(4, 4, _NO_ID), *(16, 7, _NO_ID), *(32, 4, _NO_ID)
)
"""An access list in the form of getxattr."""


@functools.cache
def small_image(kind: str) -> bytes:
    """Return a small image with one of everything, 75 paths; `inline` has a value in an inode, too."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        image = make_image(directory / "image", *SMALL_KINDS[kind], "-b", "1024", "-N", "256", size="1M")
        files = {
            "source": bytes(range(256)) * 80,
            "tiny": b"t" * 100,
            "holes": b"".join(b"%d" % number + bytes(2046) for number in range(10, 50)),
            "long": b"v" * 600,
            "longer": b"V" * 1024,
            "acl": SMALL_ACL,
        }
        for file, data in files.items():
            (directory / file).write_bytes(data)
        commands = [f"write {directory / file} {file}" for file in ("source", "tiny", "holes")]
        commands += ["mkdir d", "mkdir d/e", "mkdir d/e/f", "mkdir l", *["expand_dir l"] * 6]
        commands += [f"symlink link-{length} {'t' * length}" for length in (5, 59, 60, 200)]
        commands += [f"ln source l/{number}-{'n' * 60}" for number in range(60)]
        commands += ["mknod p p", "mknod c c 5 1", "ea_set source user.a 1", "ea_set d user.d dir"]
        commands += [f"ea_set -f {directory / 'long'} holes user.long", "ea_set holes user.short 2"]
        commands += [f"ea_set -f {directory / 'longer'} tiny user.longer"]
        commands += [f"ea_set -f {directory / 'acl'} d/e system.posix_acl_access"]
        debugfs(image, *commands, writable=True)
        return image.read_bytes()


@functools.cache
def guest_image() -> bytes:
    """Return an ext4 of 8 MiB with the files of a made-up guest, 12 paths and a journal."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        image = make_image(directory / "image", "-t", "ext4", "-b", "4096", size="8M")
        (directory / "motd").write_bytes(b"some text\n")
        (directory / "acl").write_bytes(SMALL_ACL)
        with (directory / "holes").open("wb") as file:
            os.pwrite(file.fileno(), b"start", 0)
            os.pwrite(file.fileno(), b"end", 2_000_000)
        commands = ["mkdir etc", "cd etc", f"write {directory / 'motd'} motd", "cd /", "ln etc/motd copy"]
        commands += [f"write {directory / 'holes'} holes", "symlink link etc/motd", f"symlink long {'l' * 100}"]
        commands += ["mkdir dev", "cd dev", "mknod null c 1 3", "mknod disk b 1 1", "cd /", "mknod pipe p"]
        commands += ["sif dev/disk block[0] 0", "sif dev/disk block[1] 0x11112c70"]  # 300, 70000
        commands += ["sif etc/motd links_count 2", "sif etc/motd mode 0104755", "sif etc/motd uid 70000"]
        commands += ["sif etc/motd gid 5", "sif etc/motd mtime 0x7fffffff", "sif etc/motd mtime_extra 0x1d"]
        commands += [f"ea_set -f {directory / 'acl'} etc system.posix_acl_access", "ea_set holes user.colour blue"]
        debugfs(image, *commands, "sif / mode 040711", writable=True)
        return image.read_bytes()
