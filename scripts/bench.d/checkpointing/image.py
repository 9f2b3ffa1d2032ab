"""The disks whose nights are recorded, and what their guests write into them.

    base      every second MiB of the disk holds data, of which every second one is words and the other one noise
    night n   runs of very different lengths all over the disk, filled anew

Unlike the disks that are merged, no stretch of one is like another: backup programs look for what they have stored
already, and must not find it by accident. Words pack as well as text does, noise does not pack at all.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from disks import KIB, MIB, Disk, uneven_runs, write_cow, write_ranges
from extents import Range

BASE, COW = "var_fs", "var_cow"
_WORD_COUNT = 1 << 16
_PIECE_BYTES = 64 * KIB
_DRAWN_BYTES = 24_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a disk is, and how much of it is changed in a night, in how many places."""

    disk_bytes: int
    night_bytes: int
    place_count: int

    @property
    def base_data(self) -> tuple[Range, ...]:
        """Where the disk holds data before the first night."""
        return tuple((start, start + MIB) for start in range(0, self.disk_bytes, 2 * MIB))

    def night(self, number: int) -> tuple[Range, ...]:
        """Return what is written in a night."""
        return uneven_runs(number, disk_bytes=self.disk_bytes, count=self.place_count, total_bytes=self.night_bytes)


class Filling:
    """Bytes that occur nowhere else; `seed` tells them apart."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._latest: tuple[int, memoryview] = (-1, memoryview(b""))

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield the bytes from `start` up to `end` of the disk, in pieces with where each begins."""
        while start < end:
            number, within = divmod(start, _PIECE_BYTES)
            length = min(end - start, _PIECE_BYTES - within)
            yield start, self._piece(number)[within : within + length]
            start += length

    def _piece(self, number: int) -> memoryview:
        if self._latest[0] != number:
            source = random.Random(f"{self._seed} {number}")
            is_text = number * _PIECE_BYTES // (2 * MIB) % 2 == 0
            data = _text(source) if is_text else source.randbytes(_PIECE_BYTES)
            self._latest = number, memoryview(data)
        return self._latest[1]


def _text(source: random.Random) -> bytes:
    """Return words, drawn with the frequencies that words have."""
    drawn = memoryview(source.randbytes(_DRAWN_BYTES)).cast("H")
    text = b" ".join(map(_words().__getitem__, drawn))
    assert len(text) >= _PIECE_BYTES
    return text[:_PIECE_BYTES]


@cache
def _words() -> list[bytes]:
    """Return a list in which the n-th word occurs about one n-th as often as the first one (Zipf)."""
    source = random.Random(0)
    letters = b"etaoinshrdlcumwfgypbvk"
    words = [bytes(source.choices(letters, k=source.randint(3, 12))) for _ in range(12_000)]
    return source.choices(words, weights=[1 / (rank + 3) for rank in range(len(words))], k=_WORD_COUNT)


def make_base(path: Path, scale: Scale) -> None:
    """Write the disk as it is before the first night."""
    with path.open("xb", buffering=0) as file:
        file.truncate(scale.disk_bytes)
        write_ranges(file.fileno(), 0, scale.base_data, Filling(0))


def make_cow(path: Path, base: Path, scale: Scale, night: int) -> None:
    """Write the COW file that a guest leaves which began the night with an empty one over `base`."""
    with path.open("wb", buffering=0) as file:
        write_cow(
            file.fileno(),
            Disk(scale.disk_bytes, (), scale.night(night)),
            backing=base.name,
            mtime_seconds=int(base.stat().st_mtime),
            pattern=Filling(night),
        )


def apply_night(path: Path, scale: Scale, night: int) -> None:
    """Write the same night into an image of the disk."""
    with path.open("r+b", buffering=0) as file:
        write_ranges(file.fileno(), 0, scale.night(night), Filling(night))


def allocated_bytes(directory: Path) -> int:
    """Return how much room a directory takes with all that is in it."""
    found = sum(os.lstat(path).st_blocks for path in (directory, *directory.rglob("*")))
    return found * 512
