"""What uml_moo gets wrong, shown where that is cheap and safe, and what umldisk does instead.

The number in a test's name is the fault's; test_moo_manners.py goes on with the others.

     1  a size that is no multiple of the sector is cut; versions 1 and 2 are read past their bitmap
     2  disks of 2 TiB and more come out empty or tiny
     3  an output that is one of the inputs is emptied
     4  a failure leaves half an output under the final name, and has destroyed what was there
     5  onto a block device zeros are not written; a block device as backing file has the wrong size
     6  no locks
     7  numbers of the header are not checked; a FIFO is waited for
"""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit import oracle
from tests.kit.oracle import Sample, limit_file_size, run_tool, run_umldisk, sample, twins
from tests.kit.peers import needs
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile
from umldisk.cow.inplace import InPlaceOptions, merge_into_backing
from umldisk.cow.merging import MergeOptions, merge
from umldisk.errors import BusyError, CannotCreateError, DataError, NoInputError

pytestmark = needs("uml_moo", "uml_mkcow")

SECTOR_BYTES = 512
MIB = 1 << 20
SIGFPE_STATUS = -8
QUICK = MergeOptions(sync=False)
QUICK_IN_PLACE = InPlaceOptions(sync=False)
FIFO_PATIENCE_SECONDS = 0.3


def new_image(files: Sample) -> Path:
    return files.cow.with_name("new")


