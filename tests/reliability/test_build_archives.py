"""Tar archives that attack or are damaged: refused in one line, or kept as they are, and nothing leaves the guest."""

import gzip
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from tests.kit import extimage
from tests.kit.peers import needs
from tests.reliability.arguments import ERROR
from tests.reliability.members import (
    PACKERS,
    Member,
    archive,
    attribute,
    chain,
    device,
    directory,
    file,
    hard_link,
    sample,
    sparse,
    symlink,
)
from tests.reliability.scenes import run
from tests.reliability.yard import Yard
from umldisk.build.limits import MOST_NAMES

pytestmark = [needs("mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

DATA = 65

REFUSED: dict[str, tuple[str, list[Member]]] = {
    "dotdot": (r"no path of a guest", [file("../evil")]),
    "dotdot-inside": (r"no path of a guest", [file("a/../../evil")]),
    "absolute-dotdot": (r"no path of a guest", [file("/../canary")]),
    "through-symlink": (r"leads through a symlink", [symlink("l", "/tmp"), file("l/f")]),
    "through-relative-symlink": (r"leads through a symlink", [symlink("l", "../../.."), file("l/canary")]),
    "symlink-then-directory": (r"a directory and something else", [symlink("l", "/"), directory("l"), file("l/f")]),
    "directory-then-symlink": (r"a directory and something else", [directory("l"), symlink("l", "/"), file("l/f")]),
    "link-out": (r"no path of a guest", [hard_link("l", "../../canary")]),
    "link-to-host": (r"leads to no file .*expected /etc/passwd", [hard_link("l", "/etc/passwd")]),
    "link-to-directory": (r"leads to no file .*found a directory", [directory("d"), hard_link("l", "d")]),
    "link-to-later": (r"leads to no file", [hard_link("l", "f"), file("f")]),
    "link-to-itself": (r"leads to no file", [hard_link("l", "l")]),
    "file-over-directory": (r"a directory and something else", [file("d/f"), file("d")]),
    "directory-over-file": (r"a directory and something else", [file("d"), directory("d")]),
    "below-file": (r"leads through a file", [file("d"), file("d/f")]),
    "device-line-feed": (r"line break", [device('dev/x\nkill_file <2>\n"')]),
    "name-256": (r"too long for a guest", [file("d/" + "n" * 256)]),
    "name-256-bytes": (r"too long for a guest", [file("d/" + "é" * 128)]),
    "path-4096": (r"too long for a guest", [file("/".join(["n" * 200] * 21))]),
    "deep-100000": (r"too long for a guest", [file("a/" * 100_000 + "f")]),
    "unlucky-path": (r"mke2fs breaks", [file(chain(avoid=-1))]),
    "root-is-file": (r"root of the tree is no directory", [file(".")]),
    "root-is-symlink": (r"root of the tree is no directory", [symlink("./", "/")]),
    "lost-and-found-file": (r"lost\+found is for e2fsck.*found file", [file("lost+found")]),
    "lost-and-found-symlink": (r"/var/lost\+found, found symlink", [symlink("var/lost+found", "/")]),
    "mount-point-file": (r"mount point .*/var, found file", [file("var")]),
    "mount-point-symlink": (r"mount point .*/home, found symlink", [symlink("home", "/")]),
    "mount-point-device": (r"mount point .*/tmp, found block_device", [device("tmp")]),
    "symlinked-etc-circle": (r"lead in a circle", [symlink("etc", "etc")]),
    "passwd-circle": (r"lead in a circle", [symlink("etc/passwd", "/etc/group"), symlink("etc/group", "passwd")]),
    "fstab-directory": (r"a directory and something else", [file("etc/fstab/x")]),
    "long-target": (r"no target that a guest can hold", [symlink("s", "x" * 4096)]),
    "attribute-line-feed": (r"line break", [attribute("user.a\nb", "c")]),
    "attribute-too-long": (r"attributes? (than ext can hold|cannot be kept)", [attribute("user.a", "c" * 70_000)]),
    "attributes-too-many": (
        r"more extended attributes than ext can hold .*found 11520",
        [file("f", pax_headers={f"SCHILY.xattr.user.a{n:03}": "c" * 100 for n in range(96)})],
    ),
    "attributes-that-leave-a-gap": (
        r"more extended attributes than ext can hold \(/x, .*found 4068",
        [file("x", pax_headers={f"SCHILY.xattr.user.{n}": "c" * 1333 for n in range(3)})],
    ),
    "attributes-of-half-a-block": (
        r"more extended attributes than ext can hold \(/x, .*found 4144",
        [file("x", pax_headers={f"SCHILY.xattr.user.{n}": "c" * 2050 for n in range(2)})],
    ),
    "sparse-too-long": (
        r"longer than its drive can hold.*\(/var/f, .*found 17592186044416",
        [sparse("var/f", 1 << 44)],
    ),
    "init-elsewhere": (
        r"its init where another drive is mounted \(/home/i",
        [symlink("sbin/init", "/home/i"), file("home/i")],
    ),
    "owner": (r"not an owner", [file("f", uid=1 << 32)]),
    "docker-save": (r"docker save", [file("manifest.json"), file("0123/layer.tar")]),
    "oci-layout": (r"docker save", [file("oci-layout"), file("blobs/sha256/0123")]),
    "nothing": (r"not a base .*found zeros", []),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_that_cannot_be_kept_is_refused(name: str, yard: Yard, base: Path) -> None:
    says, members = REFUSED[name]
    base.write_bytes(archive(*members))
    yard.refused(DATA, says, "--base", base)


def test_a_file_of_too_many_names_is_refused(yard: Yard, base: Path) -> None:
    links = (hard_link(f"d/{number}", "f") for number in range(MOST_NAMES))
    base.write_bytes(archive(file("f"), *links))
    yard.refused(DATA, rf"too many names \(/f, expected at most {MOST_NAMES} on the root drive", "--base", base)


def test_what_can_be_kept_stays_inside(yard: Yard, base: Path) -> None:
    out, deep = str(yard.top / "canary"), chain(avoid=2040)
    names = ["n" * 255, "é" * 127, "q\"\\ '$(x);", "-rf", "new\nline", "\udcff", "*"]
    members: list[Member] = [
        file("/etc/canary", b"the guest's"),
        *(symlink(f"to/{number}", target) for number, target in enumerate((out, "../" * 20, "s\n", "x" * 4095))),
        hard_link("to/linked", "to/0"),
        file("twice", b"first"),
        file("twice", b"second"),
        device('dev/q"\\ x'),
        *(file(f"odd/{name}") for name in names),
        directory("lost+found"),
        symlink("etc/passwd", "/nowhere"),
        symlink("root", out),
        ("sbin/init", {"type": tarfile.FIFOTYPE}),
        ("etc/group", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
        file(deep[1:]),
    ]
    base.write_bytes(archive(*members))
    paths = yard.built("--base", base)
    assert {"/etc/canary", "/to/0", "/to/linked", "/twice", '/dev/q"\\ x', deep} <= paths
    assert {f"/odd/{name}" for name in names} <= paths
    image = yard.guest("x") / "root_fs"
    assert extimage.debugfs(image, "cat /twice").endswith("\nsecond")
    assert extimage.debugfs(image, "cat /etc/canary").endswith("\nthe guest's")


def test_an_archive_cut_anywhere_is_refused(yard: Yard, base: Path) -> None:
    truth = sample()
    end = truth.rstrip(b"\0")
    whole = -(-len(end) // 512) * 512
    before = yard.snapshot(without="x")
    for length in {*range(0, whole + 1, 256), 1, 511, 513, 1023, whole - 1, whole + 1, whole + 511}:
        _refused_here(yard, base, truth[:length])
    assert yard.snapshot(without="x") == before
    base.write_bytes(truth[: whole + 512])
    yard.built("--base", base)


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_data_that_is_cut_or_damaged_is_refused(kind: str, yard: Yard, base: Path) -> None:
    packed = PACKERS[kind](sample())
    for length in {1, 5, 11, len(packed) - 1, *range(16, len(packed), len(packed) // 16)}:
        said = _refused_here(yard, base, packed[:length])
        assert length < 11 or "cut short" in said
    for more in (b"<html>", b"\0" * 600 + b"x", packed[: len(packed) // 2], packed[:4]):
        _refused_here(yard, base, packed + more)
    if kind != "zst":  # which has a check sum only on request
        for place in range(20, len(packed) - 8, len(packed) // 12):
            _refused_here(yard, base, packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :])
    base.write_bytes(packed[: len(packed) // 2])
    yard.refused(DATA, f"{kind} data is cut short", "--base", base)


def _refused_here(yard: Yard, base: Path, contents: bytes) -> str:
    """Build in this process, because there are very many, from a base that has to be refused as damaged."""
    base.write_bytes(contents)
    code, out, said = run(["--site", str(yard.site), "build", "--base", str(base), "x"])
    assert code == DATA, (len(contents), said)
    assert ERROR.fullmatch(said), said
    assert not out
    assert os.listdir(yard.guest("x")) == [".lock"]
    return said


def test_a_name_says_nothing_about_the_packing(yard: Yard, base: Path) -> None:
    misnamed = base.with_suffix(".tar.xz")
    misnamed.write_bytes(gzip.compress(sample()))
    assert "/etc/motd" in yard.built("--base", misnamed)
    base.write_bytes(lzma.compress(gzip.compress(sample())))
    yard.refused(DATA, r"gz data inside xz data.*\nhint: unpack it once", "--base", base, "--force")
    yard.require_whole()
