"""Trees as values, and their split over the drives."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.build.split import drive_of, split
from umldisk.build.tree import Entry, FileType, directory, file, make_tree, symlink
from umldisk.errors import DataError
from umldisk.image.drives import DRIVES, HOME, ROOT, TMP, VAR

_SRV = dataclasses.replace(HOME, name="srv", ubd=5, mount_point="/var/srv")


def _paths(entries: list[Entry]) -> list[str]:
    return [entry.path for entry in entries]


def test_a_tree_is_sorted_and_parents_come_first() -> None:
    entries = [directory("/"), directory("/a"), file("/a/b", "x"), file("/a-b", "y"), file("/a!", "")]
    random.Random(1).shuffle(entries)
    assert _paths(make_tree(entries)) == ["/", "/a", "/a!", "/a-b", "/a/b"]


def test_an_inode_mode_has_type_and_permissions() -> None:
    assert directory("/t", 0o1777).inode_mode == 0o041777
    assert file("/f", b"", 0o4755).inode_mode == 0o104755
    assert symlink("/l", "t").inode_mode == 0o120777


@pytest.mark.parametrize("path", ["", "a", "//a", "/a/", "/a/../b", "/./a", "/a//b", "/a\nb", "/a\0"])
def test_a_path_has_one_spelling(path: str) -> None:
    with pytest.raises(DataError):
        file(path, "")


@pytest.mark.parametrize("extra", [[file("/a", "")], [file("/x/y", "")], [file("/f", ""), file("/f/g", "")]])
def test_what_is_no_tree_is_refused(extra: list[Entry]) -> None:
    with pytest.raises(DataError):
        make_tree([directory("/"), directory("/a"), *extra])


@pytest.mark.parametrize(
    ("path", "drive", "place"),
    [
        ("/", ROOT, "/"),
        ("/etc/passwd", ROOT, "/etc/passwd"),
        ("/var", VAR, "/"),
        ("/var/log/x", VAR, "/log/x"),
        ("/variable", ROOT, "/variable"),
        ("/home/home", HOME, "/home"),
        ("/tmp", TMP, "/"),
        ("/usr/tmp", ROOT, "/usr/tmp"),
    ],
)
def test_the_longest_mount_point_takes_a_path(path: str, drive: object, place: str) -> None:
    assert drive_of(path, DRIVES) == (drive, place)


def test_a_drive_may_be_mounted_in_another() -> None:
    assert drive_of("/var/srv/x", (*DRIVES, _SRV)) == (_SRV, "/x")
    shares = split([directory("/"), directory("/var"), directory("/var/srv")], (*DRIVES, _SRV))
    assert _paths(shares[_SRV]) == ["/"]
    assert _paths(shares[VAR]) == ["/", "/srv"]


def test_contents_go_to_the_top_and_mount_points_stay() -> None:
    tree = [
        directory("/"),
        directory("/home", 0o711),
        directory("/home/ann", 0o700, uid=7, gid=8),
        directory("/tmp", 0o755),
        directory("/var", 0o755),
        file("/var/note", "text"),
    ]
    shares = split(tree, DRIVES)
    assert {drive.name: _paths(share) for drive, share in shares.items()} == {
        "root": ["/", "/home", "/tmp", "/var"],
        "var": ["/", "/note"],
        "home": ["/", "/ann"],
        "tmp": ["/"],
    }
    modes = {entry.path: oct(entry.mode) for entry in shares[ROOT]}
    assert modes == {"/": "0o755", "/home": "0o711", "/tmp": "0o1777", "/var": "0o755"}
    assert shares[TMP][0].mode == 0o1777
    assert shares[HOME] == [directory("/", 0o711), directory("/ann", 0o700, uid=7, gid=8)]


def test_missing_mount_points_are_made() -> None:
    shares = split([directory("/")], DRIVES)
    assert _paths(shares[ROOT]) == ["/", "/home", "/tmp", "/var"]
    assert {len(shares[drive]) for drive in (VAR, HOME, TMP)} == {1}


def test_a_mount_point_must_be_a_directory() -> None:
    with pytest.raises(DataError, match="no directory"):
        split([directory("/"), symlink("/tmp", "/var/tmp")], DRIVES)


_NAMES = st.sampled_from(["var", "home", "tmp", "etc", "a", "b"])


@given(st.sets(st.lists(_NAMES, min_size=1, max_size=4).map(tuple), max_size=20))
def test_mounting_the_split_gives_the_tree_back(leaves: set[tuple[str, ...]]) -> None:
    wanted = {"/", "/var", "/home", "/tmp"}
    wanted |= {"/" + "/".join(leaf[:end]) for leaf in leaves for end in range(1, len(leaf) + 1)}
    shares = split(make_tree(directory(path) for path in wanted), DRIVES)
    seen = []
    for drive, share in shares.items():
        prefix = "" if drive.mount_point == "/" else drive.mount_point
        covered = {other.mount_point for other in shares if other is not drive}
        paths = [f"{prefix}{entry.path}".rstrip("/") or "/" for entry in share]
        seen += [path for path in paths if drive is not ROOT or path not in covered]
    assert sorted(seen) == sorted(wanted)
    assert all(entry.type is FileType.DIRECTORY for share in shares.values() for entry in share)
