"""What a base holds and what is on the disks that were built from it, compared file by file by independent readers.

    tree ──tar, mkfs + cp──▶ base ──umldisk build──▶ disks
     │                        │                        │ mount, or debugfs
     ▼                        ▼                        ▼
    what this kind of base can carry   ==   what the disks hold

What the build adds is expected too: the files that rendering gives for a base without init, parents that nothing
named, and mke2fs's lost+found. Everything else has to be there exactly once, on the right drive, and nothing more.
"""

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from posixpath import dirname

import pytest

from tests.kit.expected import expected_shares
from tests.kit.listing import Listing, Row, differences, list_directory, list_mounted
from tests.kit.listing_debugfs import list_disk, list_with_debugfs
from tests.kit.peers import in_ci, is_present, needs
from tests.kit.rich_tree import BULK_FILES, HUGE_BYTES, TreeMaker, add_bulk, add_huge, can_hold_tree
from umldisk.build.tree import FileType
from umldisk.config.site import Site
from umldisk.ops.provision import BuildOptions, build_guest

pytestmark = [needs("mke2fs", "debugfs", "dumpe2fs", "e2fsck"), pytest.mark.slow]

_NAME = "rich"
_MOUNTED = {b"/var": "var", b"/home": "home", b"/tmp": "tmp"}
_LARGEST_SET_BYTES = 300 << 20
_LARGEST_EMPTY_SET_BYTES = 8 << 20
_SECOND = 1_000_000_000
_LATEST_OF_SUPERBLOCK_NS = ((1 << 32) - 1) * _SECOND

Carry = Callable[[bytes, Row], Row | None]
"""What a kind of base makes of a path's row; None where it cannot hold such a file."""


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="umldisk-fidelity-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def tree(work: Path) -> Path:
    """Return a rich tree: all of it for root, what such a user can make for anybody else."""
    privileged = os.geteuid() == 0
    if not can_hold_tree(work, privileged=privileged):
        (pytest.fail if in_ci() else pytest.skip)(f"no ACLs or extended attributes in {work}")
    top = work / "tree"
    TreeMaker(privileged=privileged).make(top)
    return top


def _as_pax(path: bytes, row: Row) -> Row | None:
    """GNU tar leaves sockets out, and links no names but those of files and symlinks."""
    if stat.S_ISSOCK(row.mode):
        return None
    return row if stat.S_ISREG(row.mode) or stat.S_ISLNK(row.mode) else replace(row, link=path)


def _as_gnu(path: bytes, row: Row) -> Row | None:
    """Seconds, rounded down, and no attributes."""
    carried = _as_pax(path, row)
    return carried and replace(carried, mtime_ns=row.mtime_ns // _SECOND * _SECOND, xattrs=())


_ATTRIBUTES = ("--xattrs", "--xattrs-include=*", "--acls")
_ARCHIVES: dict[str, tuple[tuple[str, ...], str | None, Carry]] = {
    "pax": (("--format=pax", *_ATTRIBUTES, "--sparse"), None, _as_pax),
    "pax.zst": (("--format=pax", *_ATTRIBUTES), "zstd", _as_pax),
    "pax-0.1.xz": (("--format=pax", *_ATTRIBUTES, "--sparse", "--sparse-version=0.1"), "xz", _as_pax),
    "gnu.gz": (("--format=gnu", "--sparse"), "gzip", _as_gnu),
    "gnu.bz2": (("--format=gnu",), "bzip2", _as_gnu),
}


def test_a_directory_is_kept(tree: Path, work: Path) -> None:
    _check(tree, work, list_directory(tree))


@pytest.mark.parametrize("kind", _ARCHIVES)
@needs("tar")
def test_an_archive_is_kept(kind: str, tree: Path, work: Path) -> None:
    options, program, carry = _ARCHIVES[kind]
    if program and not is_present(program):
        pytest.skip(f"no {program} on this machine")
    archive = work / f"{kind}.tar"
    _archive(tree, archive, *options, *([f"--use-compress-program={program}"] if program else []))
    _check(archive, work, _carried(list_directory(tree), carry))


def _archive(tree: Path, archive: Path, *options: str) -> None:
    # In the C locale tar would write names of other bytes with a warning, and not as pax records.
    command = ["tar", "--create", "--file", str(archive), "--numeric-owner", *options, "--directory", str(tree), "."]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})


