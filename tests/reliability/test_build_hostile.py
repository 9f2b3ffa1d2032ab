"""Bases that are no bases, damaged images, bombs, odd directories: one line, the right exit code, nothing left."""

import contextlib
import io
import os
import random
import resource
import signal
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.kit import extimage
from tests.kit.peers import needs
from tests.reliability.arguments import ERROR
from tests.reliability.members import PACKERS, archive, chain, file, header, sample
from tests.reliability.scenes import run
from tests.reliability.yard import USER_ID, Yard
from umldisk.system.swapping import open_directory

pytestmark = [needs("mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

DATA, NO_INPUT, USAGE = 65, 66, 2
MEMORY_BYTES = 220 << 20


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("etc/motd", "hello")
    return stream.getvalue()


NO_BASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found nothing"),
    "one-byte": (b"x", "unknown kind"),
    "one-zero": (b"\0", "found zeros"),
    "text": (b"hello, world\n" * 1000, "unknown kind"),
    "noise": (random.Random(2).randbytes(100_000), "unknown kind"),
    "qcow2": (b"QFI\xfb" + bytes(70_000), "QCOW image"),
    "squashfs": (b"hsqs" + bytes(70_000), "squashfs image"),
    "zip": (_zip(), "zip archive"),
    "mbr": (bytes(510) + b"\x55\xaa" + bytes(4096), "disk with partitions"),
    "gpt": (bytes(512) + b"EFI PART" + bytes(4096), "disk with partitions"),
    "huge-name": (header("././@LongLink", 1 << 40, b"L"), "extended header is too long"),
    "huge-pax": (header("pax", 1 << 40, b"x"), "extended header is too long"),
    "huge-file": (header("f", 1 << 40) + b"x" * 5000, "cut short"),
}


@pytest.mark.parametrize("name", NO_BASES)
def test_a_file_of_another_kind_is_refused(name: str, yard: Yard, base: Path) -> None:
    contents, says = NO_BASES[name]
    base.write_bytes(contents)
    yard.refused(DATA, says, "--base", base)


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/null", "/dev/full", "/dev/tty", "/nowhere/at/all"])
def test_what_is_no_file_is_no_input(source: str, yard: Yard) -> None:
    yard.refused(NO_INPUT, r"not an archive|cannot open", "--base", source)


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("debian:", USAGE),
        ("debian:BOOKWORM", USAGE),
        ("debian:../../x", USAGE),
        ("debian:a b", USAGE),
        ("debian:a\nb", USAGE),
        ("debian:--help", USAGE),
        ("ubuntu:$(touch canary)", USAGE),
        ("debian:x;touch canary", USAGE),
        ("fedora:39", NO_INPUT),
        ("debian", NO_INPUT),
        ("; touch canary", NO_INPUT),
        ("x" * 5000, NO_INPUT),
        ("\udcff\n", NO_INPUT),
    ],
)
def test_an_odd_word_names_no_base(word: str, code: int, yard: Yard) -> None:
    yard.refused(code, "not a suite|cannot open", "--base", word)


def _bomb(base: Path, filling: bytes, times: int) -> None:
    with base.open("wb") as stream, zstandard.ZstdCompressor(level=1).stream_writer(stream) as packer:
        packer.write(header("large", len(filling) * times))
        for _ in range(times):
            packer.write(filling)
        packer.write(bytes(1024))


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def test_zeros_without_end_become_a_hole(yard: Yard, base: Path) -> None:
    _bomb(base, bytes(16 << 20), 64)
    assert base.stat().st_size < 100_000
    assert "/large" in yard.built("--base", base, setup=_limit_memory)
    blocks = sum(path.stat().st_blocks for path in yard.guest("x").iterdir())
    assert blocks * 512 < 8 << 20


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_does_not_fit(kind: str, yard: Yard, base: Path) -> None:
    (yard.site / "umldisk.toml").write_text('[guest.x.drives.root]\nsize = "16M"\n')
    size = 48 << 20
    base.write_bytes(PACKERS[kind](header("large", size) + b"x" * size + bytes(1024)))
    assert base.stat().st_size < 200_000
    yard.refused(DATA, r"does not fit on the root drive.*\nhint: set size = ", "--base", base, setup=_limit_memory)


def test_an_image_in_a_bomb_is_not_unpacked_into_memory(yard: Yard, base: Path) -> None:
    image = bytearray(extimage.guest_image())
    base.write_bytes(zstandard.compress(bytes(image[:100_000]) + bytes(300 << 20)))
    yard.refused(DATA, ".", "--base", base, setup=_limit_memory)


def _dig(top: Path, depth: int) -> None:
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


@contextlib.contextmanager
def _deep(top: Path, depth: int) -> Iterator[Path]:
    _dig(top, depth)
    try:
        yield top
    finally:
        with open_directory(str(top.parent)) as above:
            above.clear(top.name)


