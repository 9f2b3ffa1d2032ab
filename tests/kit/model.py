"""What COW files mean, in a few lines over byte strings, and makers of files to hold it against.

The reference knows sectors and their contents, nothing of files: `merged` is what a guest sees,
`differing` what a COW file between two images must hold, `filled` which sectors whole pages need.
`write_cow` and `read_cow` go between it and files of any dialect; they take header and places from
`umldisk.cow.header`, which has tests of its own, and touch bits and bytes by themselves.

    Disk     a base and changes, made by Hypothesis in all dialects and sector sizes: `disks()`
    None     as the contents of a changed sector: a hole under its set bit, which means zeros
"""

import itertools
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from umldisk.cow import header as headers
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.header import CowHeader

PAGE_BYTES = 4096
ODD_SIZES = (0, 1, 511, 512, 513, 4095, 4096, 4097)

Changes = Mapping[int, bytes | None]


# -- the reference --------------------------------------------------------------------------------


def merged(base: bytes, changes: Changes, sector_bytes: int = 512) -> bytes:
    """Return what a guest sees."""
    disk = bytearray(base)
    for sector, contents in changes.items():
        start = sector * sector_bytes
        end = min(start + sector_bytes, len(base))
        disk[start:end] = (contents or bytes(sector_bytes))[: end - start]
    return bytes(disk)


def differing(one: bytes, other: bytes, grain_bytes: int) -> set[int]:
    """Return the numbers of the grains (sectors or pages) in which two images differ."""
    starts = range(0, len(one), grain_bytes)
    return {n for n, at in enumerate(starts) if one[at:][:grain_bytes] != other[at:][:grain_bytes]}


