"""What differs between two sets of files, how bad it is, and files whose journal was not replayed."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.extimage import block_of, debugfs, make_image, open_volume, patch
from tests.kit.peers import needs
from umldisk.cow.layers import RawLayer
from umldisk.errors import DataError
from umldisk.ops.changes.ranking import Concern, Mark, concern_of, marks_of, rank
from umldisk.ops.changes.reading import rows_of_layer
from umldisk.ops.changes.rows import COMPARED, ChangeKind, Difference, Row, differences, file_rows
from umldisk.system.files import open_disk

_EXT4 = ("-t", "ext4", "-b", "1024", "-E", "root_owner=0:0")
_JOURNAL_INODE = 8
_OLD = 1_700_000_000_000_000_000


def _rows(image: Path, mount_point: str = "/") -> dict[str, Row]:
    with open_volume(image) as volume:
        return dict(file_rows(volume, mount_point))


def _read(image: Path, scratch: Path) -> dict[str, Row]:
    with open_disk(image) as disk:
        return rows_of_layer(RawLayer(disk), "/", scratch=str(scratch))


# -- two file systems -------------------------------------------------------------------------------------------------


def _tree(directory: Path) -> Path:
    directory.mkdir()
    for name in ("as_it_was", "gone", "longer", "other_contents", "other_mode", "other_owner", "other_time", "capable"):
        (directory / name).write_text(f"this is {name}\n")
    (directory / "link").symlink_to("as_it_was")
    (directory / "link_or_file").symlink_to("as_it_was")
    for path in (*directory.iterdir(), directory):
        os.utime(path, ns=(_OLD, _OLD), follow_symlinks=False)
    return directory


@needs("mke2fs", "debugfs")
def test_every_way_in_which_a_file_can_differ_is_told(tmp_path: Path) -> None:
    before = make_image(tmp_path / "before", *_EXT4, tree=_tree(tmp_path / "tree"))
    tree = tmp_path / "tree"
    (tree / "gone").unlink()
    (tree / "link_or_file").unlink()
    (tree / "link_or_file").write_text("no link any more\n")
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    (tree / "new").write_text("")
    (tree / "longer").write_text("this is longer, and longer\n")
    (tree / "other_contents").write_text("this is other_cONTENTS\n")
    (tree / "other_mode").chmod(0o4755)
    for path in (*tree.iterdir(), tree):
        if path.name != "new":
            os.utime(path, ns=(_OLD, _OLD), follow_symlinks=False)
    os.utime(tree / "other_time", ns=(_OLD, _OLD + 10**9))
    after = make_image(tmp_path / "after", *_EXT4, tree=tree)
    changes = ["sif /other_owner uid 70000", "sif /other_owner gid 5", "ea_set /capable security.capability x"]
    debugfs(after, *changes, "mknod null c 1 3", writable=True)
    for image in (before, after):
        debugfs(image, *(f"sif {path} mtime @{_OLD // 10**9}" for path in ("/", "/other_owner")), writable=True)
    found = {one.path: (one.kind, set(one.fields)) for one in differences(_rows(before), _rows(after).items())}
    changed = ChangeKind.CHANGED
    assert found == {
        "/gone": (ChangeKind.REMOVED, set()),
        "/new": (ChangeKind.ADDED, set()),
        "/null": (ChangeKind.ADDED, set()),
        "/link": (changed, {"target"}),
        "/link_or_file": (changed, {"type", "mode", "size", "sha256", "target"}),
        "/longer": (changed, {"size", "sha256"}),
        "/other_contents": (changed, {"sha256"}),
        "/other_mode": (changed, {"mode"}),
        "/other_owner": (changed, {"uid", "gid"}),
        "/capable": (changed, {"xattrs"}),
        "/other_time": (changed, {"mtime_ns"}),
    }
    assert _rows(before, "/var").keys() == {f"/var{path}".rstrip("/") for path in _rows(before)}


@needs("mke2fs")
def test_a_file_longer_than_its_disk_is_compared_by_its_data(tmp_path: Path) -> None:
    """Hashing the zeros of these would take an hour."""
    tree = tmp_path / "tree"
    tree.mkdir()
    images: list[Path] = []
    for word in (b"one", b"one", b"two"):
        with (tree / "huge").open("wb") as file:
            file.truncate(1 << 42)
            file.seek(1 << 41)
            file.write(word)
        os.utime(tree / "huge", ns=(_OLD, _OLD))
        images.append(make_image(tmp_path / f"image{len(images)}", "-t", "ext4", tree=tree))
    one, same, other = (_rows(image)["/huge"] for image in images)
    assert one["size"] == 1 << 42
    assert one == same
    (found,) = differences({"/huge": one}, [("/huge", other)])
    assert found.fields == ("sparse",)


_VALUES: dict[str, Any] = {"type": st.sampled_from(["file", "symlink"]), "mode": st.sampled_from(["0644", "0755"])}
_ROW = st.fixed_dictionaries(_VALUES, optional={name: st.integers(0, 1) for name in COMPARED[2:]})
_ROWS = st.dictionaries(st.sampled_from(["/a", "/b", "/c", "/d"]), _ROW)


@given(_ROWS, _ROWS)
def test_differences_are_those_of_two_sets(before: dict[str, Row], after: dict[str, Row]) -> None:
    found = {one.path: one for one in differences(before, after.items())}
    assert found.keys() == {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    for path, one in found.items():
        assert (one.before, one.after) == (before.get(path), after.get(path))
        if one.kind is ChangeKind.CHANGED:
            assert set(one.fields) == {key for key, _value in before[path].items() ^ after[path].items()}


# -- which comes first ------------------------------------------------------------------------------------------------


def _row(kind: str = "file", mode: str = "0644", **others: object) -> Row:
    contents = {"size": 10, "sha256": "aa"} if kind == "file" else {}
    return {"type": kind, "mode": mode, "uid": 0, "gid": 0, "mtime_ns": _OLD, **contents, **others}


def _difference(path: str, before: Row | None, after: Row | None) -> Difference:
    (found,) = differences({} if before is None else {path: before}, [] if after is None else [(path, after)])
    return found


@pytest.mark.parametrize(
    ("path", "row", "concern"),
    [
        ("/home/.x/sh", _row(mode="4755"), Concern.PRIVILEGES),
        ("/home/.x/sh", _row(mode="2755"), Concern.PRIVILEGES),
        ("/home/sda", _row("block_device", device=[8, 0]), Concern.PRIVILEGES),
        ("/usr/bin/ping", _row(xattrs={"security.capability": "AA=="}), Concern.PRIVILEGES),
        ("/var/mail", _row("directory", "2775"), Concern.OTHER),
        ("/bin/ls", _row("symlink", target="busybox"), Concern.PROGRAMS),
        ("/usr/local/sbin/x", _row(), Concern.PROGRAMS),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", _row(), Concern.PROGRAMS),
        ("/home/tool", _row(mode="0755"), Concern.PROGRAMS),
        ("/root/.ssh/authorized_keys", _row(), Concern.WAYS_IN),
        ("/home/x/.ssh", _row("directory", "0700"), Concern.WAYS_IN),
        ("/etc/shadow", _row(), Concern.WAYS_IN),
        ("/etc/shadow-", _row(), Concern.WAYS_IN),
        ("/etc/sudoers.d/x", _row(), Concern.WAYS_IN),
        ("/etc/pam.d/sshd", _row(), Concern.WAYS_IN),
        ("/etc/crontabs/root", _row(), Concern.STARTED),
        ("/etc/cron.d/x", _row(mode="0755"), Concern.STARTED),
        ("/var/spool/cron/crontabs/root", _row(), Concern.STARTED),
        ("/etc/init.d/x", _row(mode="0755"), Concern.STARTED),
        ("/etc/ld.so.preload", _row(), Concern.STARTED),
        ("/lib/systemd/system/x.service", _row(), Concern.STARTED),
        ("/home/x/.bashrc", _row(), Concern.STARTED),
        ("/home/x/.bash_profile", _row(), Concern.STARTED),
        ("/home/x/.zshrc", _row(), Concern.STARTED),
        ("/etc/motd", _row(), Concern.SETTINGS),
        ("/var/log/new", _row(), Concern.OTHER),
        ("/home/x/etc/passwd", _row(), Concern.OTHER),
        ("/home/x/note", _row(), Concern.OTHER),
    ],
)
def test_what_a_new_file_is_about(path: str, row: Row, concern: Concern) -> None:
    assert concern_of(_difference(path, None, row)) is concern


@pytest.mark.parametrize(
    ("path", "before", "after", "concern", "marks"),
    [
        ("/var/log/a", _row(), None, Concern.LOGS, ()),
        ("/var/log/a", _row(), _row(size=9, mtime_ns=0), Concern.LOGS, ()),
        ("/var/log/a", _row(), _row(size=11, mtime_ns=0), Concern.OTHER, ()),
        ("/root/.ash_history", _row(), None, Concern.LOGS, ()),
        ("/bin/x", _row(mode="4755"), None, Concern.PROGRAMS, ()),
        ("/bin/x", _row(mode="4755"), _row(mode="0755"), Concern.PROGRAMS, ()),
        ("/bin/x", _row(mode="4755"), _row(mode="4755", sha256="bb"), Concern.PRIVILEGES, ("setuid", "time put back")),
        ("/bin/x", _row(mode="0755"), _row(mode="6755"), Concern.PRIVILEGES, ("setuid", "setgid")),
        ("/bin/x", _row(mode="4755"), _row(mode="4755", mtime_ns=5), Concern.TIMES, ()),
        ("/bin/x", _row(), _row(sha256="bb"), Concern.PROGRAMS, ("time put back",)),
        ("/bin/x", _row(), _row(sha256="bb", mtime_ns=_OLD + 999), Concern.PROGRAMS, ("time put back",)),
        ("/bin/x", _row(), _row(sha256="bb", mtime_ns=_OLD + 10**9), Concern.PROGRAMS, ()),
        ("/bin/x", _row("symlink", target="y"), _row(mode="0755"), Concern.PROGRAMS, ("time put back",)),
        ("/bin/x", _row(), _row(mode="0755"), Concern.PROGRAMS, ()),
        ("/home", _row("directory"), _row("directory", mtime_ns=5), Concern.TIMES, ()),
    ],
)
def test_what_a_changed_file_is_about(
    path: str, before: Row, after: Row | None, concern: Concern, marks: tuple[str, ...]
) -> None:
    found = _difference(path, before, after)
    assert (concern_of(found), tuple(mark.value for mark in marks_of(found))) == (concern, marks)


def test_privileges_come_first_and_times_last() -> None:
    ranks = {concern: rank(concern) for concern in Concern}
    assert sorted(ranks.values()) == list(range(len(Concern)))
    assert (ranks[Concern.PRIVILEGES], ranks[Concern.TIMES]) == (0, len(Concern) - 1)
    assert {mark.value for mark in Mark} >= {"setuid", "setgid", "capabilities", "device"}


# -- journals ---------------------------------------------------------------------------------------------------------


@needs("mke2fs", "debugfs", "e2fsck")
def test_what_only_the_journal_holds_is_seen_and_nothing_is_changed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "log").write_bytes(b"before\n".ljust(1024, b"-"))
    image = make_image(tmp_path / "image", *_EXT4, tree=tree)
    quiet = _read(image, tmp_path)
    assert quiet == _rows(image)
    (tmp_path / "block").write_bytes(b"after\n".ljust(1024, b"-"))
    with open_volume(image) as volume:
        number = dict(volume.walk())["/log"]
    debugfs(image, "jo", f"jw -b {block_of(image, number)} {tmp_path / 'block'}", "jc", writable=True)
    with open_volume(image) as volume:
        assert volume.needs_recovery
    assert _rows(image) == quiet
    names, data = sorted(os.listdir(tmp_path)), image.read_bytes()
    replayed = _read(image, tmp_path)
    (found,) = differences(quiet, replayed.items())
    assert (found.path, found.fields) == ("/log", ("sha256",))
    assert (sorted(os.listdir(tmp_path)), image.read_bytes()) == (names, data)


@needs("mke2fs", "debugfs", "e2fsck")
def test_a_journal_that_somebody_spoiled_is_an_error(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", *_EXT4)
    (tmp_path / "block").write_bytes(bytes(1024))
    debugfs(image, "jo", f"jw -b 5000 {tmp_path / 'block'}", "jc", writable=True)
    patch(image, block_of(image, _JOURNAL_INODE) * 1024, bytes(1024))
    with pytest.raises(DataError, match="the journal cannot be replayed"):
        _read(image, tmp_path)


@needs("mke2fs", "debugfs")
def test_a_damaged_file_system_is_an_error_and_never_a_guess(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("contents")
    image = make_image(tmp_path / "image", *_EXT4, tree=tree)
    with open_volume(image) as volume:
        number = dict(volume.walk())["/file"]
    debugfs(image, f"clri <{number}>", writable=True)
    with pytest.raises(DataError, match="a name leads to a free inode"):
        _read(image, tmp_path)
