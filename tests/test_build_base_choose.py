"""Which base a path leads to: decided by what is in it, and refused by the name of what it is."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit import things
from tests.kit.peers import needs
from tests.test_build_base_tar import END, header, member
from umldisk.build.bases.base import Base
from umldisk.build.bases.choose import open_base
from umldisk.build.bases.compression import STDIN
from umldisk.build.bases.directory import DirectoryBase
from umldisk.build.bases.image import ImageBase
from umldisk.build.bases.tar import TarBase
from umldisk.errors import DataError, NoInputError

PACKERS = ("gzip", "bzip2", "xz", "zstd")


def make_tree(directory: Path) -> Path:
    root = directory / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("guest\n")
    return root


def make_tar(directory: Path, *options: str) -> Path:
    root, path = make_tree(directory), directory / "misnamed.img"
    subprocess.run(["tar", *options, "-cf", str(path), "-C", str(root), "."], check=True)
    return path


def make_image(directory: Path) -> Path:
    root, path = make_tree(directory), directory / "misnamed.tar"
    command = ["mke2fs", "-q", "-t", "ext2", "-d", str(root), str(path), "1M"]
    subprocess.run(command, check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})
    return path


def pack(path: Path, packer: str) -> Path:
    packed = path.with_name("packed.zip")
    with packed.open("wb") as out:
        subprocess.run([packer, "--stdout", str(path)], stdout=out, check=True)
    return packed


def kind_and_paths(source: str, scratch: Path) -> tuple[type[Base], set[str]]:
    with open_base(source, scratch=str(scratch)) as base:
        return type(base), {entry.path for entry in base.entries()}


EXPECTED_PATHS = {"/", "/etc", "/etc/hostname"}


def test_a_directory(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    assert kind_and_paths(str(root), tmp_path) == (DirectoryBase, EXPECTED_PATHS)
    (tmp_path / "link").symlink_to(root)
    assert kind_and_paths(str(tmp_path / "link"), tmp_path) == (DirectoryBase, EXPECTED_PATHS)


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "posix"])
@needs("tar")
def test_a_tar_of_any_form(tmp_path: Path, form: str) -> None:
    path = make_tar(tmp_path, f"--format={form}")
    assert kind_and_paths(str(path), tmp_path) == (TarBase, EXPECTED_PATHS)


@pytest.mark.parametrize("packer", [pytest.param(packer, marks=needs(packer)) for packer in PACKERS])
@needs("tar", "mke2fs")
def test_archives_and_images_are_seen_through_their_packing(tmp_path: Path, packer: str) -> None:
    (tmp_path / "1").mkdir()
    path = pack(make_tar(tmp_path / "1"), packer)
    assert kind_and_paths(str(path), tmp_path) == (TarBase, EXPECTED_PATHS)
    (tmp_path / "2").mkdir()
    packed = pack(make_image(tmp_path / "2"), packer)
    assert kind_and_paths(str(packed), tmp_path) == (ImageBase, EXPECTED_PATHS)


@needs("tar", "mke2fs")
def test_the_standard_input_may_be_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duplicate = os.dup
    for make, kind in ((make_tar, TarBase), (make_image, ImageBase)):
        (tmp_path / kind.__name__).mkdir()
        with make(tmp_path / kind.__name__).open("rb") as stream:
            monkeypatch.setattr(os, "dup", lambda fd, stream=stream: duplicate(fd or stream.fileno()))
            assert kind_and_paths(STDIN, tmp_path) == (kind, EXPECTED_PATHS)


@needs("mke2fs")
def test_an_image_is_read_where_it_is(tmp_path: Path) -> None:
    assert kind_and_paths(str(make_image(tmp_path)), tmp_path) == (ImageBase, EXPECTED_PATHS)


def refusal(path: Path, scratch: Path) -> DataError:
    descriptors = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(DataError) as caught:
        kind_and_paths(str(path), scratch)
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    return caught.value


OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found nothing"),
    "zeros": (bytes(100_000), "found zeros"),
    "text": (b"hello\n" * 1000, "data of an unknown kind"),
    "qcow2": (b"QFI\xfb" + bytes(600), "a QCOW image"),
    "squashfs": (b"hsqs" + bytes(600), "a squashfs image"),
    "cpio": (b"070701" + b"0" * 104, "a cpio archive"),
    "zip": (b"PK\x03\x04" + bytes(600), "a zip archive"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(600), "data packed by lz4"),
    "iso": (bytes(32769) + b"CD001" + bytes(600), "an ISO 9660 image"),
    "script": (b"#!/bin/sh\n", "a script"),
    "nearly v7": (header(b"f", magic=b"")[:148] + b"000000\0 " + header(b"f", magic=b"")[156:], "an unknown kind"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    data, found = OTHERS[name]
    path = tmp_path / "base.tar"
    path.write_bytes(data)
    error = refusal(path, tmp_path)
    assert f"not a base ({path}, expected a tar archive, an ext2, ext3 or ext4 image" in str(error)
    assert found in str(error)


@needs("gzip", "xz")
def test_what_is_packed_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(member(b"f") + END)
    twice = pack(pack(tmp_path / "a", "xz").rename(tmp_path / "b"), "gzip")
    assert "found xz data inside gz data" in str(refusal(twice, tmp_path))
    (tmp_path / "c").write_bytes(b"words\n")
    assert "an unknown kind in gz data" in str(refusal(pack(tmp_path / "c", "gzip"), tmp_path))


@needs("qemu-img", "zip", "cpio")
def test_what_real_programs_write_is_recognised(tmp_path: Path) -> None:
    def run(*command: str, names: bytes = b"") -> None:
        subprocess.run(command, input=names, check=True, cwd=tmp_path, capture_output=True)

    (tmp_path / "file").write_bytes(b"x" * 1000)
    for form, name in (("qcow2", "a QCOW image"), ("vmdk", "a VMDK image"), ("vdi", "a VDI image")):
        run("qemu-img", "create", "-f", form, "disk", "1M")
        error = refusal(tmp_path / "disk", tmp_path)
        assert name in str(error)
        assert "qemu-img convert" in str(error.hint)
    run("zip", "a.zip", "file")
    assert "a zip archive" in str(refusal(tmp_path / "a.zip", tmp_path))
    for form in ("newc", "crc", "odc", "bin"):
        run("cpio", "--create", f"--format={form}", "--file=a.cpio", names=b"file\n")
        assert "a cpio archive" in str(refusal(tmp_path / "a.cpio", tmp_path))


def test_a_cow_file_is_refused_as_one(tmp_path: Path) -> None:
    path = tmp_path / "cow"
    path.write_bytes(b"MOOO\0\0\0\3" + bytes(8000))
    assert "COW" in str(refusal(path, tmp_path))


def test_a_damaged_first_header_is_an_archive_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "base"
    path.write_bytes(b"X" + member(b"file")[1:] + END)
    assert "the check sum of a header is wrong" in str(refusal(path, tmp_path))
    path.write_bytes(member(b"file")[:400])
    assert "the archive is cut short" in str(refusal(path, tmp_path))


def test_what_is_not_there_is_no_input(tmp_path: Path) -> None:
    for path in (str(tmp_path / "missing"), things.unix_socket(tmp_path / "s"), "/dev/zero", "", "a\0b"):
        with pytest.raises(NoInputError):
            open_base(path, scratch=str(tmp_path))
