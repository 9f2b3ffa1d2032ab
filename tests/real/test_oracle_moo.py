"""uml_moo as oracle: both kinds of merge, on every dialect that it reads.

Each disk is merged three times: by uml_moo, by umldisk, and by the reference model. umldisk has to agree with the
model everywhere and with uml_moo wherever that is right. It is wrong in two places, both at the end of the disk, which
`bytes_moo_gets_right` leaves out: a last sector that is cut by the disk's end, and in versions 1 and 2 the sectors
that have no bit. The result must have no more data than uml_moo's, and none in pages of zeros.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.make_cows import sector_text
from tests.kit import model, oracle
from tests.kit.model import PAGE_BYTES, Disk
from tests.kit.oracle import run_tool
from tests.kit.peers import needs
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.file import Access, CowFile
from umldisk.cow.geometry import Geometry
from umldisk.cow.inplace import InPlaceOptions, merge_into_backing
from umldisk.cow.merging import MergeOptions, merge
from umldisk.errors import DataError

pytestmark = needs("uml_moo", "uml_mkcow")

QUICK = MergeOptions(sync=False)
QUICK_IN_PLACE = InPlaceOptions(sync=False)
GIB = 1 << 30

_around_powers = st.builds(
    lambda power, more: max(0, (PAGE_BYTES << power) + more),
    st.integers(0, 10),
    st.sampled_from([-513, -512, -511, -1, 0, 1, 511, 512, 513]),
)


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Draw a disk of 512-byte sectors, which is all that UML ever had, in a dialect that uml_moo reads."""
    dialect = draw(st.sampled_from(oracle.READ_BY_MOO))
    base = draw(model.images(draw(st.one_of(st.sampled_from(model.ODD_SIZES), _around_powers))))
    changes = draw(model.changes(base, sectors=model.mapped_sectors(dialect, len(base))))
    return Disk(base, changes, dialect, sector_bytes=512, alignment_bytes=draw(st.sampled_from([4096, 512, 8192])))


def bytes_moo_gets_right(disk: Disk) -> int:
    """Return up to where uml_moo's result is to be trusted."""
    grain = PAGE_BYTES if disk.dialect.placement is Placement.V1_V2 else disk.sector_bytes
    return len(disk.base) // grain * grain


def bytes_in_pages_with_data(contents: bytes) -> int:
    """Return how much data the sparsest file with these contents has."""
    pages = (contents[at : at + PAGE_BYTES] for at in range(0, len(contents), PAGE_BYTES))
    return sum(len(page) for page in pages if any(page))


@contextmanager
def directory() -> Iterator[Path]:
    """Give a new directory to one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@given(disk=disks())
@settings(max_examples=100)
def test_a_new_image(disk: Disk) -> None:
    with directory() as place:
        cow, _backing = disk.write(place)
        old, new = place / "old", place / "new"
        oracle.moo(cow, old)
        merge(cow, new, options=QUICK)
        check(disk, old, new)
        assert oracle.data_bytes(new) <= bytes_in_pages_with_data(disk.view)


@given(disk=disks())
@settings(max_examples=100)
def test_into_the_backing_file(disk: Disk) -> None:
    with directory() as theirs, directory() as ours:
        old_cow, old = disk.write(theirs)
        cow, new = disk.write(ours)
        oracle.moo_in_place(old_cow)
        merge_into_backing(cow, options=QUICK_IN_PLACE)
        check(disk, old, new)
        # A file system keeps the block in which a file ends, though a hole is asked for up to the end.
        assert oracle.data_bytes(new) <= bytes_in_pages_with_data(disk.view) + len(disk.base) % PAGE_BYTES


def check(disk: Disk, old: Path, new: Path) -> None:
    """Hold umldisk's result against the model's and uml_moo's."""
    result, trusted = new.read_bytes(), bytes_moo_gets_right(disk)
    assert result == disk.view
    assert result[:trusted] == old.read_bytes()[:trusted]
    if trusted == len(result):
        assert oracle.data_bytes(new) <= oracle.data_bytes(old)


