"""The notes of unfinished changes: written and read back, refused when foreign, mended from any tear."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model
from tests.kit.faults import Died, Way, failing
from umldisk.cow import header as headers
from umldisk.cow import journal
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile, read_header
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.cow.writing import replace_header
from umldisk.errors import DataError, NoInputError, UmldiskError
from umldisk.system.files import Identity, open_disk

MERGE = MergeJournal(
    cow="/var/uml/root_cow", inode=17, size_bytes=1 << 40, mtime=1 << 31, reset=True, adopted=("/a", "/b\udcff\n")
)
HEADER = HeaderJournal(old="00ff", new="0102")


@pytest.fixture
def disk(tmp_path: Path) -> str:
    path = tmp_path / "disk"
    path.write_bytes(b"\x00\xff and more")
    return str(path)


# -- writing and reading --------------------------------------------------------------------------


@pytest.mark.parametrize("note", [MERGE, HEADER, MergeJournal("c", 0, 0, 0, reset=False)])
@pytest.mark.parametrize("sync", [False, True])
def test_what_is_written_is_read_back(disk: str, note: journal.Journal, sync: bool) -> None:
    assert journal.read(disk) is None
    journal.write(disk, note, sync=sync)
    assert journal.read(disk) == note
    journal.remove(disk, sync=sync)
    assert journal.read(disk) is None
    journal.remove(disk, sync=sync)


@given(
    cow=st.binary(min_size=1).map(os.fsdecode),
    numbers=st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3),
    reset=st.booleans(),
    adopted=st.lists(st.binary().map(os.fsdecode)).map(tuple),
)
def test_any_path_survives(cow: str, numbers: tuple[int, int, int], reset: bool, adopted: tuple[str, ...]) -> None:
    inode, size_bytes, mtime = numbers
    note = MergeJournal(cow, inode, size_bytes, mtime, reset=reset, adopted=adopted)
    path = f"/dev/shm/umldisk-journal-{os.getpid()}"
    try:
        journal.write(path, note, sync=False)
        assert journal.read(path) == note
    finally:
        journal.remove(path, sync=False)


def test_it_lies_beside_the_file_that_a_symlink_leads_to(disk: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(disk)
    journal.write(str(link), MERGE)
    assert journal.path_for(str(link)) == disk + journal.SUFFIX
    assert os.listdir(link.parent) == ["link"]
    assert journal.read(disk) == MERGE


def test_it_is_for_its_owner_only_and_plain_text(disk: str) -> None:
    journal.write(disk, MERGE)
    path = Path(journal.path_for(disk))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text(encoding="ascii"))["cow"] == MERGE.cow


def _without(field: str) -> Callable[[dict[str, object]], object]:
    return lambda record: {name: value for name, value in record.items() if name != field}


def _with(**changes: object) -> Callable[[dict[str, object]], object]:
    return lambda record: record | changes


NONSENSE: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda record: [record],
    "a number": lambda _record: 5,
    "nothing": lambda _record: {},
    "another version": _with(**{"umldisk journal": 2}),
    "no version": _without("umldisk journal"),
    "another kind": _with(kind="rename"),
    "no kind": _without("kind"),
    "a list as kind": _with(kind=[]),
    "a field less": _without("inode"),
    "a field more": _with(more=1),
    "text as number": _with(inode="17"),
    "a flag as number": _with(mtime=None),
    "a number as text": _with(cow=5),
    "a list as text": _with(cow=[]),
    "a number as flag": _with(reset=1),
    "text as list": _with(adopted="/a"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_journal_that_makes_no_sense_is_refused(disk: str, kind: str) -> None:
    journal.write(disk, MERGE)
    path = Path(journal.path_for(disk))
    path.write_text(json.dumps(NONSENSE[kind](json.loads(path.read_text()))))
    with pytest.raises(DataError, match="cannot be read") as caught:
        journal.read(disk)
    assert (caught.value.exit_code, caught.value.where) == (65, str(path))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"null", b'"' + b"x" * (2 << 20) + b'"', b"[" * 100_000])
def test_a_journal_that_is_no_text_of_ours_is_refused(disk: str, raw: bytes) -> None:
    Path(journal.path_for(disk)).write_bytes(raw)
    with pytest.raises(DataError, match="cannot be read"):
        journal.read(disk)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(raw: bytes) -> None:
    path = f"/dev/shm/umldisk-strange-{os.getpid()}"
    Path(journal.path_for(path)).write_bytes(raw)
    try:
        with pytest.raises(DataError):
            journal.read(path)
    finally:
        journal.remove(path, sync=False)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)])
def test_what_is_no_file_is_no_journal(disk: str, make: Callable[[str], None]) -> None:
    make(journal.path_for(disk))
    with pytest.raises(NoInputError):
        journal.read(disk)


def test_a_merge_journal_covers_one_cow_file_and_one_backing_file(tmp_path: Path) -> None:
    cow, link = tmp_path / "cow", tmp_path / "link"
    cow.touch()
    link.symlink_to(cow)
    note = MergeJournal(str(cow.resolve()), 17, 0, 0, reset=False)
    assert note.covers(str(cow), Identity(1, 17))
    assert note.covers(str(link), Identity(99, 17))
    assert not note.covers(str(tmp_path / "other"), Identity(1, 17))
    assert not note.covers(str(cow), Identity(1, 18))


# -- mending a torn header ------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_mixture_of_old_and_new_becomes_new(old: bytes, data: st.DataObject) -> None:
    new = data.draw(st.binary(min_size=len(old), max_size=len(old)))
    from_new = data.draw(st.lists(st.booleans(), min_size=len(old), max_size=len(old)))
    torn = bytes(is_new if take else was for was, is_new, take in zip(old, new, from_new, strict=True))
    rest = data.draw(st.binary(max_size=9))
    assert HeaderJournal(old.hex(), new.hex()).mend(torn + rest, where="cow") == new + rest


@given(st.binary(min_size=1, max_size=40), st.data())
def test_anything_else_is_another_file(old: bytes, data: st.DataObject) -> None:
    new = data.draw(st.binary(min_size=len(old), max_size=len(old)))
    place = data.draw(st.integers(0, len(old) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value not in (old[place], new[place])))
    found = old[:place] + bytes([other]) + old[place + 1 :]
    for foreign in (found, old[:-1]):
        with pytest.raises(DataError, match="another file") as caught:
            HeaderJournal(old.hex(), new.hex()).mend(foreign, where="cow")
        assert journal.SUFFIX in str(caught.value.hint)


@pytest.mark.parametrize(("old", "new"), [("zz", "00"), ("0", "00"), ("00", "é")])
def test_digits_that_are_none_are_an_error_of_ours(disk: str, old: str, new: str) -> None:
    journal.write(disk, HeaderJournal(old, new))
    with open_disk(disk) as file, pytest.raises(UmldiskError):
        read_header(file)


# -- replacing a header ---------------------------------------------------------------------------

BASE = b"b" * 8192
CHANGES = {3: b"c" * 512}


def cow_with_two_bases(directory: Path, dialect: Dialect) -> tuple[Path, CowHeader, CowHeader]:
    """Make a COW file; return its header, and one that names a backing file elsewhere."""
    backing = model.write_image(directory / "base", BASE)
    os.utime(backing, (0, 1_000_000_000))
    moved = directory / "moved-to-a-rather-longer-name"
    moved.hardlink_to(backing)
    cow = directory / "cow"
    old = model.write_cow(cow, backing, CHANGES, dialect=dialect)
    return cow, old, headers.rewrite(old, backing_path=os.fsencode(moved), mtime=1_000_000_000)


def replace_with_fault(cow: Path, new: CowHeader, after: int, way: Way) -> bool:
    """Replace the header while one call fails; return whether any did."""
    with open_disk(cow, writable=True) as disk, failing(after, way) as tally:
        try:
            replace_header(disk, read_header(disk), new)
        except (Died, UmldiskError):
            assert tally.struck
    return tally.struck is not None


def check_whole(cow: Path, *expected: CowHeader) -> None:
    """The file shows its guest the same disk, through one of these headers."""
    with CowFile.open(cow) as file:
        assert file.header.raw in [header.raw for header in expected]
        assert file.read(0, len(BASE)) == model.merged(BASE, CHANGES)


@pytest.mark.parametrize("dialect", [Dialect.V1_LITTLE, Dialect.V2, Dialect.V3], ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("way", [Way.DEAD, Way.TORN, Way.FULL, Way.RAISE])
def test_a_replaced_header_is_old_or_new_whatever_fails_and_can_be_replaced_again(
    tmp_path: Path, dialect: Dialect, way: Way
) -> None:
    cow, old, new = cow_with_two_bases(tmp_path, dialect)
    pristine, after = cow.read_bytes(), 0
    while replace_with_fault(cow, new, after, way):
        check_whole(cow, old, new)
        with open_disk(cow, writable=True) as disk:
            replace_header(disk, read_header(disk), new)
        assert sorted(os.listdir(tmp_path)) == ["base", "cow", "moved-to-a-rather-longer-name"]
        assert cow.read_bytes() == new.raw + pristine[len(new.raw) :]
        cow.write_bytes(pristine)
        after += 1
    assert after >= 8


@pytest.mark.parametrize("first", range(12))
def test_a_second_interruption_is_no_worse_than_the_first(tmp_path: Path, first: int) -> None:
    cow, old, new = cow_with_two_bases(tmp_path, Dialect.V3)
    pristine, second = cow.read_bytes(), 0
    while True:
        replace_with_fault(cow, new, first, Way.DEAD)
        if not replace_with_fault(cow, new, second, Way.DEAD):
            break
        check_whole(cow, old, new)
        with open_disk(cow, writable=True) as disk:
            replace_header(disk, read_header(disk), new)
        check_whole(cow, new)
        cow.write_bytes(pristine)
        second += 1
    check_whole(cow, new)


def test_the_header_is_only_written_under_a_durable_journal(tmp_path: Path) -> None:
    cow, _old, new = cow_with_two_bases(tmp_path, Dialect.V3)
    with open_disk(cow, writable=True) as disk, failing(None) as tally:
        replace_header(disk, read_header(disk), new)
    calls = [name for name in tally.calls if name not in ("fchmod", "ioctl")]
    in_place = ["pwrite", "fsync", "link", "rename", "fsync"]
    assert calls == [*in_place, "pwrite", "fsync", "unlink", "fsync"]


def test_the_same_header_again_writes_nothing(tmp_path: Path) -> None:
    cow, old, _new = cow_with_two_bases(tmp_path, Dialect.V3)
    with open_disk(cow) as disk:  # not even open for writing
        replace_header(disk, old, old)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_without_a_journal_the_header_stays(tmp_path: Path, error: int) -> None:
    cow, old, new = cow_with_two_bases(tmp_path, Dialect.V3)
    before = cow.read_bytes()
    with (
        open_disk(cow, writable=True) as disk,
        failing(0, Way.FULL, error=error),
        pytest.raises(UmldiskError) as caught,
    ):
        replace_header(disk, old, new)
    assert caught.value.exit_code == 74
    assert cow.read_bytes() == before
