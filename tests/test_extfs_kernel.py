"""The ext reader against the kernel: what is written through a mount is read back without one, byte for byte.

Each kind of file system is mounted once and filled with everything that an inode can be; after a second, read-only
mount has told what the kernel sees, the image is read by itself.
"""

import os
import random
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.extimage import contents, data_extents, make_image, mount, open_volume, yielded_extents
from tests.kit.peers import needs
from umldisk.image.extfs.volume import Volume, inode_numbers

pytestmark = needs("root", "ext4", "mke2fs", "setfacl", "setcap")

KINDS = {
    "ext2": ["-t", "ext2", "-b", "1024"],
    "ext2 of 1995": ["-t", "ext2", "-b", "4096", "-O", "none", "-I", "128"],
    "ext3": ["-t", "ext3", "-b", "4096"],
    "ext4": ["-t", "ext4", "-b", "4096", "-O", "metadata_csum,64bit"],
    "ext4, small blocks": ["-t", "ext4", "-b", "1024", "-O", "metadata_csum,64bit"],
    "ext4, small inodes": ["-t", "ext4", "-b", "2048", "-I", "128", "-O", "^64bit,^metadata_csum"],
    "inline_data": ["-t", "ext4", "-b", "4096", "-I", "512", "-O", "inline_data"],
    "ea_inode": ["-t", "ext4", "-b", "4096", "-O", "ea_inode"],
    "bigalloc": ["-t", "ext4", "-b", "1024", "-O", "bigalloc"],
    "meta_bg": ["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^64bit"],
    "sparse_super2": ["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,sparse_super2"],
}
_ODD_NAMES = [b"new\nline", b"\xff\xfe", b"sp ace", b"-dash", "grün".encode(), b"\x01", b"x" * 255, b"quote\"'\\"]
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Seen:
    """What the kernel says about one path."""

    status: os.stat_result
    target: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    data: bytes
    extents: list[tuple[int, int]]


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("extfs")
    image = make_image(directory / "image", *KINDS[kind], "-N", "8192", size="64M")
    with mount(image, directory / "point") as point:
        fill(point)
    return image


@pytest.fixture(scope="module")
def seen(image: Path) -> dict[str, Seen]:
    with mount(image, image.parent / "point", "loop,ro,noatime") as point:
        return {path: look(point, path) for path in paths(point)}


@pytest.fixture
def volume(image: Path, seen: dict[str, Seen]) -> Iterator[Volume]:
    with open_volume(image) as volume:
        yield volume


def fill(top: Path) -> None:
    fill_files(top / "files")
    fill_names(top / "names")
    fill_links(top / "links")
    fill_nodes(top / "nodes")
    fill_attributes(top / "attributes")
    fill_times(top / "times")


def fill_files(top: Path) -> None:
    top.mkdir()
    noise = random.Random(1)
    for size in (0, 1, 59, 60, 61, 150, 160, 400, 1024, 4095, 4096, 4097, 300_000):
        (top / f"size-{size}").write_bytes(noise.randbytes(size))
    with (top / "thousands of extents").open("wb") as file:
        for number in range(2500):
            os.pwrite(file.fileno(), b"%d" % number, number * 8192)
    with (top / "order 2 0 1").open("wb") as file:
        for number in (2, 0, 1, 5, 4, 3):
            os.pwrite(file.fileno(), noise.randbytes(4096), number * 4096)
            os.fsync(file.fileno())
    for number in range(12):
        with (top / f"random {number}").open("wb") as file:
            for _ in range(noise.randrange(1, 20)):
                os.pwrite(file.fileno(), noise.randbytes(noise.randrange(1, 9000)), noise.randrange(200_000))
            file.truncate(noise.randrange(1, 220_000))
    grown = top / "inline, grown by truncate"
    grown.write_bytes(b"short")
    os.truncate(grown, 3000)
    fill_allocated(top)


