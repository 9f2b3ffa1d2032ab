"""A tar archive as a base: what GNU tar and bsdtar write is read as it was; what is damaged or tricky is refused."""

import contextlib
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.peers import needs
from tests.test_build_base_directory import Look, look_at, look_at_base, make_plain_tree, make_rich_tree
from umldisk.build.bases.compression import Archive, open_archive
from umldisk.build.bases.tar import TarBase
from umldisk.build.tree import Entry, FileType, HardLink, plant
from umldisk.errors import DataError

END = bytes(1024)
ALL_ATTRIBUTES = ("--xattrs", "--xattrs-include=*", "--acls", "--selinux")


def base_of(path: Path) -> TarBase:
    return TarBase(open_archive(str(path)))


def written(tmp_path: Path, *command: str) -> Path:
    """Let a program write an archive of the tree at `root`."""
    path = tmp_path / "base.tar"
    subprocess.run(
        [*command, "-f", str(path), "-C", str(tmp_path / "root"), "."], check=True, stderr=subprocess.DEVNULL
    )
    return path


def in_seconds(look: Look) -> Look:
    return replace(look, mtime_ns=look.mtime_ns // 10**9 * 10**9, xattrs=())


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
@needs("root", "tar")
def test_every_form_holds_a_plain_tree(tmp_path: Path, form: str) -> None:
    make_plain_tree(tmp_path / "root")
    assert look_at_base(base_of(written(tmp_path, "tar", f"--format={form}", "-c"))) == look_at(tmp_path / "root")


@pytest.mark.parametrize("sparse", [(), ("--sparse",)])
@needs("root", "tar", "setfacl")
def test_gnu_archives_hold_all_but_attributes_and_fractions(tmp_path: Path, sparse: tuple[str, ...]) -> None:
    make_rich_tree(tmp_path / "root")
    if not sparse:  # without it holes are data, which look_at_base would find too much
        for name in ("sparse", "hole"):
            (tmp_path / "root" / name).unlink()
    path = written(tmp_path, "tar", "--format=gnu", *sparse, "-c")
    expected = {name: in_seconds(look) for name, look in look_at(tmp_path / "root").items()}
    assert {name: in_seconds(look) for name, look in look_at_base(base_of(path)).items()} == expected


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
@needs("root", "tar", "setfacl")
def test_pax_archives_of_gnu_tar_hold_everything(tmp_path: Path, version: str) -> None:
    make_rich_tree(tmp_path / "root")
    options = ["--format=posix", "--sparse", f"--sparse-version={version}", *ALL_ATTRIBUTES]
    path = written(tmp_path, "tar", *options, "-c")
    assert look_at_base(base_of(path)) == look_at(tmp_path / "root")


@needs("root", "bsdtar", "setfacl")
def test_pax_archives_of_bsdtar_hold_everything(tmp_path: Path) -> None:
    make_rich_tree(tmp_path / "root")
    # libarchive writes the time -1.5 as -2.5, and in access lists has numbers of 31 bits
    os.utime(tmp_path / "root/null", ns=(0, -2 * 10**9))
    subprocess.run(["setfacl", "-x", "g:3000000000", tmp_path / "root/etc/passwd"], check=True)
    path = written(tmp_path, "bsdtar", "--format=pax", "--xattrs", "--acls", "-c")
    assert look_at_base(base_of(path)) == look_at(tmp_path / "root")


@needs("root", "tar", "setfacl")
def test_access_lists_of_gnu_tar_without_the_raw_form(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    file = tmp_path / "root/file"
    file.touch()
    subprocess.run(["setfacl", "-m", "u:1234:rw,u:0:x,g:777:r", file], check=True)
    path = written(tmp_path, "tar", "--format=posix", "--acls", "-c")
    assert look_at_base(base_of(path))[b"/file"].xattrs == look_at(tmp_path / "root")[b"/file"].xattrs
    subprocess.run(["setfacl", "-m", "u:daemon:r", file], check=True)
    path = written(tmp_path, "tar", "--format=posix", "--acls", "-c")
    with pytest.raises(DataError, match=r"number is not in the archive .*member \./file, found daemon") as caught:
        look_at_base(base_of(path))
    assert "--xattrs-include" in str(caught.value.hint)


# Archives by hand, to say what no program would.


def header(name: bytes, kind: bytes = b"0", size: int | bytes = 0, **fields: bytes) -> bytes:
    """Return the block of a ustar header with a right check sum; `fields` replace what stands in them."""
    values = {"mode": b"0000644", "uid": b"0000001", "gid": b"0000002", "mtime": b"00000000012"}
    values |= {"link": b"", "magic": b"ustar\x0000", "major": b"", "minor": b"", "prefix": b""}
    values["size"] = size if isinstance(size, bytes) else b"%011o" % size
    values |= fields
    order = ("mode", "uid", "gid", "size", "mtime")
    head = [name, *(values[key] for key in order), b" " * 8, kind, values["link"], values["magic"], b""]
    block = struct.pack(
        "100s8s8s8s12s12s8s1s100s8s64s8s8s167s", *head, *(values[k] for k in ("major", "minor", "prefix"))
    )
    return with_check_sum(block)


def with_check_sum(block: bytes) -> bytes:
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, kind, len(data), **fields) + padded(data)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    text = b""
    for key, value in records:
        body = b" " + key + b"=" + value + b"\n"
        length = next(n for n in range(len(body), len(body) + 9) if len(b"%d" % n) + len(body) == n)
        text += b"%d" % length + body
    return member(b"pax", text, kind)


def in_memory(archive: bytes) -> TarBase:
    fd = os.memfd_create("archive")
    os.pwrite(fd, archive, 0)
    return TarBase(Archive("hand.tar", fd))


def read(archive: bytes) -> list[Entry | HardLink]:
    """Return the entries; contents are read to the end as they pass."""
    found = []
    with in_memory(archive) as base:
        for entry in base.entries():
            if isinstance(entry, Entry):
                assert all(data for _, data in entry.inode.contents.pieces())
            found.append(entry)
    plant({}, found)
    return found


def read_one(archive: bytes) -> Entry:
    (entry,) = read(archive + END)
    assert isinstance(entry, Entry)
    return entry


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"./a//b/./c/", "/a/b/c"),
        (b"/etc/x", "/etc/x"),
        (b"//etc", "/etc"),
        (b"./", "/"),
        (b"/", "/"),
        (b".", "/"),
        (b"a/..b/.wh.c", "/a/..b/.wh.c"),
        (b"\xff\n", "/\udcff\n"),
    ],
)
def test_names_have_one_spelling(name: bytes, path: str) -> None:
    assert read_one(member(name, kind=b"5")).path == path


