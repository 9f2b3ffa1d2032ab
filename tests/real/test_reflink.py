"""Merging where the file system can share data: the new image costs what has changed in part, and nothing else.

Whether extents are shared is the file system's own word (FIEMAP). btrfs and xfs are mounted from loop images.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import oracle
from tests.kit.oracle import Sample, sample
from tests.kit.peers import mounted, needs, require
from umldisk.cow.file import CowFile
from umldisk.cow.inplace import InPlaceOptions, merge_into_backing
from umldisk.cow.merging import merge

pytestmark = needs("root")

SECTOR_BYTES = 512
PAGE_BYTES = 4096
DISK_BYTES = 8 << 20


def sectors_of(*pages: range) -> frozenset[int]:
    """Return the sectors of these pages."""
    return frozenset(sector for row in pages for page in row for sector in range(page * 8, page * 8 + 8))


WHOLE_PAGES = sectors_of(range(40), range(700, 764), range(1000, 1001), range(2000, 2048))
CLEARED = sectors_of(range(720, 740))
IN_PARTS = frozenset({12_001, 12_002, 12_010})
"""Sectors of pages 1500 and 1501, which have to be read and written."""


@pytest.fixture(params=["btrfs", "xfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system that can share data."""
    require(request.param)
    with mounted(request.param, tmp_path) as point:
        yield point


def disk_on(place: Path, changed: frozenset[int] = WHOLE_PAGES | IN_PARTS) -> Sample:
    return sample(place, size_bytes=DISK_BYTES, changed=changed, cleared=CLEARED)


def test_a_new_image_shares_all_that_lies_in_whole_pages(place: Path) -> None:
    files = disk_on(place)
    new = place / "new"
    assert merge(files.cow, new).shared
    assert new.read_bytes() == files.merged
    holes_bytes = len(CLEARED) * SECTOR_BYTES
    own = {page for start, end in oracle.unshared_spans(new) for page in range(start // PAGE_BYTES, end // PAGE_BYTES)}
    assert own <= {1500, 1501}
    assert oracle.shared_bytes(new) >= DISK_BYTES - holes_bytes - 2 * PAGE_BYTES
    assert oracle.data_bytes(new) <= DISK_BYTES - holes_bytes


def test_a_copy_shares_nothing(place: Path) -> None:
    """The control: what the file system says of data that was written and not shared."""
    files = disk_on(place)
    (place / "copy").write_bytes(files.merged)
    assert oracle.shared_bytes(place / "copy") == 0


def test_the_inputs_stay_as_they_are_when_the_image_is_written(place: Path) -> None:
    files = disk_on(place)
    before = files.cow.read_bytes(), files.backing.read_bytes()
    new = place / "new"
    merge(files.cow, new)
    with new.open("r+b") as image:
        image.write(b"\xff" * DISK_BYTES)
    assert (files.cow.read_bytes(), files.backing.read_bytes()) == before


@pytest.mark.parametrize("reset", [False, True])
def test_the_backing_file_takes_the_changes(place: Path, reset: bool) -> None:
    files = disk_on(place)
    old = place / "old"
    merge(files.cow, old)
    merge_into_backing(files.cow, options=InPlaceOptions(reset=reset, verify=True))
    assert files.backing.read_bytes() == files.merged
    assert old.read_bytes() == files.merged
    assert oracle.data_bytes(files.backing) <= DISK_BYTES - len(CLEARED) * SECTOR_BYTES
    with CowFile.open(files.cow) as disk:
        assert disk.read(0, DISK_BYTES) == files.merged
