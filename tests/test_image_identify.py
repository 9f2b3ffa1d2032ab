"""Telling disks apart, also those that could be taken for two things."""

import struct
import uuid

import pytest

from tests.kit.readers import BytesReader
from umldisk.image.identify import ImageKind, identify
from umldisk.image.swap import build_header

_SWAP = build_header(size_bytes=1 << 20, uuid=uuid.UUID(int=1), label="swap")


def _ext(**features: int) -> bytes:
    raw = bytearray(4096)
    struct.pack_into("<5I", raw, 1024, 100, 1000, 0, 10, 10)
    struct.pack_into("<I", raw, 1024 + 24, 2)
    struct.pack_into("<III", raw, 1024 + 32, 32768, 32768, 100)
    raw[1024 + 56 : 1024 + 58] = b"\x53\xef"
    struct.pack_into("<II", raw, 1024 + 92, features.get("compat", 0), features.get("incompat", 0))
    return bytes(raw)


def _damaged_ext() -> bytes:
    raw = bytearray(_ext())
    raw[1024 + 24] = 99
    return bytes(raw)


def _damaged_swap() -> bytes:
    raw = bytearray(_SWAP)
    raw[1024] = 9
    return bytes(raw)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ImageKind.EMPTY),
        (bytes(1), ImageKind.BLANK),
        (bytes(200_000), ImageKind.BLANK),
        (bytes(131_071) + b"x", ImageKind.UNKNOWN),
        (b"OOOM" + bytes(9000), ImageKind.COW),
        (b"MOOO", ImageKind.COW),
        (b"MOO", ImageKind.UNKNOWN),
        (_SWAP, ImageKind.SWAP),
        (b"boot code" + _SWAP[9:], ImageKind.SWAP),
        (_damaged_swap(), ImageKind.UNKNOWN),
        (_ext(), ImageKind.EXT2),
        (_ext(compat=4), ImageKind.EXT3),
        (_ext(compat=4, incompat=0x40), ImageKind.EXT4),
        (_damaged_ext(), ImageKind.UNKNOWN),
        (_ext()[:2000], ImageKind.UNKNOWN),
    ],
)
def test_a_disk_is_told_from_its_start(data: bytes, kind: ImageKind) -> None:
    assert identify(BytesReader(data)) is kind


def test_a_huge_disk_is_not_read_through() -> None:
    class Huge(BytesReader):
        total = 0

        def read(self, offset: int, length: int) -> bytes:
            Huge.total += length
            return bytes(length)

    assert identify(Huge(b"")) is ImageKind.BLANK
    assert Huge.total < 200_000