def test_a_name_that_ends_with_a_slash_was_a_directory_in_v7() -> None:
    assert read_one(member(b"d/", magic=b"")).inode.type is FileType.DIRECTORY
    assert read_one(member(b"d/", kind=b"\0")).inode.type is FileType.DIRECTORY


@pytest.mark.parametrize(
    ("text", "mtime_ns"),
    [
        (b"0", 0),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
        (b"1.0000000019", 1_000_000_001),
        (b"5000000000.25", 5_000_000_000_250_000_000),
    ],
)
def test_times_are_exact(text: bytes, mtime_ns: int) -> None:
    assert read_one(pax((b"mtime", text)) + member(b"f")).inode.mtime_ns == mtime_ns


def test_numbers_in_base_256() -> None:
    fields = {"uid": b"\x80" + (4_000_000_000).to_bytes(7, "big"), "mtime": (-5).to_bytes(12, "big", signed=True)}
    inode = read_one(member(b"f", **fields)).inode
    assert (inode.uid, inode.mtime_ns) == (4_000_000_000, -5_000_000_000)


def test_global_records_hold_until_they_are_overruled() -> None:
    archive = pax((b"comment", b"x"), (b"uid", b"7"), (b"mtime", b"3"), kind=b"g") + member(b"a")
    archive += pax((b"uid", b"8"), (b"mtime", b"")) + member(b"b") + member(b"c")
    inodes = [entry.inode for entry in read(archive + END) if isinstance(entry, Entry)]
    assert [(inode.uid, inode.mtime_ns // 10**9) for inode in inodes] == [(7, 3), (8, 0o12), (7, 3)]


def test_a_hard_link_is_one_more_name_of_what_was_there() -> None:
    archive = member(b"a", b"old") + member(b"./b", kind=b"1", link=b"/a") + member(b"a", b"newer") + END
    tree = plant({}, read(archive))
    assert (tree["/b"].contents.size_bytes, tree["/a"].contents.size_bytes) == (3, 5)


def test_contents_have_their_time() -> None:
    with in_memory(member(b"a", bytes(600)) + member(b"b") + END) as base:
        entries = base.entries()
        first = next(entries)
        assert isinstance(first, Entry)
        pieces = first.inode.contents.pieces()
        next(entries)
        with pytest.raises(RuntimeError):
            next(pieces)


LONG_MAP = b",".join(b"%d,0" % number for number in range(300_000))
SPARSE = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9")
GNU = {"magic": b"ustar  \0"}

HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (member(b"a/../../etc/passwd"), "a name is no path"),
    "parent in pax": (pax((b"path", b"../x")) + member(b"f"), "a name is no path"),
    "parent in a long name": (member(b"L", b"x/..\0", b"L", **GNU) + member(b"f"), "a name is no path"),
    "NUL in pax": (pax((b"path", b"a\0b")) + member(b"f"), "a name is no path"),
    "no name": (member(b""), "a name is no path"),
    "file as root": (member(b"./", b"x"), "has data"),
    "symlink as root": (member(b".", kind=b"2", link=b"x"), "root of the tree is no directory"),
    "link out of the tree": (member(b"l", kind=b"1", link=b"../etc/shadow"), "a name is no path"),
    "link to nothing": (member(b"l", kind=b"1", link=b"/etc/shadow"), "a hard link leads to no file"),
    "link with data": (member(b"a") + member(b"l", b"x", b"1", link=b"a"), "no file has data"),
    "empty symlink": (member(b"l", kind=b"2"), "no target"),
    "through a symlink": (member(b"l", kind=b"2", link=b"/etc") + member(b"l/passwd"), "leads through a symlink"),
    "directory with data": (member(b"d", b"x", b"5"), "no file has data"),
    "unknown type": (member(b"f", kind=b"Z"), "of a type that cannot be kept"),
    "multi-volume": (member(b"f", b"x", b"M", **GNU), "of a type that cannot be kept"),
    "dump directory": (member(b"d", b"Yx\0", b"D", **GNU), "of a type that cannot be kept"),
    "multi-volume pax": (pax((b"GNU.volume.offset", b"5")) + member(b"f"), "multi-volume"),
    "sparse of star": (member(b"f", kind=b"S"), "of a type that cannot be kept"),
    "check sum": (member(b"f")[:100] + b"1" + member(b"f")[101:], "check sum of a header is wrong .*byte 0"),
    "letters as number": (header(b"f", uid=b"0x10"), "number that cannot be read"),
    "negative size": (header(b"f", size=b"\xff" * 12), "negative size"),
    "largest size": (header(b"f", size=b"\x80" + b"\x7f" + b"\xff" * 10), "number that cannot be read"),
    "size that lies": (header(b"f", size=b"%011o" % (1 << 32)) + bytes(2048), "is cut short"),
    "largest name": (header(b"L", b"L", 1 << 32, **GNU), "extended header is too long"),
    "negative owner": (header(b"f", uid=b"\xff" * 8), "not an owner"),
    "largest owner": (pax((b"uid", b"4294967295")) + member(b"f"), "not an owner"),
    "device": (pax((b"SCHILY.devmajor", b"4096")) + member(b"d", kind=b"3"), "device has numbers"),
    "record length": (member(b"x", b"99 path=a\n", b"x") + member(b"f"), "record of an extended header"),
    "record without end": (member(b"x", b"10 path=ab", b"x") + member(b"f"), "record of an extended header"),
    "record of nothing": (member(b"x", b"0 =\n", b"x") + member(b"f"), "record of an extended header"),
    "record of letters": (member(b"x", b"+9 path=a\n", b"x") + member(b"f"), "not a number"),
    "pax size": (pax((b"size", b"1_0")) + member(b"f"), "not a number"),
    "pax time": (pax((b"mtime", b"nan")) + member(b"f"), "not a time"),
    "two pax headers": (pax((b"uid", b"1")) * 2 + member(b"f"), "two extended headers"),
    "two long names": (member(b"L", b"a\0", b"L", **GNU) * 2 + member(b"f"), "two extended headers"),
    "pax and no member": (pax((b"uid", b"1")), "ends behind an extended header"),
    "global path": (pax((b"path", b"x"), kind=b"g") + member(b"f"), "one member only"),
    "character set": (pax((b"hdrcharset", b"KOI8-R")) + member(b"f"), "unknown character set"),
    "sparse version": (pax((b"GNU.sparse.major", b"2")) + member(b"f", b"x"), "unknown version"),
    "sparse count": (pax(*SPARSE) + member(b"f", b"99999999999\n"), "too many stretches"),
    "sparse text": (pax(*SPARSE) + member(b"f", b"x" * 512), "map of a sparse member is damaged"),
    "sparse sum": (pax(*SPARSE) + member(b"f", padded(b"1\n0\n8\n") + b"data"), "does not fit its data"),
    "sparse end": (pax(*SPARSE) + member(b"f", padded(b"1\n8\n4\n") + b"data"), "does not fit its data"),
    "sparse order": (pax(*SPARSE) + member(b"f", padded(b"2\n4\n2\n0\n2\n") + b"data"), "not in order"),
    "sparse cut": (pax(*SPARSE) + member(b"f", b"9\n1\n"), "cut short"),
    "sparse long": (pax((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", LONG_MAP)) + member(b"f"), "too many"),
    "sparse pairs": (pax((b"GNU.sparse.numbytes", b"1")) + member(b"f"), "not in order"),
    "foreign attribute": (pax((b"SCHILY.xattr.btrfs.x", b"1")) + member(b"f"), "cannot be kept"),
    "two values": (
        pax((b"SCHILY.xattr.user.a", b"1"), (b"LIBARCHIVE.xattr.user.a", b"Mg")) + member(b"f"),
        "twice and differently",
    ),
    "base64": (pax((b"LIBARCHIVE.xattr.user.a", b"M?")) + member(b"f"), "no base64"),
    "NFSv4 list": (pax((b"SCHILY.acl.ace", b"owner@:r")) + member(b"f"), "NFSv4"),
    "list of half": (pax((b"SCHILY.acl.access", b"user::rwx")) + member(b"f"), "access list is not valid"),
    "list of words": (pax((b"SCHILY.acl.access", b"everyone")) + member(b"f"), "cannot be read"),
    "default list of a file": (
        pax((b"SCHILY.acl.default", b"user::rwx,group::r-x,other::r-x")) + member(b"f"),
        "only a directory",
    ),
    "data behind the end": (member(b"f") + END + member(b"g"), "data behind the end"),
    "end between members": (member(b"f") + bytes(512) + member(b"g"), "data behind the end"),
    "docker save": (member(b"0a/layer.tar", b"x") + member(b"manifest.json", b"[]"), "layers of a container image"),
    "OCI image": (member(b"blobs/sha256/ab", b"x") + member(b"oci-layout", b"{}"), "layers of a container image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_kept_is_refused(name: str) -> None:
    archive, message = HOSTILE[name]
    with pytest.raises(DataError, match=message):
        read(archive + END)


def archive_of_all() -> bytes:
    """Return an archive with every kind of header, without its end."""
    sparse = padded(b"2\n0\n4\n9000\n0\n") + b"data"
    old_map = b"%011o\0%011o\0" % (512, 3) + bytes(72) + b"\0" + b"%011o\0" % 1000
    return b"".join(
        [
            pax((b"comment", b"all"), kind=b"g"),
            member(b".", kind=b"5"),
            pax((b"path", b"long" * 50), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"v")) + member(b"f", b"x" * 700),
            pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"9000"))
            + member(b"sparse", sparse),
            member(b"././@LongLink", b"l" * 200 + b"\0", b"L", **GNU) + member(b"l", kind=b"2", link=b"x", **GNU),
            header(b"old", b"S", 3, prefix=bytes(41) + old_map, **GNU) + padded(b"abc"),
            member(b"null", kind=b"3", major=b"0000001", minor=b"0000003"),
            member(b"hard", kind=b"1", link=b"old"),
            member(b"last", b"y" * 1025),
        ]
    )


def test_an_archive_cut_anywhere_is_refused() -> None:
    whole = archive_of_all()
    assert [entry.path for entry in read(whole + END)][-2:] == ["/hard", "/last"]
    assert read(whole + bytes(512))
    cuts = {at + off for at in range(0, len(whole) + 512, 512) for off in (-1, 0, 1, 200)}
    for cut in sorted(cut for cut in cuts if 0 <= cut < len(whole) + 512):
        with pytest.raises(DataError, match=r"cut short \(hand.tar, byte \d+"):
            read((whole + END)[:cut])


FLIPS = st.lists(
    st.tuples(st.integers(0, len(archive_of_all()) - 1), st.integers(1, 255), st.booleans()), min_size=10, max_size=10
)


@settings(max_examples=1000)
@given(flips=FLIPS)
def test_flipped_bytes_give_a_tree_or_a_refusal(flips: list[tuple[int, int, bool]]) -> None:
    """Ten thousand flips; with every other one the check sum is made right again, to get behind it."""
    whole = archive_of_all() + END
    for at, change, mended in flips:
        block = at // 512 * 512
        damaged = bytearray(whole)
        damaged[at] ^= change
        if mended:
            damaged[block : block + 512] = with_check_sum(bytes(damaged[block : block + 512]))
        with contextlib.suppress(DataError):
            read(bytes(damaged))
