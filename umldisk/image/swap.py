"""Linux swap: the header page that makes a file or disk usable by `swapon`.

A swap area is its first page and nothing else until something is swapped out, so a sparse file of
any length with one header page in front is a whole swap disk. The kernel demands version 1, a last
page inside the area and at most 637 bad pages, and takes the page size of the machine for granted
(setup_swap_map_and_extents and read_swap_header in mm/swapfile.c). Other page sizes and the
opposite byte order are recognised only to be named.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from umldisk.errors import DataError, UsageError, printable
from umldisk.image import layout
from umldisk.image.reader import Reader

PAGE_BYTES = 4096
VERSION = 1
LABEL_BYTES = 16
_SMALLEST_PAGES = 10
_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True, slots=True)
class SwapHeader:
    """What a swap header says; `pages` counts the header page, `bad_pages` are numbers of pages."""

    page_bytes: int
    pages: int
    uuid: uuid.UUID
    label: str
    bad_pages: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The length of the whole area."""
        return self.page_bytes * self.pages


def build_header(*, size_bytes: int, uuid: uuid.UUID, label: str) -> bytes:
    """Return the first page of a swap area of `size_bytes`, of which whole pages are used.

    Raises UsageError when the area is smaller than mkswap and the kernel take, or the label does
    not fit.
    """
    pages = size_bytes // PAGE_BYTES
    name = label.encode()
    if pages < _SMALLEST_PAGES or pages > 1 << 32:
        raise UsageError("no size for a swap disk", expected="40 KiB to 16 TiB", found=size_bytes)
    if len(name) > LABEL_BYTES or b"\0" in name:
        raise UsageError("no label for a swap disk", expected="at most 16 bytes", found=label)
    fixed = {
        "version": VERSION,
        "last_page": pages - 1,
        "nr_badpages": 0,
        "uuid": uuid.bytes,
        "label": name.ljust(LABEL_BYTES, b"\0"),
    }
    header: bytes = layout.swap_header(PAGE_BYTES, 0).build(
        {
            "boot": bytes(layout.SWAP_BOOT_BYTES),
            "fixed": fixed,
            "badpages": [],
            "magic": layout.SWAP_MAGIC,
        }
    )
    return header


def find_page_bytes(reader: Reader) -> int | None:
    """Return the page size of the swap area that `reader` holds, or None when it is none."""
    for page_bytes in _PAGE_SIZES:
        place = page_bytes - len(layout.SWAP_MAGIC)
        if reader.read(place, len(layout.SWAP_MAGIC)) == layout.SWAP_MAGIC:
            return page_bytes
    return None


def read_header(reader: Reader, *, where: str = "") -> SwapHeader:
    """Read a swap header.

    Raises DataError when there is none, or with the offset of the first field that the kernel would
    refuse.
    """
    page_bytes = find_page_bytes(reader)
    if page_bytes is None:
        raise DataError("not a swap disk", where=where, expected="SWAPSPACE2 at a page's end")
    page = reader.read(0, page_bytes)
    fixed = layout.SWAP_FIXED.parse(page[layout.SWAP_BOOT_BYTES :])
    if fixed.version != VERSION:
        raise _bad_field("version", 0, where, VERSION, fixed.version)
    if fixed.last_page < 1:
        raise _bad_field("last_page", 4, where, "at least 1", fixed.last_page)
    if fixed.nr_badpages > layout.SWAP_MAX_BAD_PAGES:
        raise _bad_field("nr_badpages", 8, where, "at most 637", fixed.nr_badpages)
    return SwapHeader(
        page_bytes=page_bytes,
        pages=fixed.last_page + 1,
        uuid=uuid.UUID(bytes=fixed.uuid),
        label=printable(fixed.label.partition(b"\0")[0].decode(errors="surrogateescape")),
        bad_pages=tuple(layout.swap_header(page_bytes, fixed.nr_badpages).parse(page).badpages),
    )


def _bad_field(field: str, offset: int, where: str, expected: object, found: object) -> DataError:
    place = f"{where}, byte {layout.SWAP_BOOT_BYTES + offset}".removeprefix(", ")
    return DataError(f"bad {field} in the swap header", where=place, expected=expected, found=found)
