"""The bitmap's functions against Python sets of sector numbers."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.cow import bitmap
from umldisk.cow.bitmap import Run, Stretch

# Bytes as bitmaps have them: long rows of one kind, and single ones of every kind.
_clusters = st.tuples(st.sampled_from([0x00, 0xFF, 0x01, 0x80, 0x55, 0x0F]), st.integers(1, 40))
clustered_windows = st.lists(_clusters, max_size=12).map(lambda rows: b"".join(bytes([b]) * n for b, n in rows))
windows = st.one_of(st.binary(max_size=80), clustered_windows)
first_sectors = st.integers(0, 1 << 40).map(lambda number: number * 8)


def bits_of(window: bytes, first: int = 0) -> set[int]:
    """Return the numbers of the set bits: bit n is byte n // 8, bit n % 8."""
    return {first + n for n in range(len(window) * 8) if window[n // 8] >> (n % 8) & 1}


def window_of(bits: Iterable[int], length: int) -> bytes:
    """Return the bitmap of `length` bytes with these bits set."""
    window = bytearray(length)
    for bit in bits:
        window[bit // 8] |= 1 << (bit % 8)
    return bytes(window)


def sectors_of(runs: Iterable[Run]) -> list[int]:
    return [sector for run in runs for sector in range(run.start, run.end)]


@given(windows, first_sectors)
def test_runs_are_the_set_bits_in_order(window: bytes, first: int) -> None:
    found = sectors_of(bitmap.runs(window, first))
    assert found == sorted(bits_of(window, first))


@given(windows)
def test_runs_are_maximal(window: bytes) -> None:
    bits = bits_of(window)
    for run in bitmap.runs(window):
        assert run.sectors > 0
        assert run.start - 1 not in bits
        assert run.end not in bits


@pytest.mark.parametrize("value", range(256))
def test_runs_of_every_byte_between_full_and_empty_neighbours(value: int) -> None:
    for window in (bytes([value]), bytes([0xFF, value, 0xFF]), bytes([0, value, 0]), bytes([value, value])):
        assert sectors_of(bitmap.runs(window)) == sorted(bits_of(window))


@given(windows, st.integers(0, 1 << 40))
def test_stretches_tell_full_from_mixed_groups(window: bytes, first: int) -> None:
    groups = dict.fromkeys(range(first, first + len(window)), "empty")
    position = first
    for stretch in bitmap.stretches(window, first):
        assert position <= stretch.start < stretch.end
        position = stretch.end
        groups.update(dict.fromkeys(range(stretch.start, stretch.end), "mixed" if stretch.mixed else "full"))
    kinds = {0x00: "empty", 0xFF: "full"}
    assert list(groups.values()) == [kinds.get(value, "mixed") for value in window]


@given(windows)
def test_stretches_are_maximal(window: bytes) -> None:
    found = list(bitmap.stretches(window))
    for left, right in itertools.pairwise(found):
        assert left.end < right.start or left.mixed != right.mixed


@given(windows)
def test_count_is_the_size_of_the_set(window: bytes) -> None:
    assert bitmap.count(window) == len(bits_of(window))


@given(windows, st.integers(0, 700))
def test_mask_last_keeps_the_first_bits_and_the_length(window: bytes, valid_bits: int) -> None:
    masked = bitmap.mask_last(window, valid_bits)
    assert len(masked) == len(window)
    assert bits_of(masked) == {bit for bit in bits_of(window) if bit < valid_bits}


@given(windows.filter(bool), st.data())
def test_set_range_is_the_union(window: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(window) * 8))
    end = data.draw(st.integers(start, len(window) * 8))
    changed = bytearray(window)
    bitmap.set_range(changed, start, end)
    assert bits_of(bytes(changed)) == bits_of(window) | set(range(start, end))


@given(windows)
def test_runs_put_back_by_set_range_give_the_same_window(window: bytes) -> None:
    rebuilt = bytearray(len(window))
    for run in bitmap.runs(window):
        bitmap.set_range(rebuilt, run.start, run.end)
    assert bytes(rebuilt) == window


@given(st.sets(st.integers(0, 639)))
def test_the_sets_of_these_tests_are_bitmaps(bits: set[int]) -> None:
    assert bits_of(window_of(bits, 80)) == bits
    assert set(sectors_of(bitmap.runs(window_of(bits, 80)))) == bits


def test_a_run_and_a_stretch_across_a_thousand_bytes_are_one() -> None:
    window = b"\x80" + b"\xff" * 1000 + b"\x01"
    assert list(bitmap.runs(window)) == [Run(7, 8002)]
    assert list(bitmap.stretches(window)) == [Stretch(0, 1, True), Stretch(1, 1001, False), Stretch(1001, 1002, True)]
