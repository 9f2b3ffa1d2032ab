"""The kernel as oracle: what a real guest writes to a disk and reads from it, against what umldisk makes of it.

A guest's word for a disk is a checksum over O_DIRECT reads of one page each, because the kernel reads wrongly through
a cache where a page is changed in part; that fault has a test of its own.
"""

import hashlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit import oracle
from tests.kit.guest import ScriptGuest, run_script
from tests.kit.oracle import run_umldisk, sample
from tests.kit.peers import needs
from umldisk.cow.aligning import align
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.differencing import difference
from umldisk.cow.file import Access, CowFile
from umldisk.cow.inplace import InPlaceOptions, SiblingPolicy, merge_into_backing
from umldisk.cow.merging import MergeOptions, merge
from umldisk.cow.rebasing import rebase

pytestmark = needs("linux", "busybox", "blkdiscard")

SECTOR_BYTES = 512
PAGE_BYTES = 4096
DISK_BYTES = 1 << 20
METADATA_BYTES = 16384
"""What a file system takes for itself to list a file's many pieces."""
QUICK = MergeOptions(sync=False)
LETTERS = "abcdefghij"

# A disk that cannot be opened is passed over. busybox's dd would take the cache after all.
READ_DISKS = """
for disk in a b c d e f g h i j; do
    (: </dev/ubd$disk) 2>/dev/null || continue
    echo direct $disk $(/usr/bin/dd if=/dev/ubd$disk iflag=direct bs=4096 2>/dev/null | sha256sum)
done
"""


