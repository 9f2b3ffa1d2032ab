"""Creating empty COW files: byte for byte what uml_mkcow writes, in every dialect, and never halfway."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.faults import Died, Way, failing
from tests.kit.oracle import mkcow
from tests.kit.peers import needs
from umldisk.cow import journal as journals
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError
from umldisk.system import files, locks

GIB = 1 << 30
SIZES = (*model.ODD_SIZES, 32767, 32768, 32769, 100_000, 1 << 20, (1 << 20) + 513)

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model.write_image(tmp_path / "base", b"root file system" * 1000)


@pytest.fixture
def umask() -> Iterator[None]:
    """Set the usual umask, whatever the machine has."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def sparse_file(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def without_leftovers(path: Path, name: bytes) -> bytes:
    """Return a version 3 file's bytes; what its writer's memory held after the path's NUL is blanked."""
    raw, field = path.read_bytes(), slice(32, 32 + 4096)
    assert raw[field].startswith(name + b"\0")
    return raw[: field.start] + name.ljust(4096, b"\0") + raw[field.stop :]


@needs("uml_mkcow")
@pytest.mark.parametrize("size_bytes", SIZES)
def test_bytes_are_those_of_uml_mkcow(tmp_path: Path, umask: None, size_bytes: int) -> None:
    base = sparse_file(tmp_path / "base", size_bytes)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    mkcow(theirs, base)
    create(ours, base)
    name = os.fsencode(base)
    assert without_leftovers(ours, name) == ours.read_bytes()
    assert ours.read_bytes() == without_leftovers(theirs, name)
    assert ours.stat().st_mode == theirs.stat().st_mode


@every_dialect
@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_dialect_reads_back(tmp_path: Path, dialect: Dialect, size_bytes: int) -> None:
    """Detected without help, empty, as long as its disk, and showing the backing file."""
    size = model.size_for(dialect, size_bytes)
    contents = os.urandom(size)
    base = model.write_image(tmp_path / "base", contents)
    cow = tmp_path / "cow"
    report = create(cow, base, dialect=dialect, sync=False)
    header, changes = model.read_cow(cow, dialect)
    assert (report.size_bytes, report.dialect, report.dry_run) == (size, dialect, False)
    assert report.mtime == header.mtime == base.stat().st_mtime_ns // 1_000_000_000
    assert (header.sector_bytes, header.backing_path) == (512, os.fsencode(base))
    assert changes == {}
    assert cow.stat().st_size == header.geometry.data_offset + size
    with CowFile.open(cow) as opened:
        assert opened.header.dialect is dialect
        assert opened.read(0, size) == contents


def test_huge_disk_takes_no_room(tmp_path: Path) -> None:
    base = sparse_file(tmp_path / "base", 1024 * GIB)
    cow = tmp_path / "cow"
    assert create(cow, base).size_bytes == 1024 * GIB
    assert cow.stat().st_size > 1024 * GIB
    assert model.room_of(cow) <= 16384


