"""The bitmap as bytes: which sectors are changed, found without looking at single bits where it can be helped.

Bit n is byte n // 8, bit n % 8, least significant first, on every host. One byte speaks for eight sectors, a *group*;
with 512-byte sectors that is one 4 KiB page. Three kinds of byte matter:

    0x00         nothing changed         skipped by a regular expression at the speed of memory
    0xff         all changed             joined into long stretches by the same expression
    other        *mixed*                 looked at bit by bit through a table, or left to a scattered read

All functions are pure and work on a window of the bitmap; `umldisk.cow.layers` slides the window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_NONZERO = bytes([0]) + b"\1" * 255
_STRETCH = re.compile(rb"\xff+|[^\x00\xff]+", re.DOTALL)


class Run(NamedTuple):
    """Changed sectors in a row: `start` is the first, `sectors` how many."""

    start: int
    sectors: int

    @property
    def end(self) -> int:
        """The sector after the last."""
        return self.start + self.sectors


class Stretch(NamedTuple):
    """Groups in a row that are alike: all of their sectors changed, or (`mixed`) some in each."""

    start: int
    end: int
    mixed: bool


def _byte_runs(value: int) -> tuple[tuple[int, int], ...]:
    runs = []
    bit = 0
    while bit < 8:
        start = bit
        while bit < 8 and value >> bit & 1:
            bit += 1
        if bit > start:
            runs.append((start, bit))
        bit += 1
    return tuple(runs)


RUNS_OF_BYTE = tuple(_byte_runs(value) for value in range(256))
"""For every value of a byte its runs of set bits, as (first bit, bit after the last)."""


def stretches(window: bytes, first_group: int = 0) -> Iterator[Stretch]:
    """Yield the full and mixed stretches of `window`, whose first byte is group `first_group`."""
    for start, end in _spans(window):
        yield Stretch(first_group + start, first_group + end, window[start] != 0xFF)


def _spans(window: bytes) -> Iterator[tuple[int, int]]:
    """Yield where bytes of one kind stand in a row, leaving out the zeros."""
    if window.count(0) < len(window) - len(window) // 8:
        for match in _STRETCH.finditer(window):
            yield match.span()
        return
    # Mostly zeros: searching for one byte value is forty times as fast as the expression's way through them.
    flags = window.translate(_NONZERO)
    start = flags.find(1)
    while start >= 0:
        matched = _STRETCH.match(window, start)
        assert matched is not None
        yield matched.span()
        start = flags.find(1, matched.end())


def runs(window: bytes, first_sector: int = 0) -> Iterator[Run]:
    """Yield the maximal runs of set bits in `window`, whose first bit is sector `first_sector`."""
    start = end = -1
    for stretch in stretches(window):
        for low, high in _bit_runs(window, stretch):
            if low == end:
                end = high
                continue
            if end > start:
                yield Run(first_sector + start, end - start)
            start, end = low, high
    if end > start:
        yield Run(first_sector + start, end - start)


def _bit_runs(window: bytes, stretch: Stretch) -> Iterator[tuple[int, int]]:
    if not stretch.mixed:
        yield stretch.start * 8, stretch.end * 8
        return
    for index in range(stretch.start, stretch.end):
        base = index * 8
        for low, high in RUNS_OF_BYTE[window[index]]:
            yield base + low, base + high


def count(window: bytes) -> int:
    """Return how many bits are set."""
    return int.from_bytes(window, "little").bit_count()


def mask_last(window: bytes, valid_bits: int) -> bytes:
    """Return `window` with only its first `valid_bits` bits kept; the rest cleared."""
    spare = len(window) * 8 - valid_bits
    if spare <= 0:
        return window
    whole, part = divmod(valid_bits, 8)
    kept = window[:whole]
    if part:
        kept += bytes([window[whole] & (1 << part) - 1])
    return kept.ljust(len(window), b"\0")


def set_range(window: bytearray, start: int, end: int) -> None:
    """Set the bits from `start` up to `end`."""
    first, last = start // 8, (end - 1) // 8
    if start >= end:
        return
    head = 0xFF << start % 8 & 0xFF
    tail = 0xFF >> 7 - (end - 1) % 8
    if first == last:
        window[first] |= head & tail
        return
    window[first] |= head
    window[first + 1 : last] = b"\xff" * (last - first - 1)
    window[last] |= tail
