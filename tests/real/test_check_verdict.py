"""The kernel's verdict on the files that `check` judges: a disk without an error is one that a guest reads right."""

import hashlib
from pathlib import Path

from tests.kit.faulty import MAKERS, PAGE_7, SIZE, pair
from tests.kit.guest import run_script
from tests.kit.model import merged, write_cow
from tests.kit.peers import needs
from umldisk.cow.checking import check
from umldisk.cow.dialect import Dialect

pytestmark = needs("linux", "busybox")

CHANGES = {sector: b"%3d!" % sector * 128 for sector in [*range(56, 64), *range(1024, 1200)]}

# A page at a time and past the cache: that is how even a mixed page is read right.
READ = """
for disk in a b c d e f g h i j k l m n o p; do
    (: </dev/ubd$disk) 2>/dev/null || continue
    echo $disk $(/usr/bin/dd if=/dev/ubd$disk iflag=direct bs=4096 2>/dev/null | sha256sum)
done
"""


def seen_by_a_guest(cows: list[Path]) -> dict[Path, str]:
    """Return the checksum of each disk that a guest could open."""
    run = run_script(READ, [str(cow) for cow in cows])
    sums = dict(line.split()[:2] for line in run.output.splitlines())
    return {cow: sums[letter] for cow, letter in zip(cows, "abcdefghijklmnop", strict=False) if letter in sums}


def test_layouts_are_called_bootable_if_the_kernel_reads_them(tmp_path: Path) -> None:
    expected, cows = {}, []
    for dialect in Dialect:
        (tmp_path / dialect.value).mkdir()
        cow, backing, _header = pair(tmp_path / dialect.value, dialect)
        write_cow(cow, backing, CHANGES, dialect=dialect)
        expected[cow] = hashlib.sha256(merged(backing.read_bytes(), CHANGES)).hexdigest()
        cows.append(cow)
    seen = seen_by_a_guest(cows)
    verdicts = {cow.parent.name: seen.get(cow) == expected[cow] for cow in cows}
    assert verdicts == {cow.parent.name: check(cow).ok for cow in cows}
    assert set(verdicts.values()) == {True, False}


def test_sectors_of_another_size_are_read_wrongly(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    changes = {sector: b"%3d!" % sector * 256 for sector in range(100, 300)}
    write_cow(cow, backing, changes, sector_bytes=1024)
    right = hashlib.sha256(merged(backing.read_bytes(), changes, 1024)).hexdigest()
    assert seen_by_a_guest([cow]).get(cow) != right
    assert [one.code for one in check(cow).findings if one.code == "sector-size"]


REFUSED = ["backing-missing", "backing-size", "backing-mtime", "mtime-range", "stacked"]
READ_ALL_THE_SAME = ["alignment", "short-file", "siblings", "merged", "old-dialect"]
READ_BUT_LARGER = ["partial-last-sector", "bits-past-end"]


def test_pairs_with_an_error_are_refused_and_unusual_ones_are_read(tmp_path: Path) -> None:
    cows = {}
    for code in REFUSED + READ_ALL_THE_SAME + READ_BUT_LARGER:
        (tmp_path / code).mkdir()
        cows[code] = MAKERS[code][0](tmp_path / code)
    seen = seen_by_a_guest(list(cows.values()))
    assert {code for code, cow in cows.items() if cow in seen} == set(READ_ALL_THE_SAME + READ_BUT_LARGER)
    assert {code for code, cow in cows.items() if check(cow).ok} == set(READ_ALL_THE_SAME + READ_BUT_LARGER)
    right = hashlib.sha256(merged(b"base" * (SIZE // 4), PAGE_7)).hexdigest()
    assert {seen[cows[code]] for code in READ_ALL_THE_SAME} == {right}
