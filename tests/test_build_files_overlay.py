"""Files of the user's own, laid over a guest."""

import os
from pathlib import Path

import pytest

from tests.kit.peers import needs
from umldisk.build.files.overlay import overlay_entries
from umldisk.build.tree import Entry, FileType, HardLink, directory, plant
from umldisk.errors import NoInputError


def _fill(top: Path) -> None:
    (top / "etc/cron.d").mkdir(parents=True)
    (top / "etc/motd").write_text("welcome\n")
    (top / "etc/motd").chmod(0o604)
    os.utime(top / "etc/motd", ns=(0, 1_234_567_890_123_456_789))
    (top / "etc/cron.d").chmod(0o711)
    os.link(top / "etc/motd", top / "etc/motd.again")
    (top / "etc/shadow").symlink_to("/dev/null")


def test_modes_times_and_links_stay(tmp_path: Path) -> None:
    _fill(tmp_path)
    entries = list(overlay_entries(str(tmp_path)))
    inodes = {entry.path: entry.inode for entry in entries if isinstance(entry, Entry)}
    assert set(inodes) == {"/etc", "/etc/cron.d", "/etc/motd", "/etc/shadow"}
    assert (inodes["/etc/motd"].mode, inodes["/etc/motd"].mtime_ns) == (0o604, 1_234_567_890_123_456_789)
    assert inodes["/etc/cron.d"].mode == 0o711
    assert (inodes["/etc/shadow"].type, inodes["/etc/shadow"].target) == (FileType.SYMLINK, "/dev/null")
    assert HardLink("/etc/motd.again", "/etc/motd") in entries


@needs("root")
def test_all_of_it_belongs_to_root_and_labels_are_left_behind(tmp_path: Path) -> None:
    _fill(tmp_path)
    motd = tmp_path / "etc/motd"
    os.setxattr(motd, "trusted.note", b"host's")
    for path in tmp_path.rglob("*"):
        os.chown(path, 61_234, 61_235, follow_symlinks=False)
    inodes = [entry.inode for entry in overlay_entries(str(tmp_path)) if isinstance(entry, Entry)]
    assert {(inode.uid, inode.gid) for inode in inodes} == {(0, 0)}
    assert {inode.xattrs for inode in inodes} == {()}


def test_the_top_directory_changes_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "x").write_text("x")
    tree = plant(plant({}, [directory("/", 0o751)]), overlay_entries(str(tmp_path)))
    assert tree["/"].mode == 0o751


def test_the_scratch_directory_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/file").write_text("")
    paths = [entry.path for entry in overlay_entries(str(tmp_path), scratch=str(tmp_path / "in/deep"))]
    assert paths == ["/in", "/in/file"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="nothing"):
        list(overlay_entries(str(tmp_path / "nothing")))
