"""Trees as values: planting, laying over, resolving, and their split over the drives."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.build.split import drive_of, guest_path, require_init_on_root, split
from umldisk.build.tree import (
    Entry,
    FileType,
    HardLink,
    Inode,
    Text,
    Tree,
    directory,
    file,
    follow,
    in_order,
    lay_over,
    limit_times,
    path_bytes,
    path_text,
    plant,
    resolve,
    symlink,
)
from umldisk.errors import DataError
from umldisk.image.drives import DRIVES, HOME, ROOT, TMP, VAR

_SRV = dataclasses.replace(HOME, name="srv", ubd=5, mount_point="/var/srv")


def _tree(*entries: Entry | HardLink) -> Tree:
    return plant({}, entries)


def _paths(tree: Tree) -> list[str]:
    return [path for path, _inode in in_order(tree)]


def test_a_tree_is_read_with_parents_first() -> None:
    tree = _tree(file("/a/b", "x"), directory("/a"), file("/a-b", "y"), file("/a!", ""))
    assert _paths(tree) == ["/", "/a", "/a!", "/a-b", "/a/b"]


def test_an_inode_mode_has_type_and_permissions() -> None:
    assert directory("/t", 0o1777).inode.inode_mode == 0o041777
    assert file("/f", b"", 0o4755).inode.inode_mode == 0o104755
    assert symlink("/l", "t").inode.inode_mode == 0o120777


@pytest.mark.parametrize(
    "path", ["", "a", "//a", "/a/", "/a/../b", "/./a", "/a//b", "/a\0", "/..", "/" + "x" * 256, "/x" * 2048]
)
def test_a_path_has_one_spelling_and_fits(path: str) -> None:
    with pytest.raises(DataError):
        file(path, "")


@pytest.mark.parametrize("path", ["/", "/a\nb", "/a b", "/\udcff", "/é", '/"', "/" + "é" * 127, "/..."])
def test_a_name_may_hold_what_linux_takes(path: str) -> None:
    assert _tree(file("/x", ""), Entry(path, Inode(FileType.DIRECTORY, 0o755)))


@given(st.binary(max_size=40))
def test_a_path_gives_its_bytes_back(raw: bytes) -> None:
    assert path_bytes(path_text(raw)) == raw


def test_missing_directories_are_made() -> None:
    tree = _tree(file("/a/b/c", ""))
    assert [oct(tree[path].inode_mode) for path in ("/", "/a", "/a/b")] == ["0o40755"] * 3


def test_a_later_entry_replaces_an_earlier_one() -> None:
    tree = _tree(file("/f", "one"), HardLink("/g", "/f"), file("/f", "two"), symlink("/s", "a"), symlink("/s", "b"))
    assert tree["/f"].contents == Text(b"two")
    assert tree["/g"].contents == Text(b"one")
    assert tree["/s"].target == "b"


def test_hard_links_are_one_inode() -> None:
    tree = _tree(file("/a/f", "x"), HardLink("/b/g", "/a/f"))
    assert tree["/a/f"] is tree["/b/g"]


@pytest.mark.parametrize(
    "entries",
    [
        [file("/f", ""), file("/f/g", "")],
        [symlink("/f", "/etc"), file("/f/g", "")],
        [directory("/d"), file("/d", "")],
        [file("/d", ""), directory("/d")],
        [HardLink("/g", "/f")],
        [directory("/d"), HardLink("/g", "/d")],
        [file("/", "")],
    ],
)
def test_what_is_no_tree_is_refused(entries: list[Entry | HardLink]) -> None:
    with pytest.raises(DataError):
        _tree(*entries)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/lib/modules", "/usr/lib/modules"),
        ("/lib", "/lib"),
        ("/up/x", "/x"),
        ("/deep/modules/x", "/usr/lib/modules/x"),
        ("/missing/a/b", "/missing/a/b"),
        ("/a/out/etc/x", "/etc/x"),
    ],
)
def test_symlinks_are_followed_inside_the_tree(path: str, place: str) -> None:
    tree = _tree(
        directory("/usr/lib/modules"),
        symlink("/lib", "usr/lib"),
        symlink("/up", "../../../.."),
        symlink("/deep", "/up/lib"),
        symlink("/a/out", "/../.."),
    )
    assert resolve(tree, path) == place


def test_a_circle_of_symlinks_is_refused() -> None:
    with pytest.raises(DataError, match="circle"):
        resolve(_tree(symlink("/a", "b"), symlink("/b", "a")), "/a/x")


def test_our_files_go_through_directories_and_replace_links() -> None:
    tree = _tree(symlink("/lib", "usr/lib"), directory("/usr/lib"), symlink("/etc/resolv.conf", "/run/x"))
    lay_over(tree, [file("/lib/m", "m"), file("/etc/resolv.conf", "r"), HardLink("/lib/n", "/lib/m")])
    assert tree["/usr/lib/m"] is tree["/usr/lib/n"]
    assert tree["/etc/resolv.conf"].type is FileType.FILE
    assert "/run/x" not in tree


def test_a_directory_of_ours_keeps_a_link_to_one() -> None:
    tree = _tree(symlink("/lib", "usr/lib"), directory("/usr/lib", 0o700), symlink("/gone", "x"))
    lay_over(tree, [directory("/lib", 0o755), file("/lib/m", "m")])
    assert tree["/lib"].type is FileType.SYMLINK
    assert tree["/usr/lib"].mode == 0o700
    with pytest.raises(DataError):
        lay_over(tree, [directory("/gone")])


def test_following_goes_to_the_end() -> None:
    tree = _tree(symlink("/a", "b"), symlink("/b", "/c/d"), directory("/c"), symlink("/l", "l"))
    assert (follow(tree, "/a"), follow(tree, "/c")) == ("/c/d", "/c")
    with pytest.raises(DataError, match="circle"):
        follow(tree, "/l")


def test_no_time_is_later_than_the_limit() -> None:
    entries = [file("/a", "", mtime_ns=5), file("/b", "", mtime_ns=50), HardLink("/c", "/a")]
    limited = plant({}, limit_times(entries, 10))
    assert [limited[path].mtime_ns for path in ("/a", "/b", "/c")] == [5, 10, 5]
    assert plant({}, limit_times(entries, None))["/b"].mtime_ns == 50


@pytest.mark.parametrize(("given", "kept"), [(-(10**19), -(2**31)), (10**20 + 7, 2**34 - 2**31 - 1)])
def test_a_time_that_ext4_cannot_hold_is_the_nearest(given: int, kept: int) -> None:
    (limited,) = limit_times([file("/a", "", mtime_ns=given)], None)
    assert isinstance(limited, Entry)
    assert limited.inode.mtime_ns == kept * 10**9


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
    shares = split(_tree(directory("/var/srv")), (*DRIVES, _SRV))
    assert _paths(shares[_SRV]) == ["/"]
    assert _paths(shares[VAR]) == ["/", "/srv"]


def test_contents_go_to_the_top_and_mount_points_stay() -> None:
    tree = _tree(
        directory("/home", 0o711),
        directory("/home/ann", 0o700, uid=7, gid=8),
        directory("/tmp", 0o755),
        directory("/var", 0o755),
        file("/var/note", "text"),
    )
    shares = split(tree, DRIVES)
    assert {drive.name: _paths(share) for drive, share in shares.items()} == {
        "root": ["/", "/home", "/tmp", "/var"],
        "var": ["/", "/note"],
        "home": ["/", "/ann"],
        "tmp": ["/"],
    }
    modes = {path: oct(inode.mode) for path, inode in shares[ROOT].items()}
    assert modes == {"/": "0o755", "/home": "0o711", "/tmp": "0o1777", "/var": "0o755"}
    assert shares[TMP]["/"].mode == 0o1777
    assert [oct(inode.mode) for inode in shares[HOME].values()] == ["0o711", "0o700"]
    assert shares[HOME]["/ann"] is tree["/home/ann"]


def test_names_of_one_file_stay_so_on_each_drive() -> None:
    shares = split(_tree(file("/a", "x"), HardLink("/b", "/a"), HardLink("/var/c", "/a")), DRIVES)
    assert shares[ROOT]["/a"] is shares[ROOT]["/b"] is shares[VAR]["/c"]


def test_missing_mount_points_are_made() -> None:
    shares = split({}, (*DRIVES, _SRV), mtime_ns=7)
    assert _paths(shares[ROOT]) == ["/", "/home", "/tmp", "/var"]
    assert {len(shares[drive]) for drive in (HOME, TMP, _SRV)} == {1}
    assert {inode.mtime_ns for share in shares.values() for inode in share.values()} == {7}


@pytest.mark.parametrize("point", ["/tmp", "/var"])
def test_a_mount_point_must_be_a_directory(point: str) -> None:
    with pytest.raises(DataError, match="no directory"):
        split(_tree(symlink(point, "/x")), (*DRIVES, _SRV))


def test_init_lies_on_the_root_drive() -> None:
    programs = [symlink("/sbin", "usr/sbin"), symlink("/usr/sbin/init", "../lib/init"), file("/usr/lib/init", "")]
    require_init_on_root(_tree(*programs), DRIVES)
    require_init_on_root(_tree(file("/var/init", "")), DRIVES)
    odd = _tree(
        symlink("/sbin/init", "/home/init"), symlink("/home/init", "../var/srv/init"), file("/var/srv/init", "")
    )
    with pytest.raises(DataError, match="its init where another drive is mounted") as refused:
        require_init_on_root(odd, (*DRIVES, _SRV))
    assert (refused.value.where, refused.value.found) == ("/var/srv/init", "the srv drive")


_NAMES = st.sampled_from(["var", "home", "tmp", "etc", "a", "b"])


@given(st.sets(st.lists(_NAMES, min_size=1, max_size=4).map(tuple), max_size=20))
def test_mounting_the_split_gives_the_tree_back(leaves: set[tuple[str, ...]]) -> None:
    tree = _tree(*(directory("/" + "/".join(leaf)) for leaf in leaves))
    wanted = {"/var", "/home", "/tmp", *tree}
    shares = split(tree, DRIVES)
    covered = {drive.mount_point for drive in shares}
    seen = [
        guest_path(drive, place)
        for drive, share in shares.items()
        for place in share
        if drive is not ROOT or place == "/" or place not in covered
    ]
    assert sorted(seen) == sorted(wanted)
