"""The same base gives the same bytes, whoever builds it, wherever, whenever, and in what surroundings.

Every set of disks is built by a process of its own, which first puts itself into the surroundings, and is compared with
a plain one byte by byte. The clock is another one in some of them, and in any case seconds have passed in between.
"""

import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.listing import file_digest
from tests.kit.listing_debugfs import inode_of_paths, inode_times
from tests.kit.peers import in_ci, needs
from tests.kit.rich_tree import TreeMaker, can_hold_tree
from umldisk.config.site import Site
from umldisk.image.drives import DRIVES

pytestmark = [needs("mke2fs", "debugfs", "dumpe2fs", "e2fsck", "tar"), pytest.mark.slow]

_CHECKOUT = Path(__file__).resolve().parents[2]
_UNUSED_UID = 61_235
_NAME = "same"
_EPOCH = 1_000_000_000
_HOST_NAME = "/proc/sys/kernel/hostname"
_SECOND = 1_000_000_000
_RESERVED_INODES = range(1, 12)
_BUILD_TIMEOUT_SECONDS = 120

# All is imported before the rights are given up: the checkout may be readable by root alone.
_BUILD = """
import importlib, json, os, pkgutil, sys, time
import umldisk.build
for module in pkgutil.walk_packages(umldisk.build.__path__, "umldisk.build."):
    importlib.import_module(module.name)
from umldisk.config.site import Site
from umldisk.ops.provision import BuildOptions, build_guest

site, name, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if given["backwards"]:
    listdir, scandir, unsorted = os.listdir, os.scandir, []
    def backwards(*arguments):
        names = sorted(listdir(*arguments), reverse=True)
        unsorted.append(len(names) > 1)
        return names
    os.listdir = backwards
    class Backwards:
        def __init__(self, *arguments):
            with scandir(*arguments) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)
            unsorted.append(len(self.entries) > 1)
        def __enter__(self):
            return iter(self.entries)
        def __exit__(self, *error):
            pass
        def __iter__(self):
            return iter(self.entries)
        def close(self):
            pass
    os.scandir = Backwards
if given["later_seconds"]:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + given["later_seconds"]
    time.time_ns = lambda: now_ns() + given["later_seconds"] * 10**9
if given["uid"]:
    os.setgroups([])
    os.setresgid(given["uid"], given["uid"], given["uid"])
    os.setresuid(given["uid"], given["uid"], given["uid"])
if given["umask"] is not None:
    os.umask(given["umask"])
options = BuildOptions(base=given["base"], source_date_epoch=given["epoch"])
build_guest(Site(site), name, options)
if given["backwards"]:
    assert any(unsorted), "nothing was listed in another order"
"""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What may be different about a build; `prefix` is a command that runs it."""

    uid: int = 0
    umask: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    later_seconds: int = 0
    backwards: bool = False
    prefix: tuple[str, ...] = ()
    name: str = "site"
    epoch: int | None = None


_PLAIN = Surroundings()
_LATIN = {"LANG": "de_DE.ISO-8859-1", "LC_ALL": "de_DE.ISO-8859-1", "LANGUAGE": "de"}
_SURROUNDINGS = {
    "again": _PLAIN,
    "ordinary user": Surroundings(uid=_UNUSED_UID),
    "umask 000": Surroundings(umask=0),
    "umask 077, C locale": Surroundings(umask=0o077, environment={"LC_ALL": "C", "TZ": "Pacific/Kiritimati"}),
    "umask 777, user, time zone": Surroundings(uid=_UNUSED_UID, umask=0o777, environment={"TZ": "XYZ+11:30"}),
    "C.UTF-8, long site": Surroundings(environment={"LC_ALL": "C.UTF-8"}, name="a-site/" + "with-a-long-name/" * 8),
    "latin-1, user, no UTF-8 mode": Surroundings(uid=_UNUSED_UID, environment={**_LATIN, "PYTHONUTF8": "0"}),
    "years later": Surroundings(later_seconds=40 * 365 * 86_400, environment={"PYTHONHASHSEED": "7"}),
    "years before": Surroundings(later_seconds=-12 * 365 * 86_400, backwards=True, uid=_UNUSED_UID),
    "another host": Surroundings(prefix=("unshare", "--uts", "sh", "-c", f'echo other >{_HOST_NAME}; exec "$@"', "-")),
    "other settings": Surroundings(
        environment={
            "HOME": "/nonexistent",
            "USER": "nobody",
            "HOSTNAME": "elsewhere",
            "MKE2FS_CONFIG": "/nonexistent",
            "MKE2FS_FIRST_META_BG": "1",
            "E2FSPROGS_FAKE_TIME": "77",
            "SOURCE_DATE_EPOCH": "99",
            "MKE2FS_DEVICE_SECTSIZE": "4096",
            "MKE2FS_SKIP_PROGRESS": "1",
            "POSIXLY_CORRECT": "1",
            "EXT2FS_NO_MTAB_OK": "1",
        }
    ),
}


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="umldisk-same-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def archive(work: Path) -> Path:
    """Return a tar of everything that a tar can carry, with times from 1901 to 2446."""
    privileged = os.geteuid() == 0
    if not can_hold_tree(work, privileged=privileged):
        (pytest.fail if in_ci() else pytest.skip)(f"no ACLs or extended attributes in {work}")
    TreeMaker(privileged=privileged, past=True).make(work / "tree")
    path = work / "base.tar"
    command = ["tar", "--create", "--file", str(path), "--format=pax", "--xattrs", "--xattrs-include=*", "--acls"]
    command += ["--sparse", "--numeric-owner", "--directory", str(work / "tree"), "."]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    path.chmod(0o444)
    return path


@pytest.fixture(scope="module")
def image(work: Path, archive: Path) -> Path:
    """Return an ext4 image of the same tree."""
    path = work / "base.ext4"
    command = [
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-N",
        "4000",
        "-d",
        str(work / "tree"),
        str(path),
        "48M",
    ]
    subprocess.run(command, check=True, capture_output=True, env=_with_system_path(os.environ))
    path.chmod(0o444)
    return path


@pytest.fixture(scope="module")
def plain(work: Path, archive: Path) -> Path:
    return _build(work, archive, _PLAIN, os.environ)


def _with_system_path(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    return {**environment, "PATH": os.pathsep.join([environment["PATH"], "/usr/sbin", "/sbin"])}


def _build(
    work: Path, base: Path | str, surroundings: Surroundings, environment: "os._Environ[str] | dict[str, str]"
) -> Path:
    """Build in a process of its own and return the directory of the disks."""
    parent = Path(tempfile.mkdtemp(prefix="build-", dir=work))
    if surroundings.uid:
        os.chown(parent, surroundings.uid, surroundings.uid)
    site = Site(str(parent / surroundings.name.rstrip("/")))
    given = {
        "base": str(base),
        "uid": surroundings.uid,
        "umask": surroundings.umask,
        "later_seconds": surroundings.later_seconds,
        "backwards": surroundings.backwards,
        "epoch": surroundings.epoch,
    }
    built = subprocess.run(
        [*surroundings.prefix, sys.executable, "-c", _BUILD, site.directory, _NAME, json.dumps(given)],
        cwd=_CHECKOUT,
        env={**environment, "PYTHONPATH": str(_CHECKOUT), **surroundings.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_TIMEOUT_SECONDS,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return Path(site.guest(_NAME).directory)


def _assert_same(one: Path, other: Path) -> None:
    """Compare every disk and the manifest, byte by byte; nothing else was built."""
    names = {"manifest.json", *(drive.file_name for drive in DRIVES)}
    assert names <= set(os.listdir(one))
    assert set(os.listdir(one)) == set(os.listdir(other))
    different = [name for name in sorted(names) if file_digest(one / name) != file_digest(other / name)]
    assert different == []


@functools.cache
def _can_rename_host() -> bool:
    tried = subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def _require(surroundings: Surroundings) -> None:
    if surroundings.uid and os.geteuid() != 0:
        pytest.skip("only root can build as somebody else")
    if surroundings.prefix and not (shutil.which("unshare") and _can_rename_host()):
        pytest.skip("this machine gives nobody a host name of his own")


@pytest.mark.parametrize("name", _SURROUNDINGS)
def test_an_archive_gives_the_same_bytes(
    name: str, work: Path, archive: Path, plain: Path, bare_environment: dict[str, str]
) -> None:
    surroundings = _SURROUNDINGS[name]
    _require(surroundings)
    built_at = (plain / "manifest.json").stat().st_mtime
    while time.time() < built_at + 1.1:  # a second is what an ext superblock counts in
        time.sleep(0.05)
    other = _build(work, archive, surroundings, bare_environment)
    try:
        _assert_same(plain, other)
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize("base", ["busybox", "image"])
def test_other_bases_give_the_same_bytes(
    base: str, request: pytest.FixtureRequest, work: Path, bare_environment: dict[str, str]
) -> None:
    if base == "busybox" and not shutil.which("busybox"):
        pytest.skip("no busybox on this machine")
    source = request.getfixturevalue("image") if base == "image" else base
    uid = _UNUSED_UID if os.geteuid() == 0 else 0
    other = Surroundings(uid=uid, umask=0o077, backwards=False, later_seconds=86_400 * 900, environment=_LATIN)
    one = _build(work, source, _PLAIN, bare_environment)
    time.sleep(1.1)
    _assert_same(one, _build(work, source, other, bare_environment))


@pytest.mark.parametrize("epoch", [None, _EPOCH])
def test_the_order_of_directories_does_not_matter(
    epoch: int | None, work: Path, bare_environment: dict[str, str]
) -> None:
    """Two trees at one place, one after the other, whose files came in opposite order; an ordinary user's, too."""
    uid = _UNUSED_UID if os.geteuid() == 0 else 0
    where = work / f"directory-{epoch}"
    sets = []
    for backwards in (False, True):
        parent = where.with_name(f"{where.name}-{backwards}")
        TreeMaker(privileged=False, past=True, backwards=backwards).make(parent)
        if uid:
            _give(parent, uid)
        parent.rename(where)
        builders = (
            Surroundings(epoch=epoch, backwards=backwards),
            Surroundings(epoch=epoch, uid=uid, umask=0o027, backwards=not backwards),
        )
        sets += [_build(work, where, surroundings, bare_environment) for surroundings in builders]
        where.rename(parent)
    for other in sets[1:]:
        _assert_same(sets[0], other)


