"""A COW file as a layer over others, and what stands before it may be opened as one."""

import io
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model
from tests.kit.model import Disk
from umldisk.cow.file import Access, CowFile
from umldisk.cow.layers import WINDOW_BYTES, Kind, Layer, Segment

TIB = 1 << 40


@contextmanager
def opened(disk: Disk) -> Iterator[CowFile]:
    """Write a disk's two files into memory and open them."""
    with tempfile.TemporaryDirectory(prefix="umldisk-layers-", dir="/dev/shm") as directory:
        cow, _backing = disk.write(Path(directory))
        with CowFile.open(cow, access=Access(dialect=disk.dialect)) as file:
            yield file


def assembled(segments: list[Segment], start: int, end: int) -> bytes:
    """Put segments together by what they promise: zeros, bytes of one file, or a read through a layer."""
    parts = []
    position = start
    for segment in segments:
        assert segment.start == position < segment.end
        parts.append(contents(segment))
        position = segment.end
    assert position == end or (not segments and start == end)
    return b"".join(parts)


def contents(segment: Segment) -> bytes:
    length = segment.end - segment.start
    if segment.kind is Kind.ZERO:
        return bytes(length)
    if segment.kind is Kind.DATA:
        return os.pread(segment.layer.disk.fd, length, segment.file_offset).ljust(length, b"\0")
    return read(segment.layer, segment.start, segment.end)


def read(layer: Layer, start: int, end: int) -> bytes:
    buffer = bytearray(b"\xaa" * (end - start))
    layer.read_into(start, memoryview(buffer))
    return bytes(buffer)


def span(data: st.DataObject, size: int) -> tuple[int, int]:
    bounds = data.draw(st.tuples(st.integers(0, size), st.integers(0, size)))
    return min(bounds), max(bounds)


# -- against the reference ------------------------------------------------------------------------


@given(model.disks(), st.data())
def test_any_part_reads_as_a_guest_sees_it(disk: Disk, data: st.DataObject) -> None:
    with opened(disk) as file:
        assert file.size_bytes == len(disk.view)
        assert file.read(0, len(disk.view) + 10) == disk.view
        for _ in range(4):
            start, end = span(data, len(disk.view))
            if end > start:
                assert read(file.layer, start, end) == disk.view[start:end]
            assert file.read(start, end - start) == disk.view[start:end]


@given(model.disks())
def test_the_segments_together_are_the_disk(disk: Disk) -> None:
    with opened(disk) as file:
        segments = list(file.layer.segments(0, file.size_bytes))
        assert assembled(segments, 0, file.size_bytes) == disk.view


