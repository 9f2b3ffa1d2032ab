"""The nine header layouts that COW files came in, and what follows from each.

A dialect decides where the header's numbers lie (declared in `layout`), how long the backing path may be, and how
bitmap and data are placed. Everything else about a COW file is the same in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Placement(Enum):
    """How the bitmap's length and the start of the data follow from the disk's size."""

    V1_V2 = "bitmap rounded down to whole bytes, data at the next sector"
    QEMU = "bitmap rounded up, data at the next 512 bytes"
    V3 = "bitmap and data at multiples of the header's alignment"


@dataclass(frozen=True, slots=True)
class _Facts:
    label: str
    version: int
    magic: bytes
    header_bytes: int
    path_bytes: int
    placement: Placement
    writer: str


class Dialect(Enum):
    """A header layout; the value is its name on the command line."""

    V1_LITTLE = "v1"
    V1_BIG = "v1-be"
    V1_POWERPC = "v1-ppc"
    V2 = "v2"
    V2_64 = "v2-64"
    QEMU_32 = "qemu"
    QEMU_64 = "qemu-64"
    V3 = "v3"
    V3_64 = "v3-64"

    @property
    def version(self) -> int:
        """The version number in the header: 1, 2 or 3."""
        return _FACTS[self].version

    @property
    def magic(self) -> bytes:
        """The first four bytes of the file."""
        return _FACTS[self].magic

    @property
    def header_bytes(self) -> int:
        """Length of the header."""
        return _FACTS[self].header_bytes

    @property
    def path_bytes(self) -> int:
        """Length of the path field, its closing NUL included."""
        return _FACTS[self].path_bytes

    @property
    def placement(self) -> Placement:
        """How bitmap and data are placed."""
        return _FACTS[self].placement

    @property
    def has_alignment(self) -> bool:
        """Whether the header has the fields alignment and format."""
        return self.placement is Placement.V3

    @property
    def label(self) -> str:
        """The layout's name for people."""
        return _FACTS[self].label

    @property
    def writer(self) -> str:
        """Which programs wrote this layout."""
        return _FACTS[self].writer


MAGIC_LITTLE = b"MOOO"
MAGIC_BIG = b"OOOM"
MAGICS = (MAGIC_LITTLE, MAGIC_BIG)
LONGEST_HEADER_BYTES = 4136

_OLD, _QEMU, _NEW = Placement.V1_V2, Placement.QEMU, Placement.V3
_FACTS = {
    Dialect.V1_LITTLE: _Facts("version 1, little-endian", 1, MAGIC_LITTLE, 280, 256, _OLD, "UML 2.4"),
    Dialect.V1_BIG: _Facts("version 1, big-endian", 1, MAGIC_BIG, 280, 256, _OLD, "UML 2.4"),
    Dialect.V1_POWERPC: _Facts("version 1, 32-bit PowerPC", 1, MAGIC_BIG, 288, 256, _OLD, "UML 2.4"),
    Dialect.V2: _Facts("version 2", 2, MAGIC_BIG, 4120, 4096, _OLD, "UML 2.4 and 2.5"),
    Dialect.V2_64: _Facts("version 2, 64-bit layout", 2, MAGIC_BIG, 4128, 4096, _OLD, "early 2.6 UML on x86-64"),
    Dialect.QEMU_32: _Facts("version 2, QEMU on 32 bits", 2, MAGIC_BIG, 1048, 1024, _QEMU, "QEMU up to 2.1"),
    Dialect.QEMU_64: _Facts("version 2, QEMU on 64 bits", 2, MAGIC_BIG, 1056, 1024, _QEMU, "QEMU up to 2.1"),
    Dialect.V3: _Facts("version 3", 3, MAGIC_BIG, 4128, 4096, _NEW, "UML 2.6 to today, uml_mkcow"),
    Dialect.V3_64: _Facts(
        "version 3, 64-bit layout", 3, MAGIC_BIG, 4136, 4096, _NEW, "64-bit UML before December 2005"
    ),
}