def _few_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))


@pytest.mark.parametrize(("depth", "code"), [(1000, 0), (20_000, DATA)])
def test_a_deep_directory_is_kept_or_refused(depth: int, code: int, yard: Yard, base: Path) -> None:
    with _deep(base, depth):
        if code:
            yard.refused(code, "too long for a guest", "--base", base, setup=_few_descriptors)
        else:
            assert "/d" * depth in yard.built("--base", base, setup=_few_descriptors)


def test_a_directory_with_the_site_in_it(yard: Yard) -> None:
    (yard.top / "etc").mkdir()
    (yard.top / "etc/motd").write_text("hello")
    first = yard.built("--base", yard.top)
    assert {"/etc/motd", "/canary", "/site/guests/canary/root_fs", "/site/guests/x"} <= first
    assert not [path for path in first if path.startswith("/site/guests/x/.building")]


@needs("root")
def test_what_a_user_may_not_read_is_no_input(yard: Yard, base: Path, memory: Path) -> None:
    memory.chmod(0o711)
    for path in (yard.site, yard.site / "guests", yard.temporary):
        os.chown(path, USER_ID, USER_ID)
    (base / "inner").mkdir(parents=True)
    (base / "inner/secret").write_text("x")
    base.chmod(0o755)
    for closed in (base / "inner/secret", base / "inner", base):
        closed.chmod(0o600 if closed.is_file() else 0o700)
        yard.refused(NO_INPUT, f"cannot read: Permission denied .{closed}.\nhint: ", "--base", base, as_user=True)
        closed.chmod(0o755)
    assert "/inner/secret" in yard.built("--base", base, as_user=True)


IMAGES: dict[str, tuple[Callable[[bytearray], bytes | bytearray], str]] = {
    "cut-superblock": (lambda image: image[:1500], "superblock is cut off"),
    "cut-behind-superblock": (lambda image: image[:2048], "file system is cut off"),
    "cut-half": (lambda image: image[: len(image) // 2], "file system is cut off"),
    "cut-last-block": (lambda image: image[:-4096], "file system is cut off"),
    "packed-and-cut": (lambda image: zstandard.compress(bytes(image))[:-10], "zst data is cut short"),
    "cut-and-packed": (lambda image: zstandard.compress(bytes(image[:-4096])), "file system is cut off"),
    "journal": (lambda image: _put(image, 1024 + 0x60, image[1024 + 0x60] | 0x4), "not replayed"),
    "no-inodes": (lambda image: _put(image, 1024 + 0x29, 0), "inodes"),
}


def _put(image: bytearray, place: int, value: int) -> bytearray:
    image[place] = value
    return image


@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_image_is_refused(name: str, yard: Yard, base: Path) -> None:
    damage, says = IMAGES[name]
    base.write_bytes(damage(bytearray(extimage.small_image("ext4"))))
    yard.refused(DATA, says, "--base", base)


def test_a_cow_file_is_no_base(yard: Yard, base: Path) -> None:
    base.write_bytes(extimage.small_image("ext4"))
    cow = base.with_name("cow")
    assert run(["create", str(cow), str(base)])[0] == 0
    yard.refused(DATA, r"COW file.*\nhint: .*umldisk merge", "--base", cow)


def test_a_refused_base_leaves_the_old_set(yard: Yard, base: Path) -> None:
    yard.built()
    base.write_bytes(sample()[:2000])
    yard.refused(DATA, "cut short", "--force", "--base", base)
    base.write_bytes(archive(file(chain(avoid=-1))))
    yard.refused(DATA, "mke2fs breaks", "--force", "--base", base)
    yard.refused(NO_INPUT, "cannot open", "--force", "--base", base.with_name("gone"))
    yard.require_whole()


def test_a_base_that_disappears_under_the_reader(yard: Yard, base: Path) -> None:
    """The writer of a FIFO goes away in the middle; a directory loses what was just listed."""
    os.mkfifo(base)
    writer = threading.Thread(target=lambda: base.write_bytes(sample()[:3000]))
    writer.start()
    yard.refused(DATA, "cut short", "--base", base)
    writer.join()
    base.unlink()
    (base / "a").mkdir(parents=True)
    os.mkfifo(base / "a" / "fifo")
    for name in ("f0", "f1", "f2"):
        (base / name).write_bytes(b"x" * 4096)
    building = yard.start_until("f1", "--base", base, "x")
    (base / "f2").unlink()
    building.send_signal(signal.SIGCONT)
    _, said = building.communicate(timeout=60)
    assert building.returncode == NO_INPUT, said
    assert ERROR.fullmatch(said)
    assert "No such file or directory" in said
    assert os.listdir(yard.guest("x")) == [".lock"]
    assert stat.S_ISFIFO((base / "a" / "fifo").stat().st_mode)