def sectors_of(pages: Iterable[int], size_bytes: int, sector_bytes: int = 512) -> set[int]:
    """Return the sectors that pages consist of, as far as the disk goes."""
    in_page = PAGE_BYTES // sector_bytes
    existing = -(-size_bytes // sector_bytes)
    every = (range(page * in_page, (page + 1) * in_page) for page in pages)
    return {sector for page in every for sector in page if sector < existing}


def filled(changed: Set[int], size_bytes: int, sector_bytes: int = 512) -> set[int]:
    """Return the changed sectors once every page with some of them has all of them."""
    pages = {sector * sector_bytes // PAGE_BYTES for sector in changed}
    return sectors_of(pages, size_bytes, sector_bytes)


def length_of(sectors: Iterable[int], size_bytes: int, sector_bytes: int = 512) -> int:
    """Return how many bytes of the disk these sectors hold; its last sector may be short."""
    return sum(min(sector_bytes, size_bytes - sector * sector_bytes) for sector in sectors)


# -- files ----------------------------------------------------------------------------------------


def write_image(path: Path, contents: bytes) -> Path:
    """Write a raw image; its pages of zeros are holes."""
    with path.open("wb") as file:
        for start in range(0, len(contents), PAGE_BYTES):
            page = contents[start : start + PAGE_BYTES]
            if any(page):
                file.seek(start)
                file.write(page)
        file.truncate(len(contents))
    return path


def write_cow(
    path: Path,
    backing: Path,
    changes: Changes,
    *,
    dialect: Dialect = Dialect.V3,
    sector_bytes: int = 512,
    alignment_bytes: int = 4096,
    size_bytes: int | None = None,
) -> CowHeader:
    """Write a COW file over `backing` (for `size_bytes`, where that is no image) with these changes."""
    status = backing.stat()
    header = headers.build(
        dialect,
        backing_path=os.fsencode(backing),
        mtime=status.st_mtime_ns // 1_000_000_000,
        size_bytes=status.st_size if size_bytes is None else size_bytes,
        sector_bytes=sector_bytes,
        alignment_bytes=alignment_bytes,
    )
    geometry = header.geometry
    bitmap: dict[int, int] = {}
    with path.open("wb") as file:
        file.write(header.raw)
        for sector, contents in changes.items():
            bitmap[sector // 8] = bitmap.get(sector // 8, 0) | 1 << sector % 8
            if contents is not None:
                file.seek(geometry.data_offset + sector * sector_bytes)
                file.write(contents[: header.size_bytes - sector * sector_bytes])
        for byte, bits in bitmap.items():
            file.seek(geometry.bitmap_offset + byte)
            file.write(bytes([bits]))
        file.truncate(geometry.file_bytes)
    return header


def read_cow(path: Path, dialect: Dialect = Dialect.V3) -> tuple[CowHeader, dict[int, bytes]]:
    """Return the header of a COW file of a known dialect, and its changed sectors."""
    raw = path.read_bytes()
    header = headers.parse(raw, dialect, where=str(path))
    geometry = header.geometry
    bitmap = raw[geometry.bitmap_offset : geometry.bitmap_end]
    data = raw[geometry.data_offset :].ljust(geometry.size_bytes, b"\0")
    changed = [n for n in range(geometry.mapped_sectors) if bitmap[n // 8] >> n % 8 & 1]
    size = geometry.sector_bytes
    return header, {n: data[n * size : min((n + 1) * size, geometry.size_bytes)] for n in changed}


NAMES = ("itself", "hard link", "symlink")


def another_name(path: Path, kind: str) -> Path:
    """Return the path, or a new link to it beside it."""
    if kind == "itself":
        return path
    alias = path.with_name(f"{kind} to {path.name}")
    {"hard link": os.link, "symlink": os.symlink}[kind](path, alias)
    return alias


def room_of(path: Path) -> int:
    """Return how many bytes a file takes, what is not yet written out included."""
    return path.stat().st_blocks * 512


# -- disks for Hypothesis -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disk:
    """A base image and a COW file's changes to it."""

    base: bytes
    changes: dict[int, bytes | None]
    dialect: Dialect
    sector_bytes: int
    alignment_bytes: int

    @property
    def view(self) -> bytes:
        """What a guest sees."""
        return merged(self.base, self.changes, self.sector_bytes)

    def write(self, directory: Path, name: str = "disk") -> tuple[Path, Path]:
        """Write both files and return the paths of COW and backing file."""
        backing = write_image(directory / f"{name}.base", self.base)
        cow = directory / f"{name}.cow"
        write_cow(
            cow,
            backing,
            self.changes,
            dialect=self.dialect,
            sector_bytes=self.sector_bytes,
            alignment_bytes=self.alignment_bytes,
        )
        return cow, backing


def mapped_sectors(dialect: Dialect, size_bytes: int, sector_bytes: int = 512) -> int:
    """Return how many sectors have a bit: in versions 1 and 2 only whole bytes of them."""
    sectors = -(-size_bytes // sector_bytes)
    return sectors - sectors % 8 if dialect.placement is Placement.V1_V2 else sectors


dialects = st.sampled_from(Dialect)

sizes = st.one_of(
    st.sampled_from(ODD_SIZES),
    st.builds(
        lambda pages, more: pages * PAGE_BYTES + more,
        st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
        st.sampled_from([-513, -512, -511, -1, 0, 1, 511, 512, 513]),
    ),
)
"""Sizes of disks in bytes: tiny ones, and those around powers of two of a bitmap's byte."""


def size_for(dialect: Dialect, size_bytes: int) -> int:
    """Return the size, or the next one that the dialect can hold."""
    if dialect.placement is not Placement.QEMU:
        return size_bytes
    return max(512, -(-size_bytes // 512) * 512)


_tiles = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 24)), min_size=1, max_size=8)


def _tiled(tiles: list[tuple[int, int]], count: int) -> list[int]:
    """Repeat a pattern of (kind, length) until there are `count` kinds."""
    kinds = (kind for kind, length in itertools.cycle(tiles) for _ in range(length))
    return list(itertools.islice(kinds, count))


def _sector(kind: int, number: int, sector_bytes: int = 512) -> bytes:
    """Make contents that tell where they belong; kind 0 is zeros."""
    words = b"%d of kind %d; " % (number, kind) if kind else b"\0"
    return (words * (sector_bytes // len(words) + 1))[:sector_bytes]


@st.composite
def images(draw: st.DrawFn, size_bytes: int) -> bytes:
    """Draw an image: stretches of zeros and of sectors that can be told from each other."""
    sectors = -(-size_bytes // 512)
    kinds = _tiled(draw(_tiles), sectors)
    return b"".join(_sector(kind, n) for n, kind in enumerate(kinds))[:size_bytes]


@st.composite
def bitmaps(draw: st.DrawFn, sectors: int) -> set[int]:
    """Draw the changed ones of so many sectors: none, all, every n-th, stretches, or any."""
    if not sectors:
        return set()
    every = range(sectors)
    some = st.integers(0, sectors - 1)
    steps = st.builds(lambda first, step: set(every[first::step]), st.integers(0, 8), st.integers(1, 9))
    stretches = st.lists(st.tuples(some, st.integers(1, 40)), max_size=6)
    return draw(
        st.one_of(
            st.just(set()),
            st.just(set(every)),
            steps,
            stretches.map(lambda runs: {n for low, length in runs for n in every[low : low + length]}),
            st.sets(some, max_size=20),
        )
    )


@st.composite
def changes(draw: st.DrawFn, base: bytes, *, sectors: int, sector_bytes: int = 512) -> dict[int, bytes | None]:
    """Draw changes to `base`: holes, zeros, what was there before, and new contents."""
    changed = sorted(draw(bitmaps(sectors)))
    kinds = _tiled(draw(_tiles), len(changed))
    drawn: dict[int, bytes | None] = {}
    for sector, kind in zip(changed, kinds, strict=True):
        start = sector * sector_bytes
        old = base[start : start + sector_bytes]
        drawn[sector] = [None, bytes(len(old)), old, _sector(9, sector, sector_bytes)[: len(old)]][kind]
    return drawn


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Draw a COW file of any dialect, size, sector size and alignment, with any changes."""
    dialect = draw(dialects)
    base = draw(images(size_for(dialect, draw(sizes))))
    is_qemu = dialect.placement is Placement.QEMU
    sector_bytes = 512 if is_qemu else draw(st.sampled_from([512, 512, 512, 1024, 2048, 4096]))
    mapped = mapped_sectors(dialect, len(base), sector_bytes)
    return Disk(
        base=base,
        changes=draw(changes(base, sectors=mapped, sector_bytes=sector_bytes)),
        dialect=dialect,
        sector_bytes=sector_bytes,
        alignment_bytes=draw(st.sampled_from([4096, 512, 8192])),
    )