@needs("ext4", "cp")
@pytest.mark.parametrize(
    ("options", "program"),
    [
        pytest.param("-t ext4 -b 4096 -I 256", None, id="ext4"),
        pytest.param("-t ext4 -b 1024 -I 512 -O inline_data,ea_inode,^metadata_csum", "zstd", id="ext4-features.zst"),
        pytest.param("-t ext3 -b 2048 -I 256", None, id="ext3"),
        pytest.param("-t ext2 -b 4096 -I 128", "bzip2", id="ext2-128.bz2"),
    ],
)
def test_an_image_that_was_mounted_is_kept(options: str, program: str | None, tree: Path, work: Path) -> None:
    image = work / "image"
    _make_image(image, options)
    _fill(image, tree, work)
    source = list_mounted(image)
    assert len(source) > 0.98 * len(list_directory(tree))
    if program:
        subprocess.run([program, "-q", "-f", str(image)], check=True, capture_output=True)
        image.unlink(missing_ok=True)
        image = next(work.glob("image.*"))
    try:
        _check(image, work, _without_lost_and_found(source))
    finally:
        image.unlink()


@pytest.mark.parametrize("options", ["-t ext4 -b 4096", "-t ext2 -b 4096 -I 128"], ids=["ext4", "ext2"])
def test_an_image_that_mke2fs_filled_is_kept(options: str, tree: Path, work: Path) -> None:
    image = work / "filled"
    _make_image(image, options, "-d", str(tree))
    try:
        _check(image, work, _without_lost_and_found(list_with_debugfs(image)))
    finally:
        image.unlink()


def _make_image(image: Path, options: str, *more: str) -> None:
    command = ["mke2fs", "-q", "-F", "-N", "4000", *options.split(), *more, str(image), "48M"]
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})


def _fill(image: Path, tree: Path, work: Path) -> None:
    point = work / "point"
    point.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", "loop,noatime", str(image), str(point)], check=True)
    try:
        # A small block has no room for the longest symlinks and attributes: cp says so and goes on.
        subprocess.run(["cp", "--archive", f"{tree}/.", str(point)], check=False, capture_output=True)
    finally:
        subprocess.run(["umount", str(point)], check=True)
        point.rmdir()


@pytest.mark.parametrize("kind", ["ext2", "ext3"])
def test_drives_of_other_kinds_hold_the_same(kind: str, tree: Path, work: Path) -> None:
    tables = (f"[guest.{_NAME}.drives.{name}]\nfs = '{kind}'\n" for name in ("root", "var", "home"))
    _check(tree, work, list_directory(tree), configuration="".join(tables))


@needs("tar")
def test_many_files_are_kept(work: Path) -> None:
    top, archive = work / "bulk", work / "bulk.tar"
    add_bulk(top)
    source = list_directory(top)
    assert len(source) > BULK_FILES
    _archive(top, archive, "--format=pax")
    assert _check(archive, work, source) < _LARGEST_SET_BYTES


@pytest.mark.parametrize("kind", ["directory", "gnu", "ext4", "ext2"])
def test_a_huge_file_is_kept(kind: str, work: Path) -> None:
    top, base = work / "huge", work / f"huge.{kind}"
    if not top.exists():
        add_huge(top)
    source = list_directory(top)
    assert max(row.size_bytes or 0 for row in source.values()) == HUGE_BYTES > 4 << 30
    if kind == "directory":
        base = top
    elif kind == "gnu":
        _archive(top, base, "--format=gnu", "--sparse")
        source = _carried(source, _as_gnu)
    else:
        _make_image(base, f"-t {kind}", "-d", str(top))
        source = _without_lost_and_found(list_with_debugfs(base))
    assert _check(base, work, source) < _LARGEST_EMPTY_SET_BYTES