# -- 1: sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [Dialect.V3, Dialect.V3_64])
def test_01_the_last_part_of_a_sector_is_merged(dialect: Dialect, tmp_path: Path) -> None:
    size_bytes = 20 * SECTOR_BYTES + 100
    files = sample(tmp_path, dialect, size_bytes=size_bytes)
    oracle.moo(files.cow, tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == files.merged[: 20 * SECTOR_BYTES]
    merge(files.cow, new_image(files), options=QUICK)
    assert new_image(files).read_bytes() == files.merged


def test_01_the_last_part_of_a_sector_is_merged_in_place(tmp_path: Path) -> None:
    size_bytes = 20 * SECTOR_BYTES + 100
    theirs, ours = twins(tmp_path, size_bytes=size_bytes)
    tail = theirs.backing.read_bytes()[-100:]
    assert tail != ours.merged[-100:]
    oracle.moo_in_place(theirs.cow)
    assert theirs.backing.read_bytes() == theirs.merged[:-100] + tail
    merge_into_backing(ours.cow, options=QUICK_IN_PLACE)
    assert ours.backing.read_bytes() == ours.merged


@pytest.mark.parametrize(
    ("dialect", "sectors"),
    [
        # A bitmap of 24 bytes fills what malloc gives; what lies behind it is malloc's own, and its lowest bit is set.
        (Dialect.V1_LITTLE, 24 * 8 + 5),
        (Dialect.V2, 24 * 8 + 5),
        # With one byte more the bitmap would reach into the next sector, and all data would lie further back.
        (Dialect.V1_LITTLE, (512 - 280) * 8 + 5),
        (Dialect.V2, (9 * 512 - 4120) * 8 + 5),
    ],
)
def test_01_sectors_without_a_bit_come_from_the_backing_file(dialect: Dialect, sectors: int, tmp_path: Path) -> None:
    files = sample(tmp_path, dialect, size_bytes=sectors * SECTOR_BYTES)
    mapped_bytes = sectors // 8 * 8 * SECTOR_BYTES
    oracle.moo(files.cow, tmp_path / "old")
    old = (tmp_path / "old").read_bytes()
    assert old[:mapped_bytes] == files.merged[:mapped_bytes]
    assert old[mapped_bytes:] != files.merged[mapped_bytes:]
    merge(files.cow, new_image(files), options=QUICK)
    assert new_image(files).read_bytes() == files.merged


# -- 2: large disks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_02_a_disk_of_two_tebibytes_is_merged(in_place: bool, tmp_path: Path) -> None:
    size_bytes = (2 << 40) + 4096
    cow, base = _huge_pair(tmp_path, size_bytes)
    oracle.moo(cow, tmp_path / "old")
    assert (tmp_path / "old").stat().st_size == 4096
    result = base if in_place else tmp_path / "new"
    if in_place:
        merge_into_backing(cow, options=QUICK_IN_PLACE)
    else:
        merge(cow, result, options=QUICK)
    assert result.stat().st_size == size_bytes
    with result.open("rb") as image:
        assert os.pread(image.fileno(), 4096, size_bytes - 8192) == b"base" * 1024
        assert os.pread(image.fileno(), 4096, size_bytes - 4096) == b"last" * 1024
    assert oracle.allocated_bytes(result) <= 64 * 1024


def _huge_pair(directory: Path, size_bytes: int) -> tuple[Path, Path]:
    """Make a sparse pair with the last two pages full, the very last one changed."""
    cow, base = directory / "cow", directory / "base"
    with base.open("wb") as image:
        image.truncate(size_bytes)
        os.pwrite(image.fileno(), b"base" * 2048, size_bytes - 8192)
    oracle.mkcow(cow, base)
    with CowFile.open(cow, access=Access(lock=False)) as disk:
        geometry = disk.geometry
    with cow.open("r+b") as file:
        os.pwrite(file.fileno(), b"last" * 1024, geometry.data_offset + size_bytes - 4096)
        os.pwrite(file.fileno(), b"\xff", geometry.bitmap_end - 1)
    return cow, base


# -- 3: output and input the same -------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", ["backing", "cow"])
@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
def test_03_an_output_that_is_an_input_is_refused(same: str, how: str, tmp_path: Path) -> None:
    files = sample(tmp_path)
    victim = files.backing if same == "backing" else files.cow
    output = victim if how == "itself" else new_image(files)
    if how == "symlink":
        output.symlink_to(victim)
    elif how == "hard link":
        output.hardlink_to(victim)
    before = files.cow.read_bytes(), files.backing.read_bytes()
    with pytest.raises(DataError, match="the output is one of the inputs"):
        merge(files.cow, output, options=MergeOptions(replace=True))
    assert (files.cow.read_bytes(), files.backing.read_bytes()) == before
    finished = run_tool("uml_moo", files.cow, output, cwd=tmp_path)
    assert finished.returncode == 1
    assert victim.stat().st_size <= SECTOR_BYTES


# -- 4: failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [None, b"a good image"])
def test_04_a_failure_leaves_no_half_output(existing: bytes | None, tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=2 * MIB)
    old, new = tmp_path / "old", tmp_path / "new"
    if existing is not None:
        old.write_bytes(existing)
        new.write_bytes(existing)
    finished = run_tool("uml_moo", files.cow, old, cwd=tmp_path, prepare=limit_file_size(MIB))
    assert (finished.returncode, old.stat().st_size) == (1, MIB)
    names = sorted(os.listdir(tmp_path))
    failed = run_umldisk("merge", "--force", files.cow, new, prepare=limit_file_size(MIB))
    assert failed.returncode == 74, failed.stderr.decode()
    assert failed.stderr.startswith(b"umldisk: error: ")
    assert (new.read_bytes() if new.exists() else None) == existing
    assert sorted(os.listdir(tmp_path)) == names


# -- 5: block devices -------------------------------------------------------------------------------------------------


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """Give a block device over a file."""
    name = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True).stdout
    try:
        yield Path(name.strip())
    finally:
        subprocess.run(["losetup", "--detach", name.strip()], check=True)


@needs("ext4")
def test_05_a_block_device_gets_the_zeros_too(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=16384)
    medium = tmp_path / "medium"
    medium.write_bytes(b"\xee" * 16384)
    with loop_device(medium) as device:
        oracle.moo(files.cow, device)
        old = device.read_bytes()
        assert old[12 * SECTOR_BYTES : 16 * SECTOR_BYTES] == b"\xee" * (4 * SECTOR_BYTES)
        with pytest.raises(CannotCreateError):
            merge(files.cow, device)
        merge(files.cow, device, options=MergeOptions(replace=True, verify=True))
    assert medium.read_bytes() == files.merged


@needs("ext4")
def test_05_a_block_device_can_be_the_backing_file(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=16384)
    with loop_device(files.backing) as device:
        finished = run_tool("uml_moo", "-b", device, files.cow, tmp_path / "old")
        assert finished.returncode == 1
        assert b"Size mismatch" in finished.stderr
        merge(files.cow, new_image(files), access=Access(backing=device, ignore_mtime=True), options=QUICK)
    assert new_image(files).read_bytes() == files.merged


