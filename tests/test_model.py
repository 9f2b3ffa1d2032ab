"""Merging, difference, align and rebase against the reference model, in all dialects.

Each example is a disk of some hundred sectors at most, odd sizes and sector sizes included, with
stretches of zeros, holes under set bits, and sectors that were changed to what they were.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit import model
from tests.kit.model import Disk
from umldisk.cow.aligning import align
from umldisk.cow.dialect import Dialect
from umldisk.cow.differencing import difference
from umldisk.cow.file import Access, CowFile
from umldisk.cow.inplace import merge_into_backing
from umldisk.cow.merging import MergeOptions, merge
from umldisk.cow.rebasing import rebase
from umldisk.errors import DataError

modest = settings(max_examples=60)
quick = MergeOptions(sync=False)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="umldisk-model-") as directory:
        yield Path(directory)


def view_of(cow: Path, dialect: Dialect) -> bytes:
    with CowFile.open(cow, access=Access(dialect=dialect)) as disk:
        return disk.read(0, disk.size_bytes)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw an image and another of the same size."""
    base = draw(model.images(draw(model.sizes)))
    other = draw(model.changes(base, sectors=-(-len(base) // 512)))
    return base, model.merged(base, other)


@modest
@given(model.disks())
def test_merging_gives_what_the_guest_sees(disk: Disk) -> None:
    with scratch() as directory:
        cow, _backing = disk.write(directory)
        merge(cow, directory / "new", access=Access(dialect=disk.dialect), options=quick)
        assert (directory / "new").read_bytes() == disk.view


@modest
@given(model.disks())
def test_merging_in_place_gives_what_the_guest_sees(disk: Disk) -> None:
    with scratch() as directory:
        cow, backing = disk.write(directory)
        merge_into_backing(cow, access=Access(dialect=disk.dialect))
        assert backing.read_bytes() == disk.view


@modest
@given(pairs(), st.booleans(), st.sampled_from([Dialect.V3, Dialect.V3_64]))
def test_difference_holds_what_differs_and_no_more(
    pair: tuple[bytes, bytes], by_sector: bool, dialect: Dialect
) -> None:
    base, image = pair
    with scratch() as directory:
        below = model.write_image(directory / "base", base)
        above = model.write_image(directory / "image", image)
        cow = directory / "cow"
        report = difference(below, above, cow, dialect=dialect, by_sector=by_sector, sync=False)
        _header, changes = model.read_cow(cow, dialect)
        expected = (
            model.differing(base, image, 512)
            if by_sector
            else model.sectors_of(model.differing(base, image, 4096), len(base))
        )
        assert set(changes) == expected
        assert model.merged(base, changes) == image
        assert report.changed_bytes == model.length_of(expected, len(base))
        assert report.runs == len([n for n in expected if n - 1 not in expected])
        assert view_of(cow, dialect) == image


@modest
@given(model.disks(), model.dialects)
def test_difference_of_what_a_guest_sees(disk: Disk, dialect: Dialect) -> None:
    """Through another COW file and into any dialect, or refused because that cannot say it."""
    with scratch() as directory:
        image, base = disk.write(directory)
        cow = directory / "new.cow"
        has_bit = model.mapped_sectors(dialect, len(disk.base)) * 512
        if model.size_for(dialect, len(disk.base)) != len(disk.base):
            with pytest.raises(DataError, match="whole sectors"):
                difference(base, image, cow, dialect=dialect, sync=False)
        elif disk.base[has_bit:] != disk.view[has_bit:]:
            with pytest.raises(DataError, match="no bits"):
                difference(base, image, cow, dialect=dialect, sync=False)
        else:
            difference(base, image, cow, dialect=dialect, sync=False)
            assert view_of(cow, dialect) == disk.view
            return
        assert not cow.exists()


@modest
@given(model.disks())
def test_align_leaves_whole_pages_and_the_view(disk: Disk) -> None:
    with scratch() as directory:
        cow, _backing = disk.write(directory)
        access = Access(dialect=disk.dialect)
        size, sector = len(disk.base), disk.sector_bytes
        expected = model.filled(set(disk.changes), size, sector)
        added = expected - set(disk.changes)
        before = cow.read_bytes()
        planned = align(cow, access=access, dry_run=True)
        assert cow.read_bytes() == before
        report = align(cow, access=access, sync=False)
        assert (planned.pages, planned.filled_bytes) == (report.pages, report.filled_bytes)
        assert report.pages == len({n * sector // 4096 for n in added})
        assert report.filled_bytes == model.length_of(added, size, sector)
        assert set(model.read_cow(cow, disk.dialect)[1]) == expected
        assert view_of(cow, disk.dialect) == disk.view
        assert align(cow, access=access, sync=False).pages == 0


@settings(max_examples=120)
@given(model.disks(), st.data())
def test_rebase_keeps_the_view(disk: Disk, data: st.DataObject) -> None:
    """Pages that differ are copied up; or it is refused when the last of them have no bits."""
    size, sector = len(disk.base), disk.sector_bytes
    new = model.merged(disk.base, data.draw(model.changes(disk.base, sectors=-(-size // 512))))
    has_bit = model.mapped_sectors(disk.dialect, size, sector) * sector
    with scratch() as directory:
        cow, _old = disk.write(directory)
        target = model.write_image(directory / "new", new)
        access = Access(dialect=disk.dialect)
        before = cow.read_bytes()
        if disk.base[has_bit:] != new[has_bit:]:
            with pytest.raises(DataError, match="no bits"):
                rebase(cow, target, access=access, sync=False)
            assert cow.read_bytes() == before
            return
        planned = rebase(cow, target, access=access, dry_run=True)
        assert cow.read_bytes() == before
        report = rebase(cow, target, access=access, sync=False)
        pages = model.differing(disk.base, new, 4096)
        added = _without_full_pages(pages, disk)
        assert set(model.read_cow(cow, disk.dialect)[1]) == set(disk.changes) | added
        assert report.copied_bytes == model.length_of(added, size, sector)
        assert planned.copied_bytes == report.copied_bytes
        assert view_of(cow, disk.dialect) == disk.view
        with CowFile.open(cow, access=access) as opened:
            assert opened.backing.disk.path == str(target)


def _without_full_pages(pages: set[int], disk: Disk) -> set[int]:
    sectors = model.sectors_of(pages, len(disk.base), disk.sector_bytes)
    return sectors - set(disk.changes)
