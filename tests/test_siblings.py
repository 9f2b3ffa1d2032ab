"""Other COW files on a backing file: which ones are found, and which files are left alone."""

import os
import time
from pathlib import Path

import pytest

from tests.kit.faulty import PAGE_7, SIZE, base, pair, patch
from tests.kit.model import write_cow
from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.journal import HeaderJournal
from umldisk.cow.siblings import Sibling, find
from umldisk.system.files import open_disk


def siblings(cow: Path, backing: Path) -> tuple[Sibling, ...]:
    with open_disk(backing) as disk:
        return find(cow, disk)


def names(cow: Path, backing: Path) -> list[str]:
    return [os.path.basename(one.path) for one in siblings(cow, backing)]


def test_a_cow_file_alone_has_none(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    (tmp_path / "notes.txt").write_text("OOOM, I said\n")
    write_cow(tmp_path / "other_cow", base(tmp_path, name="other_fs"), PAGE_7)
    assert siblings(cow, backing) == ()


def test_a_cow_file_is_no_sibling_of_itself_under_any_name(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    os.link(cow, tmp_path / "hard_link")
    os.symlink(cow, tmp_path / "symbolic_link")
    assert siblings(cow, backing) == ()
    assert siblings(tmp_path / "symbolic_link", backing) == ()


@pytest.mark.parametrize("dialect", Dialect)
def test_siblings_of_every_dialect_are_found(tmp_path: Path, dialect: Dialect) -> None:
    cow, backing, _header = pair(tmp_path)
    other = tmp_path / "other_cow"
    write_cow(other, backing, PAGE_7, dialect=dialect)
    assert siblings(cow, backing) == (Sibling(str(other), dialect, fits=True),)


def test_both_directories_are_looked_through_and_no_other(tmp_path: Path) -> None:
    for name in ("bases", "cows", "elsewhere"):
        (tmp_path / name).mkdir()
    backing = base(tmp_path / "bases")
    own = tmp_path / "cows" / "own"
    for path in (own, tmp_path / "cows" / "b", tmp_path / "bases" / "a", tmp_path / "elsewhere" / "c"):
        write_cow(path, backing, {})
    assert [one.path for one in siblings(own, backing)] == [
        str(tmp_path / "bases" / "a"),
        str(tmp_path / "cows" / "b"),
    ]


def test_a_cow_file_that_is_yet_to_be_made_has_siblings(tmp_path: Path) -> None:
    _cow, backing, _header = pair(tmp_path)
    assert names(tmp_path / "new_cow", backing) == ["root_cow"]


def test_directories_behind_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    cow, backing, _header = pair(tmp_path / "real")
    write_cow(tmp_path / "real" / "beside_the_file", backing, {})
    write_cow(tmp_path / "links" / "beside_the_link", backing, {})
    os.symlink(cow, tmp_path / "links" / "own")
    assert names(tmp_path / "links" / "own", backing) == ["beside_the_link", "beside_the_file"]


def test_the_backing_file_is_told_by_identity_and_not_by_name(tmp_path: Path) -> None:
    cow, backing, header = pair(tmp_path)
    os.link(backing, tmp_path / "other_name")
    os.symlink(backing, tmp_path / "link")
    for name in ("other_name", "link", "../" + tmp_path.name + "/root_fs", "absent"):
        other = tmp_path / f"cow_on_{name.replace('/', '_')}"
        write_cow(other, backing, {})
        patch(other, 0, headers.rewrite(header, backing_path=os.fsencode(name)).raw)
    assert names(cow, backing) == ["cow_on_.._" + tmp_path.name + "_root_fs", "cow_on_link", "cow_on_other_name"]


@pytest.mark.parametrize("change", ["mtime", "size"])
def test_one_that_does_not_fit_any_more_is_named_as_such(tmp_path: Path, change: str) -> None:
    cow, backing, header = pair(tmp_path)
    write_cow(tmp_path / "other_cow", backing, {})
    if change == "size":
        os.truncate(backing, SIZE * 2)
    seconds = header.mtime + (change == "mtime")
    os.utime(backing, (seconds, seconds))
    assert [one.fits for one in siblings(cow, backing)] == [False]


def test_a_file_of_two_names_counts_once(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(tmp_path / "b", backing, {})
    os.link(tmp_path / "b", tmp_path / "a")
    os.symlink(tmp_path / "b", tmp_path / "c")
    assert names(cow, backing) == ["a"]


def test_a_sibling_whose_header_is_being_rewritten_counts_with_the_new_one(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    other = tmp_path / "other_cow"
    old = write_cow(other, base(tmp_path, name="other_fs"), {})
    new = headers.rewrite(old, backing_path=os.fsencode(backing), mtime=backing.stat().st_mtime_ns // 1_000_000_000)
    journals.write(str(other), HeaderJournal(old.raw.hex(), new.raw.hex()))
    patch(other, 0, new.raw[:40])
    assert siblings(cow, backing) == (Sibling(str(other), Dialect.V3, fits=True),)


def test_a_journal_that_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(tmp_path / "other_cow", backing, {})
    Path(journals.path_for(str(tmp_path / "other_cow"))).write_text("?")
    assert names(cow, backing) == ["other_cow"]


def test_doubtful_layouts_count(tmp_path: Path) -> None:
    """A version 2 file that is cut off cannot be opened without --dialect; its guest would suffer all the same."""
    cow, backing, _header = pair(tmp_path)
    other = tmp_path / "other_cow"
    header = write_cow(other, backing, {}, dialect=Dialect.V2)
    os.truncate(other, header.geometry.bitmap_offset + 1)
    assert names(cow, backing) == ["other_cow"]


def test_whatever_else_lies_there_is_passed_over(tmp_path: Path) -> None:
    cow, backing, header = pair(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    os.symlink("loop", tmp_path / "loop")
    os.symlink("/dev/zero", tmp_path / "zero")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(header.raw[:4000])
    (tmp_path / "future").write_bytes(b"OOOM\0\0\0\4" + header.raw[8:])
    (tmp_path / os.fsdecode(b"\xff\n")).write_bytes(b"OOOM")
    started = time.monotonic()
    assert siblings(cow, backing) == ()
    assert time.monotonic() - started < 60


def test_a_directory_that_may_not_be_read_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(tmp_path / "other_cow", backing, {})

    def refuse(_path: str) -> list[str]:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", refuse)
    assert siblings(cow, backing) == ()


def test_little_is_read_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(tmp_path / "other_cow", backing, dict.fromkeys(range(2048), b"x" * 512))
    read = []
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        read.append(offset + length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert names(cow, backing) == ["other_cow"]
    assert max(read) <= 8192
    assert len(read) <= 6