# Offsets of more than 32 bits, before, at and after 2 and 4 GiB.
WIDE_BYTES = (4 * GIB) + 3 * PAGE_BYTES
WIDE_LAST = WIDE_BYTES // 512 - 1
WIDE_BASE = {sector: sector_text("wide", "base", sector) for sector in (0, 2**22 - 1, 2**22, 2**23 - 1, WIDE_LAST)}
WIDE_CHANGES: dict[int, bytes | None] = {
    2**22: None,
    2**23 + 1: None,
    **{sector: sector_text("wide", "cow", sector) for sector in (3, 2**23 - 1, 2**23, WIDE_LAST)},
}


@pytest.mark.parametrize("dialect", oracle.READ_BY_MOO, ids=lambda dialect: dialect.value)
def test_a_sparse_disk_of_several_gibibytes(dialect: Dialect, tmp_path: Path) -> None:
    old_cow, theirs = write_wide_disk(tmp_path / "theirs", dialect)
    cow, ours = write_wide_disk(tmp_path / "ours", dialect)
    new = tmp_path / "new"
    oracle.moo_in_place(old_cow)  # a new image would take it half a minute
    merge(cow, new, options=QUICK)
    merge_into_backing(cow, options=QUICK_IN_PLACE)
    for result in (new, ours):
        assert oracle.equal(result, theirs)
        assert oracle.data_bytes(result) <= oracle.data_bytes(theirs)
        for sector, contents in {**WIDE_BASE, **WIDE_CHANGES}.items():
            assert read_sector(result, sector) == (contents or bytes(512))


def write_wide_disk(place: Path, dialect: Dialect) -> tuple[Path, Path]:
    """Write the large disk and return the paths of COW and backing file."""
    place.mkdir()
    cow, backing = place / "cow", place / "base"
    with backing.open("wb") as image:
        image.truncate(WIDE_BYTES)
        for sector, contents in WIDE_BASE.items():
            os.pwrite(image.fileno(), contents, sector * 512)
    model.write_cow(cow, backing, WIDE_CHANGES, dialect=dialect)
    return cow, backing


def read_sector(image: Path, sector: int) -> bytes:
    with image.open("rb") as file:
        return os.pread(file.fileno(), 512, sector * 512)


@given(disk=disks().filter(lambda disk: len(disk.base) > 0), data=st.data())
@settings(max_examples=100)
def test_a_cow_file_that_is_cut(disk: Disk, data: st.DataObject) -> None:
    with directory() as place:
        cow, _backing = disk.write(place)
        with CowFile.open(cow) as file:
            geometry = file.geometry
        length = data.draw(st.integers(disk.dialect.header_bytes, geometry.file_bytes), label="length")
        os.truncate(cow, length)
        view = view_of_cut(disk, geometry, length)
        # Told the dialect, because a file that ends before its bitmap does is no likely reading of look-alike headers.
        access = Access(accept_truncated=True, dialect=disk.dialect)
        merge(cow, place / "lenient", access=access, options=QUICK)
        assert (place / "lenient").read_bytes() == view

        theirs = run_tool("uml_moo", cow, place / "old")
        if is_whole(disk, geometry, length):
            merge(cow, place / "new", options=QUICK)
            assert (place / "new").read_bytes() == view == disk.view
        else:
            with pytest.raises(DataError, match="cut off"):
                merge(cow, place / "new", options=QUICK)
            assert not (place / "new").exists()
            if len(disk.base) % disk.sector_bytes == 0:  # at a last sector that is not whole it never looks
                assert theirs.returncode == 1


def view_of_cut(disk: Disk, geometry: Geometry, length: int) -> bytes:
    """Return what UML shows of a COW file cut at `length`: missing data is zeros, missing bits are unset."""
    changes: dict[int, bytes | None] = {}
    for sector, contents in disk.changes.items():
        if geometry.bitmap_offset + sector // 8 < length:
            left_bytes = max(0, length - geometry.data_offset - sector * disk.sector_bytes)
            changes[sector] = (contents or b"")[:left_bytes].ljust(disk.sector_bytes, b"\0")
    return model.merged(disk.base, changes, disk.sector_bytes)


def is_whole(disk: Disk, geometry: Geometry, length: int) -> bool:
    """Whether nothing is missing that a bit asks for."""
    last = max(disk.changes, default=-1)
    data_end = min((last + 1) * disk.sector_bytes, geometry.size_bytes)
    return length >= geometry.bitmap_end and (last < 0 or length >= geometry.data_offset + data_end)
