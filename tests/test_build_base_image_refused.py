"""Images that are no base, or a damaged one: each is refused with a clear word, and nothing is left behind."""

import fcntl
import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.extimage import block_of, debugfs, guest_image, make_image, mount, open_volume, patch
from tests.kit.peers import needs
from umldisk.build.bases.image import START_BYTES, ImageBase, is_disk_image
from umldisk.build.tree import Entry, HardLink
from umldisk.errors import BusyError, DataError, NoInputError, StorageError
from umldisk.image.extfs.volume import inode_numbers

pytestmark = needs("mke2fs", "debugfs")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(guest_image())
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "scratch"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []


def entries(image: Path, scratch: Path) -> dict[str, Entry | HardLink]:
    with ImageBase(str(image), scratch=str(scratch)) as base:
        return {entry.path: entry for entry in base.entries()}


def read_contents(image: Path, scratch: Path) -> int:
    """Read all contents of a base; return how many bytes that were."""
    with ImageBase(str(image), scratch=str(scratch)) as base:
        files = (entry.inode.contents for entry in base.entries() if isinstance(entry, Entry))
        return sum(len(data) for file in files for _offset, data in file.pieces())


def test_a_journal_that_was_not_replayed_is_refused(image: Path, scratch: Path) -> None:
    debugfs(image, "feature needs_recovery", writable=True)
    with pytest.raises(DataError, match="not replayed") as refused:
        ImageBase(str(image), scratch=str(scratch))
    assert "e2fsck -p" in str(refused.value.hint)


@needs("root", "ext4")
def test_what_only_the_journal_holds_is_refused(tmp_path: Path, scratch: Path) -> None:
    """A copy of a mounted file system, as an image of a crashed guest is."""
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096", size="16M")
    copy = tmp_path / "copy"
    with mount(image, tmp_path / "point") as point:
        (point / "new").write_text("not in place yet")
        os.sync()
        copy.write_bytes(image.read_bytes())
    with pytest.raises(DataError, match="not replayed"):
        ImageBase(str(copy), scratch=str(scratch))
    subprocess.run(["e2fsck", "-p", str(copy)], check=False, capture_output=True)
    assert "/new" in entries(copy, scratch)


def _partitioned(kind: str) -> bytes:
    data = bytearray(8 << 20)
    data[510:512] = b"\x55\xaa"
    if kind == "gpt":
        data[512:520] = b"EFI PART"
    return bytes(data)


def _cow() -> bytes:
    return struct.pack(">II", 0x4F4F4F4D, 2) + bytes(8192)


REFUSED = {
    "mbr": (_partitioned("mbr"), "disk with partitions"),
    "gpt": (_partitioned("gpt"), "disk with partitions"),
    "cow": (_cow(), "COW file"),
    "empty": (b"", "no image"),
    "zeros": (bytes(100_000), "no image"),
    "text": (b"text\n" * 1000, "no image"),
    "cut": (b"", "cut off"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_file_system_is_refused(case: str, packed: bool, tmp_path: Path, scratch: Path) -> None:
    data, message = REFUSED[case]
    if case == "cut":
        data = guest_image()[:-1]
    path = tmp_path / "other"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=message) as refused:
        ImageBase(str(path), scratch=str(scratch))
    assert str(path) in refused.value.line()


def test_disks_are_told_from_archives() -> None:
    assert is_disk_image(guest_image()[:START_BYTES])
    assert is_disk_image(_partitioned("mbr")[:START_BYTES])
    assert is_disk_image(_partitioned("gpt")[:START_BYTES])
    assert is_disk_image(_cow()[:START_BYTES])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("name"), io.BytesIO())
    for other in (archive.getvalue(), b"", bytes(START_BYTES), b"text" * 600):
        assert not is_disk_image(other[:START_BYTES])


def test_a_directory_that_is_entered_as_a_file_is_refused(image: Path, scratch: Path) -> None:
    """What is below it would be missing without a word."""
    start = block_of(image, 2) * 4096
    place = image.read_bytes().index(b"etc", start)
    patch(image, place - 1, b"\x01")
    with pytest.raises(DataError, match="wrong file type") as refused:
        entries(image, scratch)
    assert refused.value.found == "/etc"


def test_files_that_share_blocks_cannot_fill_the_builders_disk(tmp_path: Path, scratch: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096", "-O", "^has_journal", size="8M")
    large = tmp_path / "large"
    large.write_bytes(b"x" * (3 << 20))
    debugfs(image, f"write {large} f0", *(f"mknod f{number} p" for number in range(1, 4)), writable=True)
    debugfs(image, *(f"copy_inode f0 f{number}" for number in range(1, 4)), writable=True)
    with open_volume(image) as volume:
        assert len({volume.inode(number).number for number in inode_numbers(volume).values()}) == 6
    with pytest.raises(DataError, match="hold more than its file system"):
        read_contents(image, scratch)


def test_attributes_that_no_disk_takes_are_refused(image: Path, scratch: Path, tmp_path: Path) -> None:
    with open_volume(image) as volume:
        number = inode_numbers(volume)["/holes"]
        raw = volume.inode(number)
    place = image.read_bytes().index(raw.body[:32]) + 4
    patch(image, place + 1, b"\x05")
    with pytest.raises(DataError, match="cannot be kept") as refused:
        entries(image, scratch)
    assert refused.value.found == "lustre.colour"


def test_an_image_that_a_guest_writes_to_is_busy(image: Path, scratch: Path) -> None:
    code = "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX)"
    code += "; print(flush=True); input()"
    command = [sys.executable, "-c", code, str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(BusyError) as refused:
            ImageBase(str(image), scratch=str(scratch))
        assert refused.value.pid == child.pid
        child.communicate(b"\n")
    with ImageBase(str(image), scratch=str(scratch)), image.open("rb") as other:
        fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_no_file_and_no_scratch_directory(image: Path, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(NoInputError):
        ImageBase(str(tmp_path / "missing"), scratch=str(scratch))
    with pytest.raises(NoInputError):
        ImageBase(str(tmp_path), scratch=str(scratch))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(image.read_bytes()))
    with pytest.raises(StorageError, match="create a file in"):
        ImageBase(str(packed), scratch=str(tmp_path / "missing"))


@pytest.mark.parametrize("keep", [100, 5000, 20_000])
def test_a_packed_image_that_is_cut_is_refused(keep: int, image: Path, scratch: Path, tmp_path: Path) -> None:
    whole = gzip.compress(image.read_bytes())
    packed = tmp_path / "packed"
    packed.write_bytes(whole[: min(keep, len(whole) - 1)])
    with pytest.raises(DataError, match="cut short"):
        ImageBase(str(packed), scratch=str(scratch))


def test_a_packed_image_with_a_wrong_check_sum_is_refused(image: Path, scratch: Path, tmp_path: Path) -> None:
    whole = gzip.compress(image.read_bytes())
    packed = tmp_path / "packed"
    packed.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(DataError, match="damaged"):
        ImageBase(str(packed), scratch=str(scratch))


def test_nothing_stays_open(image: Path, scratch: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for source in (image, image.parent / "missing"):
        try:
            with ImageBase(str(source), scratch=str(scratch)) as base:
                next(iter(base.entries()))
        except NoInputError:
            assert source != image
    debugfs(image, "feature needs_recovery", writable=True)
    with pytest.raises(DataError):
        ImageBase(str(image), scratch=str(scratch))
    assert len(os.listdir("/proc/self/fd")) == before