@given(model.disks(), st.data())
def test_the_segments_of_a_part_are_that_part(disk: Disk, data: st.DataObject) -> None:
    with opened(disk) as file:
        pages = span(data, len(disk.view) // 4096)
        start, end = pages[0] * 4096, min(pages[1] * 4096 + 4096, len(disk.view))
        if start < end:
            assert assembled(list(file.layer.segments(start, end)), start, end) == disk.view[start:end]


@given(model.disks())
def test_the_runs_are_the_changed_sectors(disk: Disk) -> None:
    with opened(disk) as file:
        runs = list(file.runs())
        assert [sector for run in runs for sector in range(run.start, run.end)] == sorted(disk.changes)
        assert all(left.end < right.start for left, right in itertools.pairwise(runs))
        assert file.layer.changed_sectors() == len(disk.changes)


@given(model.disks())
def test_full_and_mixed_groups(disk: Disk) -> None:
    with opened(disk) as file:
        sectors = -(-len(disk.base) // disk.sector_bytes)
        groups = {}
        for stretch in file.layer.stretches():
            groups.update(dict.fromkeys(range(stretch.start, stretch.end), stretch.mixed))
        for group in range(-(-sectors // 8)):
            members = set(range(group * 8, min(group * 8 + 8, sectors)))
            changed = members & disk.changes.keys()
            assert groups.get(group) == ((changed != members) if changed else None)


@given(model.disks(), st.data())
def test_changed_ranges_of_any_part(disk: Disk, data: st.DataObject) -> None:
    with opened(disk) as file:
        start, end = span(data, len(disk.view))
        found = [byte for low, high in file.layer.changed_ranges(start, end) for byte in range(low, high)]
        size = disk.sector_bytes
        assert found == [byte - start for byte in range(start, end) if byte // size in disk.changes]


@given(model.disks())
def test_between_the_changed_segments_everything_comes_from_below(disk: Disk) -> None:
    with opened(disk) as file:
        buffer = bytearray(disk.base)
        for segment in file.layer.changed():
            assert segment.layer is file.layer
            if segment.kind is Kind.MIXED:
                file.layer.overlay_into(segment.start, memoryview(buffer)[segment.start : segment.end])
            else:
                buffer[segment.start : segment.end] = contents(segment)
        assert bytes(buffer) == disk.view


@given(model.disks(), st.data())
def test_the_view_is_a_file_like_any_other(disk: Disk, data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(-600, 9000), st.integers(0, 5000))))
    with opened(disk) as file:
        ours, theirs = file.raw(), io.BytesIO(disk.view)
        assert ours.readable()
        assert ours.seekable()
        assert not ours.writable()
        for whence, offset, length in steps:
            base = {0: 0, 1: theirs.tell(), 2: len(disk.view)}[whence]
            if base + offset < 0:
                with pytest.raises(ValueError, match="negative"):
                    ours.seek(offset, whence)
                continue
            assert ours.seek(offset, whence) == theirs.seek(base + offset)
            assert ours.read(length) == theirs.read(length)
            assert ours.tell() == theirs.tell()
        ours.seek(0)
        assert io.BufferedReader(ours).read() == disk.view


@given(st.integers(1, 5), st.integers(0, 3000), st.data())
def test_a_chain_is_read_through_all_its_layers(depth: int, tail: int, data: st.DataObject) -> None:
    base = data.draw(model.images(8192 + tail))
    sectors = -(-len(base) // 512)
    with tempfile.TemporaryDirectory(prefix="umldisk-layers-", dir="/dev/shm") as name:
        below, view = model.write_image(Path(name) / "base", base), base
        for level in range(depth):
            changes = data.draw(model.changes(view, sectors=sectors))
            cow = Path(name) / f"{level}.cow"
            model.write_cow(cow, below, changes, size_bytes=len(base))
            below, view = cow, model.merged(view, changes)
        with CowFile.open(below) as file:
            assert file.read(0, len(base)) == view
            assert assembled(list(file.layer.segments(0, len(base))), 0, len(base)) == view


def huge(directory: Path, size_bytes: int, changes: dict[int, bytes | None]) -> Path:
    """Make a COW file of a size in whole pages whose bitmap and data are holes but for these changes."""
    backing, cow = directory / "base", directory / "cow"
    backing.touch()
    os.truncate(backing, size_bytes)
    header = model.write_cow(directory / "small.cow", model.write_image(directory / "small", b""), {})
    raw = bytearray(header.raw)
    raw[8:12] = (backing.stat().st_mtime_ns // 1_000_000_000).to_bytes(4, "big")
    raw[12:20] = size_bytes.to_bytes(8, "big")
    raw[32 : 32 + len(os.fsencode(backing)) + 1] = os.fsencode(backing) + b"\0"
    bits: dict[int, int] = {}
    for sector in changes:
        bits[sector // 8] = bits.get(sector // 8, 0) | 1 << sector % 8
    bitmap_bytes = size_bytes // 4096
    data_offset = 8192 + bitmap_bytes + -bitmap_bytes % 4096
    with cow.open("wb") as file:
        file.write(raw)
        for number, value in bits.items():
            os.pwrite(file.fileno(), bytes([value]), 8192 + number)
        for sector, data in changes.items():
            os.pwrite(file.fileno(), data or b"", data_offset + sector * 512)
        file.truncate(data_offset + size_bytes)
    return cow


def test_a_disk_of_a_tebibyte_is_read_where_it_has_something(tmp_path: Path) -> None:
    last = TIB // 512 - 1
    edge = WINDOW_BYTES * 8  # the sector where one window of the bitmap ends and the next begins
    changes = {0: b"a" * 512, edge - 1: b"b" * 512, edge: b"c" * 512, last: b"d" * 512, last - 9: None}
    started = time.process_time()
    with CowFile.open(huge(tmp_path, TIB, changes)) as file:
        assert [(run.start, run.sectors) for run in file.runs()] == [(0, 1), (edge - 1, 2), (last - 9, 1), (last, 1)]
        assert file.read(edge * 512 - 512, 1024) == b"b" * 512 + b"c" * 512
        assert file.read(TIB - 512, 99999) == b"d" * 512
        assert all(len(window) <= WINDOW_BYTES for _number, window in file.layer.windows())
    assert time.process_time() - started < 5


def test_a_run_over_many_windows_is_one_run(tmp_path: Path) -> None:
    groups = WINDOW_BYTES * 3 + 1
    cow = huge(tmp_path, groups * 4096, {})
    with cow.open("r+b") as raw:
        raw.seek(8192)
        raw.write(b"\xff" * groups)
    with CowFile.open(cow) as file:
        assert [tuple(run) for run in file.runs()] == [(0, groups * 8)]
        assert [tuple(stretch) for stretch in file.layer.stretches()] == [(0, groups, False)]