def fill_allocated(top: Path) -> None:
    """Files with blocks that were never written, where the file system has such a thing."""
    path = top / "unwritten"
    for options in (["--length", "100000"], ["--keep-size", "--offset", "100000", "--length", "65536"]):
        subprocess.run(["fallocate", *options, str(path)], check=False, capture_output=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
        os.pwrite(file.fileno(), b"in the middle", 50_000)


def fill_names(top: Path) -> None:
    top.mkdir()
    for name in _ODD_NAMES:
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).write_bytes(name)
    (top / "empty").mkdir()
    (top / "few").mkdir()
    (top / "few" / "a").touch()
    many = top / "many"
    many.mkdir()
    for number in range(5200):
        (many / f"a longer name for number {number}").touch()
    for number in range(0, 5200, 3):
        (many / f"a longer name for number {number}").unlink()
    deep = top
    for number in range(30):
        deep /= f"level {number}"
        deep.mkdir()
    (deep / "bottom").write_text("deep")


def fill_links(top: Path) -> None:
    top.mkdir()
    for length in (1, 58, 59, 60, 61, 150, 700, 1000):
        (top / f"symlink-{length}").symlink_to("t" * length)
    os.symlink(b"/bytes \xff\n", os.fsencode(top) + b"/bytes")
    (top / "one").write_text("shared")
    (top / "elsewhere").mkdir()
    os.link(top / "one", top / "two")
    os.link(top / "one", top / "elsewhere" / "three")
    os.link(top / "symlink-59", top / "same symlink")