def _give(top: Path, uid: int) -> None:
    """Make everything the user's; a change of owner takes setuid and setgid away, so they are set again."""
    for directory, _inner, names in os.walk(os.fsencode(top)):
        for name in (b".", *names):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            os.chown(path, uid, uid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))


@pytest.mark.parametrize("kind", ["tar", "image"])
def test_no_time_is_later_than_the_epoch(
    kind: str, request: pytest.FixtureRequest, work: Path, archive: Path, bare_environment: dict[str, str]
) -> None:
    """All four times of every inode, mke2fs's own included, and the superblock's; what is older stays as it is."""
    base = archive if kind == "tar" else request.getfixturevalue("image")
    built = _build(work, base, Surroundings(epoch=_EPOCH), bare_environment)
    rows = json.loads((built / "manifest.json").read_text())["files"]
    assert min(row["mtime_ns"] for row in rows) < 0 < max(row["mtime_ns"] for row in rows) == _EPOCH * _SECOND
    for drive in DRIVES:
        if drive.mount_point:
            disk = built / drive.file_name
            _check_inodes(disk)
            _check_superblock(disk)


def _check_inodes(disk: Path) -> None:
    named = inode_of_paths(disk)
    times = inode_times(disk, {*named.values(), *_RESERVED_INODES})
    for path, number in named.items():
        of_inode = times[number]
        assert set(of_inode) == {"a", "c", "m", "cr"}
        assert len(set(of_inode.values())) == 1, path
        assert of_inode["m"] <= _EPOCH * _SECOND, path
    for number in set(_RESERVED_INODES).difference(named.values()):
        assert set(times[number].values()) <= {0, _EPOCH * _SECOND}, number


def _check_superblock(disk: Path) -> None:
    done = subprocess.run(
        ["dumpe2fs", "-h", str(disk)],
        capture_output=True,
        check=True,
        text=True,
        env={**_with_system_path(os.environ), "TZ": "UTC", "LC_ALL": "C"},
    )
    fields = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    shown = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(_EPOCH))
    for name in ("Filesystem created", "Last write time", "Last checked"):
        assert fields[name].strip() == shown
    assert fields["Last mount time"].strip() == "n/a"
    assert not [line for line in done.stdout.splitlines() if str(time.gmtime().tm_year) in line]