@needs("ext4")
def test_both_readers_see_the_same(tree: Path, work: Path) -> None:
    site = _built(tree, work)
    try:
        for name in ("root", "var", "home", "tmp"):
            disk = Path(site.guest(_NAME).directory, f"{name}_fs")
            one, other = list_mounted(disk), list_with_debugfs(disk)
            assert one == other, "\n".join(differences(one, other))
            assert [row.allocated_pages for row in one.values()] == [other[path].allocated_pages for path in one]
    finally:
        _remove(site)


@needs("root")
def test_the_tree_is_as_rich_as_it_has_to_be(tree: Path) -> None:
    """A file system that dropped what it was given would make all of the above easy."""
    rows = list_directory(tree)
    for corner in (b"/", b"/var/", b"/home/"):
        here = {path: row for path, row in rows.items() if path.startswith(corner)}
        kinds = {stat.S_IFMT(row.mode) for row in here.values()}
        assert kinds == {kind.value for kind in FileType}
        modes = {stat.S_IMODE(row.mode) for row in here.values()}
        assert {0o0, 0o4755, 0o2755, 0o1777, 0o7777} <= modes
        assert {row.device for row in here.values()} > {(8, 256), (259, 0xFFFFF), (0xFFF, 0)}
        assert max(row.uid for row in here.values()) == 0xFFFF_FFFE
        names = {name for row in here.values() for name, _ in row.xattrs}
        assert {b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability"} < names
        assert any(name.startswith(b"trusted.") for name in names)
        assert {len(row.target) for row in here.values() if row.target} >= {59, 60, 61, 1000, 4095}
        assert max(len(path.rpartition(b"/")[2]) for path in here) == 255
        assert any(b"\n" in path for path in here)
        times = {row.mtime_ns for row in here.values()}
        assert min(times) < 0 < 1 << 31 < max(times) // _SECOND
        assert any(time_ns % 1000 for time_ns in times)
        assert any(row.link != path and row.link.rpartition(b"/")[0] != dirname(path) for path, row in here.items())
        assert any((row.size_bytes or 0) > (row.allocated_pages + 1) * 4096 for row in here.values())


def _check(base: Path, work: Path, source: Listing, *, configuration: str = "") -> int:
    """Build from `base`, and compare every drive with what `source` asks for; return what the set takes."""
    site = _built(base, work, configuration)
    try:
        guest = site.guest(_NAME)
        expected = expected_shares(guest, source)
        for name, share in expected.items():
            disk = Path(guest.directory, f"{name}_fs")
            found = list_disk(disk)
            assert found == share, "\n".join([f"on the {name} drive:", *differences(share, found)])
            assert {path: row.allocated_pages for path, row in found.items() if row.digest} == {
                path: row.filled_pages for path, row in share.items() if row.digest
            }
        assert not any(path.startswith((b"/var/", b"/home/", b"/tmp/")) for path in expected["root"])
        assert expected["tmp"][b"/"].mode == expected["root"][b"/tmp"].mode == stat.S_IFDIR | 0o1777
        return sum(entry.stat().st_blocks * 512 for entry in Path(guest.directory).glob("*_fs"))
    finally:
        _remove(site)


def _built(base: Path, work: Path, configuration: str = "") -> Site:
    site = Site(tempfile.mkdtemp(prefix="site-", dir=work))
    if configuration:
        Path(site.config_path).write_text(configuration)
    build_guest(site, _NAME, BuildOptions(base=str(base)))
    return site


def _remove(site: Site) -> None:
    """Make room: twenty sets of disks side by side would be large."""
    for entry in Path(site.guest(_NAME).directory).glob("*_fs"):
        entry.unlink()


def _carried(source: Listing, carry: Carry) -> Listing:
    carried = ((path, carry(path, row)) for path, row in source.items())
    return {path: row for path, row in carried if row is not None}


def _without_lost_and_found(source: Listing) -> Listing:
    """Leave out what mke2fs gave the base's own file system: the guest's get theirs."""
    assert not any(path.startswith(b"/lost+found/") for path in source)
    return {path: row for path, row in source.items() if path != b"/lost+found"}