def digest(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def digests(output: str, way: str = "direct") -> dict[str, str]:
    """Return the checksums that a guest printed, by the disk's letter."""
    words = [line.split() for line in output.splitlines()]
    return {line[1]: line[2] for line in words if len(line) == 4 and line[0] == way}


def merged(cow: Path) -> bytes:
    """Merge a COW file into a new image beside it, and return that."""
    image = cow.with_suffix(".merged")
    merge(cow, image, options=MergeOptions(sync=False, replace=True))
    return image.read_bytes()


@dataclass
class Workload:
    """A row of commands for a guest, and what they make of a disk."""

    ink: Path
    disk: bytearray
    commands: list[str] = field(default_factory=list)

    def write(self, start: int, length: int, *, grain: int, seed: int) -> None:
        """Write from the ink, past the cache, in requests of `grain` bytes."""
        blocks = f"bs={grain} count={length // grain} skip={seed} seek={start // grain}"
        self.commands.append(f"/usr/bin/dd if={self.ink} of=/dev/ubda {blocks} conv=notrunc oflag=direct 2>/dev/null")
        self.disk[start : start + length] = self.ink.read_bytes()[seed * grain :][:length]

    def clear(self, start: int, length: int, *, flags: str) -> None:
        """Discard, or with the flag --zeroout write zeros without sending any."""
        self.commands.append(f"/usr/sbin/blkdiscard {flags} --offset {start} --length {length} /dev/ubda")
        self.disk[start : start + length] = bytes(length)


def random_workload(ink: Path, disk: bytes, seed: int) -> Workload:
    """Fill, overwrite, discard and zero parts of a disk, some of them smaller than a page."""
    chance = random.Random(seed)
    work = Workload(ink, bytearray(disk))
    for _step in range(30):
        grain = chance.choice([SECTOR_BYTES, PAGE_BYTES, PAGE_BYTES, 8 * PAGE_BYTES])
        blocks = chance.randint(1, max(1, 64 * 1024 // grain))
        start = chance.randrange(len(disk) // grain - blocks + 1) * grain
        kind = chance.choice(["write", "write", "discard", "zero"])
        if kind == "write":
            work.write(start, blocks * grain, grain=grain, seed=chance.randrange(8))
        else:
            work.clear(start, blocks * grain, flags="--zeroout" if kind == "zero" else "")
    return work


@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_guest_sees_is_what_a_merge_gives(seed: int, tmp_path: Path) -> None:
    base, cow, ink = tmp_path / "base", tmp_path / "cow", tmp_path / "ink"
    chance = random.Random(seed)
    base.write_bytes(chance.randbytes(DISK_BYTES // 2))
    os.truncate(base, DISK_BYTES)
    ink.write_bytes(chance.randbytes(512 * 1024))
    work = random_workload(ink, base.read_bytes(), seed)
    ran = run_script("\n".join(["set -e", *work.commands, READ_DISKS]), [f"{cow},{base}"])
    assert ran.status == 0, ran.console
    assert 'Creating "' in ran.console
    expected = bytes(work.disk)
    assert digests(ran.output) == {"a": digest(expected)}
    assert merged(cow) == expected
    room = _bytes_in_pages_with_data(expected) + METADATA_BYTES
    assert oracle.allocated_bytes(cow.with_suffix(".merged")) <= room

    merge_into_backing(cow, options=InPlaceOptions(reset=True))
    assert base.read_bytes() == expected
    assert oracle.allocated_bytes(base) <= room
    more = random_workload(ink, expected, seed + 100)
    first = READ_DISKS.replace("echo direct", "echo first")
    again = run_script("\n".join(["set -e", first, *more.commands, READ_DISKS]), [cow])
    assert again.status == 0, again.console
    assert digests(again.output, "first") == {"a": digest(expected)}
    assert digests(again.output) == {"a": digest(bytes(more.disk))}
    assert merged(cow) == bytes(more.disk)


def _bytes_in_pages_with_data(contents: bytes) -> int:
    pages = (contents[at : at + PAGE_BYTES] for at in range(0, len(contents), PAGE_BYTES))
    return sum(PAGE_BYTES for page in pages if any(page))


def test_mixed_pages_are_read_wrongly_until_they_are_aligned(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=DISK_BYTES, changed=frozenset(), cleared=frozenset())
    cow, ink = tmp_path / "cow", tmp_path / "ink"
    create(cow, files.backing)
    ink.write_bytes(random.Random(3).randbytes(DISK_BYTES))
    work = Workload(ink, bytearray(files.backing.read_bytes()))
    for page in range(3, 40, 5):
        work.write(page * PAGE_BYTES + 1024, 1024, grain=SECTOR_BYTES, seed=page)
    buffered = """
        echo 3 >/proc/sys/vm/drop_caches
        echo "buffered a $(/usr/bin/dd if=/dev/ubda bs=64k 2>/dev/null | sha256sum)"
    """
    before = run_script("\n".join(["set -e", *work.commands, READ_DISKS, buffered]), [cow])
    expected = bytes(work.disk)
    assert digests(before.output) == {"a": digest(expected)}
    assert digests(before.output, "buffered")["a"] != digest(expected)
    assert merged(cow) == expected

    assert align(cow).pages == 8
    after = run_script(READ_DISKS + buffered, [cow])
    assert digests(after.output) == digests(after.output, "buffered") == {"a": digest(expected)}
    assert merged(cow) == expected


class Shelf:
    """Disks for one boot, with what a guest has to see on each; None where it must not get the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cows: list[Path] = []
        self._expected: dict[str, str | None] = {}

    def files(self, name: str, dialect: Dialect = Dialect.V3) -> oracle.Sample:
        """Make a COW file and its backing file in a directory of their own."""
        place = self._directory / name
        place.mkdir()
        return sample(place, dialect, size_bytes=DISK_BYTES, absolute=True)

    def add(self, name: str, cow: Path, expected: bytes | None) -> None:
        """Put a COW file into the next drive; its backing file is found by the path in its header."""
        self._cows.append(cow)
        self._expected[name] = None if expected is None else digest(expected)

    def check(self) -> set[str]:
        """Let a guest read all disks and compare; return the lines about mismatches on its console."""
        ran = run_script(READ_DISKS, self._cows)
        seen = digests(ran.output)
        letters = LETTERS[: len(self._cows)]
        found = {name: seen.get(letter) for name, letter in zip(self._expected, letters, strict=True)}
        assert found == self._expected
        return {line for line in ran.console.splitlines() if "mismatch" in line}


def test_cow_files_made_by_umldisk_boot_and_read_right(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("create", "diff", "align", "rebase", "rebase -u", "merge -d", "merge -d --reset", "a sibling"):
        shelf.add(name, *_made_by(name, shelf.files(name.replace(" ", ""))))
    touched = shelf.files("touched")
    os.utime(touched.backing, (1_200_000_000, 1_200_000_000))
    shelf.add("touched", touched.cow, None)
    assert shelf.check() == {"mtime mismatch (1000000000 vs 1200000000) of COW header vs backing file"}


def _made_by(name: str, files: oracle.Sample) -> tuple[Path, bytes]:
    """Make a COW file with one of umldisk's functions; return it and what its guest must see."""
    cow = files.cow
    match name:
        case "create":
            create(cow, files.backing, replace=True)
            return cow, files.backing.read_bytes()
        case "diff":
            image = cow.with_name("image")
            image.write_bytes(files.merged)
            difference(files.backing, image, cow, replace=True)
        case "align":
            assert align(cow).pages == 2
        case "rebase" | "rebase -u":
            _rebase(cow, files.backing, header_only=name == "rebase -u")
        case "merge -d" | "merge -d --reset":
            merge_into_backing(cow, options=InPlaceOptions(reset=name == "merge -d --reset"))
        case "a sibling":
            other, before = cow.with_name("other"), files.backing.read_bytes()
            create(other, files.backing)
            merge_into_backing(cow, options=InPlaceOptions(siblings=SiblingPolicy.KEEP))
            return other, before
    return cow, files.merged


def _rebase(cow: Path, backing: Path, *, header_only: bool) -> None:
    """Put a COW file on a copy of its backing file, or on one with another text, and remove the old one."""
    other, contents = backing.with_name("other"), backing.read_bytes()
    other.write_bytes(contents if header_only else contents.replace(b"base", b"BASE"))
    os.utime(other, (1_100_000_000, 1_100_000_000))
    rebase(cow, other, header_only=header_only)
    backing.unlink()


def test_the_kernel_reads_what_umldisk_writes_in_old_layouts(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for dialect in oracle.READ_BY_MOO:
        files = shelf.files(dialect.value, dialect)
        _rebase(files.cow, files.backing, header_only=True)
        shelf.add(dialect.value, files.cow, files.merged)
        created = shelf.files(f"{dialect.value}-new", dialect)
        create(created.cow, created.backing, dialect=dialect, replace=True)
        shelf.add(f"{dialect.value}-new", created.cow, created.backing.read_bytes())
    assert shelf.check() == set()
    for dialect in oracle.READ_BY_MOO:
        with CowFile.open(tmp_path / dialect.value / f"{dialect.value}.cow") as disk:
            assert disk.header.dialect is dialect


# -- locks ------------------------------------------------------------------------------------------------------------

HOLD_DISK = """
exec 3</dev/ubda
echo the disk is open
sleep 60
"""


def test_a_guests_disks_are_left_alone(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=DISK_BYTES, absolute=True)
    other = tmp_path / "other"
    create(other, files.backing)
    new_backing = tmp_path / "newer"
    new_backing.write_bytes(files.backing.read_bytes())
    before = {path: path.read_bytes() for path in (files.cow, files.backing, other)}
    new = tmp_path / "new"
    commands: dict[str, list[str | Path]] = {
        "merge": ["merge", files.cow, new],
        "merge -d": ["merge", "-d", "--orphan-siblings", files.cow],
        "merge -d --reset": ["merge", "-d", "--reset", "--orphan-siblings", files.cow],
        "align": ["align", files.cow],
        "rebase": ["rebase", files.cow, new_backing],
        "rebase -u": ["rebase", "-u", files.cow, new_backing],
        "create -f": ["create", "-f", files.cow, new_backing],
        "the backing file alone": ["merge", "-d", "--orphan-siblings", other],
    }
    with ScriptGuest(HOLD_DISK, [files.cow], arguments=["umid=holder"]) as guest:
        guest.wait_for("the disk is open")
        for name, words in commands.items():
            finished = run_umldisk(*words)
            said = finished.stderr.decode()
            assert (name, finished.returncode) == (name, 75), said
            assert f"by PID {guest.pid}, umid holder" in said
        assert {path: path.read_bytes() for path in before} == before
        assert not new.exists()
        merge(other, new, options=QUICK)  # who only reads what the guest only reads is not in its way
    assert new.read_bytes() == before[files.backing]


def test_a_guest_does_not_get_what_umldisk_has(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=DISK_BYTES, absolute=True)
    before = files.cow.read_bytes(), files.backing.read_bytes()
    for access in (Access(), Access(change_cow=True), Access(change_cow=True, change_backing=True)):
        with CowFile.open(files.cow, access=access):
            refused = run_script(READ_DISKS, [files.cow])
        assert digests(refused.output) == {}
        assert "F_SETLK failed, file already locked" in refused.console
        assert (files.cow.read_bytes(), files.backing.read_bytes()) == before
    opened = run_script(READ_DISKS, [files.cow])
    assert digests(opened.output) == {"a": digest(files.merged)}


def test_two_processes_of_umldisk_exclude_each_other(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=DISK_BYTES)
    new = tmp_path / "new"
    with CowFile.open(files.cow, access=Access(change_cow=True)):
        commands: list[list[str | Path]] = [["merge", files.cow, new], ["merge", "-d", files.cow], ["align", files.cow]]
        for words in commands:
            finished = run_umldisk(*words)
            assert finished.returncode == 75
            assert f"by PID {os.getpid()} ".encode() in finished.stderr
    with CowFile.open(files.cow):
        assert run_umldisk("align", files.cow).returncode == 75
        assert run_umldisk("merge", files.cow, new).returncode == 0
    assert new.read_bytes() == files.merged