# -- 6: locks ---------------------------------------------------------------------------------------------------------

# Locks as UML takes them, by fcntl: for writing on the COW file, for reading on the backing file.
_LOCKER = """
import fcntl, sys
cow, backing = open(sys.argv[1], "r+b"), open(sys.argv[2], "rb")
fcntl.lockf(cow, fcntl.LOCK_EX)
fcntl.lockf(backing, fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_as_by_a_guest(files: Sample) -> Iterator[int]:
    """Let another process hold the locks that a guest would; yields its number."""
    argv: list[str | Path] = [sys.executable, "-c", _LOCKER, files.cow, files.backing]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        yield locker.pid
        locker.communicate()


def test_06_a_disk_in_use_is_left_alone(tmp_path: Path) -> None:
    files = sample(tmp_path)
    before = files.cow.read_bytes(), files.backing.read_bytes()
    with locked_as_by_a_guest(files) as pid:
        with pytest.raises(BusyError) as caught:
            merge(files.cow, new_image(files))
        assert caught.value.pid == pid
        with pytest.raises(BusyError) as caught:
            merge_into_backing(files.cow)
        assert caught.value.pid == pid
        assert not new_image(files).exists()
        assert (files.cow.read_bytes(), files.backing.read_bytes()) == before
        oracle.moo(files.cow, tmp_path / "old")
        oracle.moo_in_place(files.cow)


# -- 7: headers and file types ----------------------------------------------------------------------------------------


class Broken(NamedTuple):
    """A field of a version 3 header set to a number, and how uml_moo ends; None where that is better not tried."""

    field: str
    offset: int
    kind: str
    number: int
    old_status: int | None


BROKEN = [
    Broken("alignment", 24, ">I", 0, SIGFPE_STATUS),
    Broken("sectorsize", 20, ">I", 0, SIGFPE_STATUS),
    Broken("sectorsize", 20, ">I", 513, 0),
    Broken("sectorsize", 20, ">I", 1 << 31, None),
    Broken("size", 12, ">Q", 1 << 63, None),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.field}={broken.number}")
def test_07_numbers_that_cannot_be_true_are_refused(broken: Broken, tmp_path: Path) -> None:
    files = sample(tmp_path)
    raw = bytearray(files.cow.read_bytes())
    struct.pack_into(broken.kind, raw, broken.offset, broken.number)
    files.cow.write_bytes(raw)
    with pytest.raises(DataError, match=f"bad {broken.field} in the COW header"):
        merge(files.cow, new_image(files))
    assert not new_image(files).exists()
    if broken.old_status is not None:
        finished = run_tool("uml_moo", files.cow, tmp_path / "old", cwd=tmp_path)
        assert finished.returncode == broken.old_status
    if broken.old_status == 0:
        assert (tmp_path / "old").stat().st_size != len(files.merged)


def test_07_an_empty_path_is_refused(tmp_path: Path) -> None:
    files = sample(tmp_path)
    raw = files.cow.read_bytes()
    files.cow.write_bytes(raw[:32] + bytes(4096) + raw[32 + 4096 :])
    with pytest.raises(DataError):
        merge(files.cow, new_image(files))
    assert not new_image(files).exists()
    assert run_tool("uml_moo", files.cow, tmp_path / "old", cwd=tmp_path).returncode == SIGFPE_STATUS


@pytest.mark.parametrize("place", ["cow", "backing", "new"])
def test_07_a_fifo_is_refused_at_once(place: str, tmp_path: Path) -> None:
    files = sample(tmp_path)
    paths = {"cow": files.cow, "backing": files.backing, "new": tmp_path / "new", place: tmp_path / "fifo"}
    os.mkfifo(paths[place])
    with pytest.raises(CannotCreateError if place == "new" else NoInputError):
        merge(paths["cow"], paths["new"], access=Access(backing=paths["backing"]), options=MergeOptions(replace=True))
    if place != "backing":
        with pytest.raises(subprocess.TimeoutExpired):
            run_tool("uml_moo", paths["cow"], paths["new"], cwd=tmp_path, timeout=FIFO_PATIENCE_SECONDS)
