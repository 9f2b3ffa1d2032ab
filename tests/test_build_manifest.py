"""The manifest: what it says, that it comes back, and what is refused; checking disks against it."""

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build import manifest
from umldisk.build.pool import Pool
from umldisk.build.tree import (
    Entry,
    FileType,
    HardLink,
    Inode,
    Tree,
    directory,
    file,
    plant,
    symlink,
)
from umldisk.config.site import Site
from umldisk.errors import DataError, NoInputError
from umldisk.image.drives import VAR
from umldisk.ops.check_build import BuildCheck, ChangeKind, DiskState, check_build
from umldisk.ops.provision import BuildReport, build_guest
from umldisk.system.process import run


def _tree(tmp_path: Path, *entries: Entry | HardLink) -> Tree:
    return plant({}, Pool(str(tmp_path / "pool")).take(iter(entries)))


def test_a_row_says_what_an_inode_is(tmp_path: Path) -> None:
    device = Entry("/d", Inode(FileType.BLOCK_DEVICE, 0o660, 0, 6, 5, device=(8, 1), xattrs=(("user.x", b"\xff"),)))
    tree = _tree(
        tmp_path, file("/a", "text", 0o4755, gid=7, mtime_ns=9), HardLink("/b", "/a"), symlink("/c", "x"), device
    )
    rows = {row["path"]: row for row in manifest.describe_tree(tree, "var", at=VAR)}
    assert rows["/var/a"] == {
        "path": "/var/a",
        "drive": "var",
        "type": "file",
        "mode": "4755",
        "uid": 0,
        "gid": 7,
        "mtime_ns": 9,
        "size": 4,
        "sha256": hashlib.sha256(b"text").hexdigest(),
        "inode": 1,
    }
    assert rows["/var/b"] == rows["/var/a"] | {"path": "/var/b"}
    assert (rows["/var/c"]["type"], rows["/var/c"]["target"]) == ("symlink", "x")
    assert (rows["/var/d"]["device"], rows["/var/d"]["xattrs"]) == (
        [8, 1],
        {"user.x": base64.b64encode(b"\xff").decode()},
    )
    assert rows["/var"]["type"] == "directory"


def test_the_digest_of_a_tree_depends_on_everything_in_it(tmp_path: Path) -> None:
    variants: list[list[Entry | HardLink]] = [
        [file("/a", "x")],
        [file("/a", "y")],
        [file("/a", "x", 0o600)],
        [file("/a", "x", gid=1)],
        [file("/a", "x", mtime_ns=1)],
        [file("/b", "x")],
        [file("/a", "x"), file("/b", "x")],
        [file("/a", "x"), HardLink("/b", "/a")],
        [symlink("/a", "x")],
        [directory("/a")],
    ]
    digests = {manifest.tree_digest(_tree(tmp_path / str(n), *v)) for n, v in enumerate(variants) if _made(tmp_path, n)}
    assert len(digests) == len(variants)


def _made(tmp_path: Path, number: int) -> bool:
    (tmp_path / str(number)).mkdir()
    return True


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    rows = [{"path": "/\udcff\n", "drive": "root"}, {"path": "/b", "drive": "root"}]
    text = "".join(manifest.render({"guest": "x", "base": {"kind": "tar"}}, [{"name": "root"}], rows))
    assert json.loads(text)["format"] == manifest.FORMAT
    assert text.count("\n") < 16
    (tmp_path / manifest.FILE_NAME).write_text(text)
    found = manifest.read(str(tmp_path))
    assert (found.guest, found.base, list(found.files)) == ("x", {"kind": "tar"}, rows)
    assert list(found.drives) == [{"name": "root"}]


def test_an_empty_manifest_is_json_too() -> None:
    assert json.loads("".join(manifest.render({"guest": "x"}, [], []))) == {
        "format": 1,
        "guest": "x",
        "drives": [],
        "files": [],
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "guest": 1, "base": 2, "drives": 3, "files": 4}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / manifest.FILE_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        manifest.read(str(tmp_path))


def test_a_manifest_that_would_fill_the_memory_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / manifest.FILE_NAME).touch()
    os.truncate(tmp_path / manifest.FILE_NAME, 1 << 40)
    with pytest.raises(DataError, match="too large for a manifest"):
        manifest.read(str(tmp_path))


def test_a_missing_manifest_is_explained(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no manifest") as refused:
        manifest.read(str(tmp_path))
    assert refused.value.hint is not None


# -- build --check ----------------------------------------------------------------------------------------------------

pytestmark = needs("mke2fs", "debugfs", "e2fsck", "busybox")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    return build_guest(Site(str(tmp_path_factory.mktemp("site"))), "blackdance")


@pytest.fixture
def copy(built: BuildReport, tmp_path: Path) -> Path:
    """The built guest, to be spoilt; in a site of its own."""
    place = tmp_path / "guests" / "blackdance"
    place.mkdir(parents=True)
    for name in os.listdir(built.directory):
        run(["cp", "--sparse=always", "--preserve=timestamps", f"{built.directory}/{name}", str(place)])
    return place


def _check(copy: Path) -> BuildCheck:
    return check_build(Site(str(copy.parent.parent)), "blackdance")


def _states(checked: BuildCheck) -> dict[str, DiskState]:
    return {drive.name: drive.state for drive in checked.drives}


def test_a_fresh_set_is_as_built(copy: Path) -> None:
    checked = _check(copy)
    assert checked.same
    assert set(_states(checked).values()) == {DiskState.SAME}
    assert checked.changes == ()


def test_every_kind_of_change_is_named(copy: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_text("root::0:0::/:/bin/sh\n")
    commands = ["rm /etc/hostname", "rm /etc/passwd", "write evil /etc/evil", "write evil /etc/passwd"]
    script = "\n".join([*commands, "sif /bin/busybox mode 0104755", ""])
    run(["debugfs", "-w", "-f", "-", str(copy / "root_fs")], stdin=script.encode(), cwd=tmp_path)
    checked = _check(copy)
    assert not checked.same
    assert _states(checked)["root"] is DiskState.CHANGED
    found = {change.path: change for change in checked.changes}
    assert found["/etc/evil"].kind is ChangeKind.ADDED
    assert found["/etc/hostname"].kind is ChangeKind.REMOVED
    assert {"size", "sha256", "mtime_ns"} <= set(found["/etc/passwd"].fields)
    assert found["/bin/busybox"].fields == ("mode",)
    assert set(found) <= {"/etc/evil", "/etc/hostname", "/etc/passwd", "/bin/busybox", "/etc"}


def test_a_disk_without_a_cow_file_may_change(copy: Path) -> None:
    with (copy / "tmp_fs").open("r+b") as disk:
        disk.seek(500 << 20)
        disk.write(b"written")
    checked = _check(copy)
    assert checked.same
    assert _states(checked)["tmp"] is DiskState.USED


def test_bytes_outside_all_files_are_a_touch(copy: Path) -> None:
    with (copy / "var_fs").open("r+b") as disk:
        disk.seek(900 << 20)
        disk.write(b"hidden")
    checked = _check(copy)
    assert not checked.same
    assert _states(checked)["var"] is DiskState.TOUCHED


def test_a_missing_and_an_unreadable_disk_are_named(copy: Path) -> None:
    (copy / "home_fs").unlink()
    with (copy / "root_fs").open("r+b") as disk:
        disk.seek(1024)
        disk.write(bytes(1024))
    states = _states(_check(copy))
    assert (states["home"], states["root"]) == (DiskState.MISSING, DiskState.UNREADABLE)