def test_path_is_absolute_and_keeps_the_last_symlink(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is resolved, the name is not: so UML writes it."""
    (tmp_path / "current").symlink_to("base")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    report = create("cow", "elsewhere/current")
    assert report.backing == str(tmp_path.resolve() / "current")
    assert create("cow2", "base").backing == str(tmp_path.resolve() / "base")


def test_path_is_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"na\xefve \n image")
    base = model.write_image(tmp_path / name, b"x" * 512)
    create(tmp_path / "cow", base)
    header, _changes = model.read_cow(tmp_path / "cow")
    assert header.backing_path == os.fsencode(base)


def test_mtime_is_cut_to_32_bits(tmp_path: Path, base: Path) -> None:
    os.utime(base, (0, (1 << 32) + 5))
    assert create(tmp_path / "cow", base).mtime == 5
    with CowFile.open(tmp_path / "cow") as opened:
        assert opened.header.mtime == 5


# -- what is refused ------------------------------------------------------------------------------


@every_dialect
def test_cow_file_as_backing_is_refused(tmp_path: Path, base: Path, dialect: Dialect) -> None:
    create(tmp_path / "cow", model.write_image(tmp_path / "even", bytes(512)), dialect=dialect)
    with pytest.raises(DataError, match="COW file itself") as caught:
        create(tmp_path / "upper", tmp_path / "cow")
    assert "umldisk merge" in str(caught.value.hint)
    assert not (tmp_path / "upper").exists()


@pytest.mark.parametrize("name", model.NAMES)
@pytest.mark.parametrize("replace", [True, False])
def test_itself_as_backing_is_refused(base: Path, name: str, replace: bool) -> None:
    before = base.read_bytes()
    with pytest.raises(DataError, match="its own backing file"):
        create(model.another_name(base, name), base, replace=replace)
    assert base.read_bytes() == before


def test_other_things_as_backing_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "loop", "missing", ".", "/dev/zero"):
        with pytest.raises(NoInputError):
            create(tmp_path / "cow", tmp_path / name)
    assert not (tmp_path / "cow").exists()


@pytest.mark.parametrize("dialect", [Dialect.QEMU_32, Dialect.QEMU_64])
@pytest.mark.parametrize("size_bytes", [0, 1, 511, 513])
def test_qemu_holds_whole_sectors_only(tmp_path: Path, dialect: Dialect, size_bytes: int) -> None:
    base = sparse_file(tmp_path / "base", size_bytes)
    with pytest.raises(DataError, match="whole sectors") as caught:
        create(tmp_path / "cow", base, dialect=dialect)
    assert f"found {size_bytes}" in caught.value.line()
    assert not (tmp_path / "cow").exists()


def test_path_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    base = model.write_image(directory / ("b" * 100), bytes(512))
    with pytest.raises(DataError, match="too long"):
        create(tmp_path / "cow", base, dialect=Dialect.V1_LITTLE)
    assert not (tmp_path / "cow").exists()
    create(tmp_path / "cow", base, dialect=Dialect.V2)


@pytest.mark.parametrize("dry_run", [True, False])
def test_existing_file_stays_unless_it_may_be_replaced(tmp_path: Path, base: Path, dry_run: bool) -> None:
    cow = model.write_image(tmp_path / "cow", b"precious")
    with pytest.raises(CannotCreateError) as caught:
        create(cow, base, dry_run=dry_run)
    assert "--force" in str(caught.value.hint)
    assert cow.read_bytes() == b"precious"


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("kind", ["fifo", "directory", "loop"])
def test_only_regular_files_are_replaced(tmp_path: Path, base: Path, kind: str, dry_run: bool) -> None:
    cow = tmp_path / "cow"
    {"fifo": os.mkfifo, "directory": os.mkdir, "loop": lambda path: os.symlink("cow", path)}[kind](cow)
    with pytest.raises(CannotCreateError):
        create(cow, base, replace=True, dry_run=dry_run)
    assert os.path.lexists(cow)


@pytest.mark.parametrize("dry_run", [True, False])
def test_file_in_use_is_not_replaced(tmp_path: Path, base: Path, dry_run: bool) -> None:
    cow = tmp_path / "cow"
    create(cow, base)
    before = cow.stat().st_ino
    with files.open_disk(cow, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=True)
        with pytest.raises(BusyError):
            create(cow, base, replace=True, dry_run=dry_run)
    assert cow.stat().st_ino == before


def test_backing_that_is_being_written_is_refused(tmp_path: Path, base: Path) -> None:
    with files.open_disk(base, writable=True) as held:
        locks.lock(held.fd, held.path, exclusive=True)
        with pytest.raises(BusyError):
            create(tmp_path / "cow", base)
    create(tmp_path / "cow", base)


def test_half_merged_file_is_neither_backing_nor_replaced(tmp_path: Path, base: Path) -> None:
    journals.write(str(base), MergeJournal("/some/cow", base.stat().st_ino, 16000, 1, reset=False))
    with pytest.raises(DataError, match="unfinished") as caught:
        create(tmp_path / "cow", base)
    assert "umldisk merge -d /some/cow" in str(caught.value.hint)
    other = model.write_image(tmp_path / "other", bytes(512))
    with pytest.raises(DataError, match="unfinished"):
        create(base, other, replace=True)


# -- how it is put in place -----------------------------------------------------------------------


def test_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, base: Path) -> None:
    planned = create(tmp_path / "cow", base, dry_run=True)
    assert sorted(os.listdir(tmp_path)) == ["base"]
    done = create(tmp_path / "cow", base)
    assert planned.dry_run
    assert (planned.backing, planned.size_bytes, planned.mtime) == (done.backing, done.size_bytes, done.mtime)


def test_replaced_file_hands_on_mode_and_owner_but_no_data(tmp_path: Path, base: Path) -> None:
    cow = tmp_path / "cow"
    model.write_cow(cow, base, dict.fromkeys(range(20), b"\xff" * 512))
    cow.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(cow, 1234, 4321)
    owner = cow.stat().st_uid, cow.stat().st_gid
    create(cow, base, replace=True)
    assert model.read_cow(cow)[1] == {}
    assert (cow.stat().st_uid, cow.stat().st_gid, cow.stat().st_mode & 0o777) == (*owner, 0o600)
    assert set(cow.read_bytes()[8192:]) == {0}


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_new_file_has_the_mode_that_uml_gives(tmp_path: Path, base: Path, umask: None, mask: int, mode: int) -> None:
    os.umask(mask)
    create(tmp_path / "cow", base)
    assert (tmp_path / "cow").stat().st_mode & 0o777 == mode


def test_symlink_to_a_cow_file_stays_a_symlink(tmp_path: Path, base: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    create(tmp_path / "link", base)
    create(tmp_path / "link", base, replace=True)
    assert (tmp_path / "link").is_symlink()
    assert model.read_cow(tmp_path / "real")[1] == {}


def test_journal_of_a_replaced_file_goes_with_it(tmp_path: Path, base: Path) -> None:
    """Its header was being rewritten; beside the new file that would be another file's journal."""
    cow = tmp_path / "cow"
    create(cow, base)
    raw = model.read_cow(cow)[0].raw
    journals.write(str(cow), HeaderJournal(old=raw.hex(), new=raw[:-1].hex() + "01"))
    os.utime(base, (1, 1))
    create(cow, base, replace=True)
    assert sorted(os.listdir(tmp_path)) == ["base", "cow"]
    with CowFile.open(cow) as opened:
        assert opened.header.mtime == 1


def test_killed_at_any_call_there_is_the_old_file_or_the_new(tmp_path: Path, base: Path) -> None:
    cow = tmp_path / "cow"
    model.write_cow(cow, base, {3: b"\xff" * 512})
    old = cow.read_bytes()
    with failing(None) as calls:
        create(tmp_path / "counted", base, replace=True)
    struck = 0
    for number in range(len(calls.calls) + 10):
        with failing(number, Way.DEAD) as tally:
            try:
                create(cow, base, replace=True)
            except Died:
                struck += 1
        is_new = model.read_cow(cow)[1] == {}
        assert is_new or cow.read_bytes() == old
        if tally.struck is None:
            break
        model.write_cow(cow, base, {3: b"\xff" * 512})
    assert is_new
    assert struck >= len(calls.calls) >= 4
    assert sorted(os.listdir(tmp_path)) == ["base", "counted", "cow"]


def test_full_disk_leaves_nothing(tmp_path: Path, base: Path) -> None:
    with failing(0, Way.FULL), pytest.raises(Exception, match="cannot write") as caught:
        create(tmp_path / "cow", base)
    assert caught.value.exit_code == 74
    assert sorted(os.listdir(tmp_path)) == ["base"]


@needs("root", "losetup")
def test_block_device_as_backing(tmp_path: Path, base: Path) -> None:
    with base.open("r+b") as file:
        file.truncate(64 * 1024)
    attach = ["losetup", "--find", "--show", "--read-only", str(base)]
    device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        report = create(tmp_path / "cow", device)
        assert (report.size_bytes, report.backing) == (64 * 1024, device)
        with CowFile.open(tmp_path / "cow") as opened:
            assert opened.read(0, 16) == b"root file system"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
