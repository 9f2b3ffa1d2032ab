"""COW files with one fault each, for whoever looks for faults.

`pair` is the sound one they are made from: a version 3 COW file of 1 MiB with one whole page changed, over a base full
of data. `MAKERS` has for each code of a finding who makes a file that earns it.
"""

import os
from collections.abc import Callable
from pathlib import Path

from tests.kit.model import write_cow, write_image
from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.system.files import Identity

SIZE = 1 << 20
PAGE_7 = dict.fromkeys(range(56, 64), b"x" * 512)


def base(directory: Path, size_bytes: int = SIZE, name: str = "root_fs") -> Path:
    return write_image(directory / name, b"base" * (size_bytes // 4) + bytes(size_bytes % 4))


def pair(
    directory: Path, dialect: Dialect = Dialect.V3, *, size_bytes: int = SIZE, alignment_bytes: int = 4096
) -> tuple[Path, Path, CowHeader]:
    """Write a COW file with one changed page over a base with data."""
    backing, cow = base(directory, size_bytes), directory / "root_cow"
    changes = {sector: data for sector, data in PAGE_7.items() if sector * 512 < size_bytes}
    return cow, backing, write_cow(cow, backing, changes, dialect=dialect, alignment_bytes=alignment_bytes)


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def rewrite_header(cow: Path, header: CowHeader) -> None:
    patch(cow, 0, header.raw)


# -- one maker a finding ----------------------------------------------------------------------------------------------


def mixed_pages(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    patch(cow, header.geometry.bitmap_offset + 2, b"\x0f")
    return cow


def bitmap_cut(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    patch(cow, header.geometry.bitmap_offset + 7, b"\0")
    os.truncate(cow, header.geometry.bitmap_end - 1)
    return cow


def data_cut(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    os.truncate(cow, header.geometry.data_offset + 58 * 512 + 511)
    return cow


def short_file(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    os.truncate(cow, header.geometry.data_offset + 64 * 512)
    return cow


def bits_past_end(directory: Path) -> Path:
    cow, _backing, header = pair(directory, size_bytes=SIZE + 3 * 512)
    patch(cow, header.geometry.bitmap_end - 1, b"\x57")
    return cow


def unbootable(directory: Path) -> Path:
    return pair(directory, Dialect.V2_64)[0]


def ambiguous(directory: Path) -> Path:
    """Make a disk of 4 GiB whose changed sector 17 is, in the 64-bit layout, the sector size of one of 512 bytes."""
    backing = directory / "root_fs"
    backing.touch()
    os.truncate(backing, 4 << 30)
    cow = directory / "root_cow"
    header = write_cow(cow, backing, {17: None}, dialect=Dialect.V2)
    patch(cow, header.geometry.bitmap_offset, b"\0\0\2\0")
    return cow


def old_dialect(directory: Path) -> Path:
    return pair(directory, Dialect.V1_LITTLE)[0]


def sector_size(directory: Path) -> Path:
    cow = directory / "root_cow"
    write_cow(cow, base(directory), {}, sector_bytes=1024)
    return cow


def alignment(directory: Path) -> Path:
    return pair(directory, alignment_bytes=512)[0]


def data_offset(directory: Path) -> Path:
    backing, cow = base(directory), directory / "root_cow"
    os.truncate(backing, 9 << 40)
    header = headers.build(
        Dialect.V3,
        backing_path=os.fsencode(backing),
        mtime=backing.stat().st_mtime_ns // 1_000_000_000,
        size_bytes=9 << 40,
    )
    cow.write_bytes(header.raw)
    os.truncate(cow, header.geometry.file_bytes)
    return cow


def tiny_disk(directory: Path) -> Path:
    return pair(directory, size_bytes=64 * 512)[0]


def tail_sectors(directory: Path) -> Path:
    return pair(directory, Dialect.V2, size_bytes=SIZE + 7 * 512)[0]


def partial_last_sector(directory: Path) -> Path:
    return pair(directory, size_bytes=SIZE + 1)[0]


def ubd_path(directory: Path) -> Path:
    cow, _backing, _header = pair(directory)
    return cow.rename(directory / "root,cow")


def relative_backing(directory: Path) -> Path:
    cow, backing, header = pair(directory)
    rewrite_header(cow, headers.rewrite(header, backing_path=os.fsencode(backing.name)))
    return cow


def merged(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    rewrite_header(cow, headers.rewrite(header, merged_ns=1_700_000_000_123_456_789))
    os.utime(cow, ns=(0, 1_700_000_000_123_456_789))
    return cow


def backing_missing(directory: Path) -> Path:
    cow, backing, _header = pair(directory)
    backing.unlink()
    return cow


def backing_damaged(directory: Path) -> Path:
    cow, backing, _header = pair(directory)
    patch(backing, 0, b"OOOM\0\0\0\7")
    return cow


def backing_loop(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    rewrite_header(cow, headers.rewrite(header, backing_path=os.fsencode(cow)))
    return cow


def backing_size(directory: Path) -> Path:
    cow, backing, header = pair(directory)
    os.truncate(backing, SIZE + 512)
    os.utime(backing, (header.mtime, header.mtime))
    return cow


def backing_mtime(directory: Path) -> Path:
    cow, backing, header = pair(directory)
    os.utime(backing, (header.mtime + 1, header.mtime + 1))
    return cow


def mtime_range(directory: Path) -> Path:
    backing, cow = base(directory), directory / "root_cow"
    os.utime(backing, (-5, -5))
    write_cow(cow, backing, PAGE_7)
    return cow


def stacked(directory: Path) -> Path:
    cow, _backing, _header = pair(directory)
    top = directory / "top_cow"
    write_cow(top, cow, {}, size_bytes=SIZE)
    return top


def siblings(directory: Path) -> Path:
    cow, backing, _header = pair(directory)
    write_cow(directory / "other_cow", backing, {})
    return cow


def unfinished_merge(directory: Path) -> Path:
    cow, backing, _header = pair(directory)
    inode = Identity.of(backing.stat()).inode
    journals.write(str(backing), MergeJournal(str(cow), inode, SIZE, 5, reset=True))
    os.utime(backing, (5, 5))
    return cow


def unfinished_header(directory: Path) -> Path:
    cow, _backing, header = pair(directory)
    new = headers.rewrite(header, mtime=header.mtime, backing_path=header.backing_path)
    journals.write(str(cow), HeaderJournal(header.raw.hex(), new.raw.hex()))
    return cow


def foreign_journal(directory: Path) -> Path:
    cow, _backing, _header = pair(directory)
    Path(journals.path_for(str(cow))).write_text("{}")
    return cow


MAKERS: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "mixed-pages": (mixed_pages, set()),
    "bitmap-cut": (bitmap_cut, set()),
    "data-cut": (data_cut, set()),
    "short-file": (short_file, set()),
    "bits-past-end": (bits_past_end, set()),
    "dialect-unbootable": (unbootable, {"alignment"}),
    "ambiguous-dialect": (ambiguous, {"mixed-pages", "old-dialect", "alignment"}),
    "old-dialect": (old_dialect, {"alignment"}),
    "sector-size": (sector_size, set()),
    "alignment": (alignment, set()),
    "data-offset": (data_offset, set()),
    "tiny-disk": (tiny_disk, set()),
    "tail-sectors": (tail_sectors, {"old-dialect", "alignment"}),
    "partial-last-sector": (partial_last_sector, set()),
    "ubd-path": (ubd_path, set()),
    "relative-backing": (relative_backing, set()),
    "merged": (merged, set()),
    "backing-missing": (backing_missing, set()),
    "backing-damaged": (backing_damaged, set()),
    "backing-loop": (backing_loop, set()),
    "backing-size": (backing_size, set()),
    "backing-mtime": (backing_mtime, set()),
    "mtime-range": (mtime_range, set()),
    "stacked": (stacked, set()),
    "siblings": (siblings, set()),
    "unfinished-merge": (unfinished_merge, set()),
    "unfinished-header": (unfinished_header, set()),
    "foreign-journal": (foreign_journal, set()),
}
"""For each code who makes a file that has it, and what such a file has besides."""