def fill_nodes(top: Path) -> None:
    top.mkdir()
    for major, minor in ((1, 3), (0, 0), (255, 255), (256, 0), (8, 256), (300, 70_000), (4095, (1 << 20) - 1)):
        os.mknod(top / f"c{major}-{minor}", stat.S_IFCHR | 0o600, os.makedev(major, minor))
        os.mknod(top / f"b{major}-{minor}", stat.S_IFBLK | 0o640, os.makedev(major, minor))
    os.mkfifo(top / "fifo")
    here = os.open(top, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    for mode in (0o4755, 0o2755, 0o1777, 0o000, 0o7777):
        (top / f"mode-{mode:o}").touch()
        os.chmod(top / f"mode-{mode:o}", mode)
    for owner in (1, 65_535, 65_536, 70_000, (1 << 32) - 2):
        (top / f"owner-{owner}").touch()
        os.chown(top / f"owner-{owner}", owner, owner ^ 1)


def fill_attributes(top: Path) -> None:
    top.mkdir()
    for name in ("small", "large", "both", "list", "capable"):
        (top / name).write_text("x" * 20)
    (top / "inherits").mkdir()
    os.setxattr(top / "small", "user.a", b"1")
    os.setxattr(top / "large", "user.large", b"L" * 700)
    os.setxattr(top / "both", "user.in the inode", b"i" * 10)
    os.setxattr(top / "both", "user.in the block", b"b" * 300)
    os.setxattr(top / "both", "trusted.\udcff", b"\0\xff")
    os.setxattr(top / "both", "user.empty", b"")
    try:  # only with ea_inode is there room for it
        os.setxattr(top / "both", "user.huge", bytes(range(256)) * 250)
    except OSError:
        os.setxattr(top / "both", "user.huge", b"too large")
    subprocess.run(["setfacl", "-m", "u:1000:rwx,u:70000:r,g:5:x,m::rx", top / "list"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rw", top / "inherits"], check=True)
    subprocess.run(["setcap", "cap_net_raw,cap_chown+ep", top / "capable"], check=True)


def fill_times(top: Path) -> None:
    top.mkdir()
    for seconds in (-(1 << 31), -1, 0, 1, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 32) + (1 << 31), 15_000_000_000):
        for nanoseconds in (0, 1, 999_999_999):
            path = top / f"{seconds}.{nanoseconds}"
            path.touch()
            os.utime(path, ns=(1_000_000_007, seconds * _SECOND_NS + nanoseconds))


def paths(point: Path) -> Iterator[str]:
    """Yield every path below a mount point, and "/"."""
    yield "/"
    for directory, directories, files in os.walk(os.fsencode(point)):
        for name in directories + files:
            path = os.path.join(directory, name)[len(os.fsencode(point)) :]
            yield path.decode("utf-8", "surrogateescape")


def look(point: Path, path: str) -> Seen:
    real = Path(os.fsdecode(os.fsencode(point) + path.encode("utf-8", "surrogateescape")))
    status = os.lstat(real)
    names = os.listxattr(real, follow_symlinks=False)
    is_file = stat.S_ISREG(status.st_mode)
    extents = data_extents(real) if is_file else []  # before reading: cached pages of unwritten extents count as data
    return Seen(
        status,
        os.fsencode(os.readlink(real)) if stat.S_ISLNK(status.st_mode) else b"",
        tuple(sorted((name, os.getxattr(real, name, follow_symlinks=False)) for name in names)),
        real.read_bytes() if is_file else b"",
        extents,
    )


def test_every_path_leads_to_the_kernels_inode(volume: Volume, seen: dict[str, Seen]) -> None:
    numbers = inode_numbers(volume)
    assert numbers == {path: found.status.st_ino for path, found in seen.items()}
    assert len(numbers) > 3500
    assert {"/", "/lost+found", "/names/\udcff\udcfe", "/names/new\nline"} <= set(numbers)


def test_the_walk_is_sorted_and_gives_directories_first(volume: Volume) -> None:
    walked = [path.encode("utf-8", "surrogateescape").split(b"/")[1:] for path, _number in volume.walk()]
    assert walked[0] == [b""]
    assert walked[1:] == sorted(walked[1:])


def test_inodes_say_what_stat_says(volume: Volume, seen: dict[str, Seen]) -> None:
    for path, found in seen.items():
        inode, status = volume.inode(found.status.st_ino), found.status
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        assert (inode.mode, inode.uid, inode.gid) == (status.st_mode, status.st_uid, status.st_gid), path
        assert (inode.size_bytes, inode.links, inode.device) == (status.st_size, status.st_nlink, device), path
        assert (inode.mtime_ns, inode.ctime_ns, inode.atime_ns) == (
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_atime_ns,
        ), path


def test_contents_are_the_same(volume: Volume, seen: dict[str, Seen]) -> None:
    files = {path: found for path, found in seen.items() if stat.S_ISREG(found.status.st_mode)}
    assert len(files) > 3500
    for path, found in files.items():
        assert contents(volume, volume.inode(found.status.st_ino)) == found.data, path


def test_holes_are_where_the_kernel_sees_them(kind: str, volume: Volume, seen: dict[str, Seen]) -> None:
    for path, found in seen.items():
        if found.extents and not (kind == "inline_data" and found.status.st_blocks == 0):
            assert yielded_extents(volume, volume.inode(found.status.st_ino)) == found.extents, path


def test_symlinks_lead_where_readlink_says(volume: Volume, seen: dict[str, Seen]) -> None:
    links = {path: found for path, found in seen.items() if stat.S_ISLNK(found.status.st_mode)}
    assert len(links) == 10
    for path, found in links.items():
        assert volume.symlink_target(volume.inode(found.status.st_ino)) == found.target, path


def test_attributes_are_those_of_getxattr(volume: Volume, seen: dict[str, Seen]) -> None:
    for path, found in seen.items():
        assert volume.xattrs(volume.inode(found.status.st_ino)) == found.xattrs, path
    names = {name for found in seen.values() for name, _value in found.xattrs}
    assert {"security.capability", "system.posix_acl_access", "system.posix_acl_default", "trusted.\udcff"} <= names


def test_what_the_kernel_made_is_what_the_test_is_about(kind: str, volume: Volume, seen: dict[str, Seen]) -> None:
    assert kind.partition(",")[0] in volume.features | {"ext2", "ext3", "ext4", "ext2 of 1995"}
    assert not volume.needs_recovery
    assert len(seen["/files/thousands of extents"].extents) == 2500
    if kind == "ea_inode":
        assert any(len(value) == 64_000 for _name, value in seen["/attributes/both"].xattrs)
    if kind == "ext4":
        assert seen["/times/15000000000.999999999"].status.st_mtime_ns == 15_000_000_000 * _SECOND_NS + 999_999_999
