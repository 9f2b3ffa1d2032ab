"""The swap header against mkswap, blkid and a table of damaged ones."""

import struct
import subprocess
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.peers import needs
from tests.kit.readers import BytesReader
from umldisk.errors import DataError, UsageError
from umldisk.image.reader import DiskReader
from umldisk.image.swap import PAGE_BYTES, build_header, find_page_bytes, read_header
from umldisk.system.files import open_disk

_UUID = uuid.UUID("0f0e0d0c-0b0a-0908-0706-050403020100")
_MIB = 1 << 20


def _header(size_bytes: int = _MIB, label: str = "swap") -> bytes:
    return build_header(size_bytes=size_bytes, uuid=_UUID, label=label)


@given(
    pages=st.integers(10, 1 << 32),
    rest=st.integers(0, PAGE_BYTES - 1),
    label=st.text("abc-XYZ_019", max_size=16),
    name=st.uuids(),
)
def test_a_header_reads_back(pages: int, rest: int, label: str, name: uuid.UUID) -> None:
    raw = build_header(size_bytes=pages * PAGE_BYTES + rest, uuid=name, label=label)
    assert len(raw) == PAGE_BYTES
    header = read_header(BytesReader(raw))
    assert (header.pages, header.label, header.uuid) == (pages, label, name)
    assert header.size_bytes == pages * PAGE_BYTES
    assert header.bad_pages == ()


@needs("mkswap")
@pytest.mark.parametrize("size_bytes", [10 * PAGE_BYTES, _MIB, _MIB + 4095, 256 * _MIB])
def test_a_header_is_what_mkswap_writes(size_bytes: int, tmp_path: Path) -> None:
    disk = tmp_path / "swap"
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    disk.chmod(0o600)
    _run("mkswap", "--uuid", str(_UUID), "--label", "swap", str(disk))
    assert disk.read_bytes()[:PAGE_BYTES] == _header(size_bytes)


@needs("blkid", "swaplabel")
def test_other_tools_know_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "swap"
    disk.write_bytes(_header().ljust(_MIB, b"\0"))
    seen = _run("blkid", "--probe", "--output", "export", str(disk))
    assert {"TYPE=swap", "VERSION=1", "LABEL=swap", f"UUID={_UUID}"} <= set(seen.splitlines())
    assert str(_UUID) in _run("swaplabel", str(disk))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("size_bytes", "label"), [(9 * PAGE_BYTES, "x"), (1 << 45, "x")])
def test_impossible_sizes_are_refused(size_bytes: int, label: str) -> None:
    with pytest.raises(UsageError):
        _header(size_bytes, label)


@pytest.mark.parametrize("label", ["seventeen letters", "é" * 9, "a\0b"])
def test_impossible_labels_are_refused(label: str) -> None:
    with pytest.raises(UsageError):
        _header(label=label)


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        (1024, 0, "version"),
        (1024, 2, "version"),
        (1024, 16777216, "version"),
        (1028, 0, "last_page"),
        (1032, 638, "nr_badpages"),
        (1032, 4294967295, "nr_badpages"),
    ],
)
def test_what_the_kernel_refuses_is_named(offset: int, value: int, field: str) -> None:
    raw = bytearray(_header())
    struct.pack_into("<I", raw, offset, value)
    with pytest.raises(DataError) as refused:
        read_header(BytesReader(bytes(raw)), where="disk")
    assert refused.value.what == f"bad {field} in the swap header"
    assert refused.value.where == f"disk, byte {offset}"
    assert str(refused.value.found) == str(value)


def test_bad_pages_are_listed() -> None:
    raw = bytearray(_header())
    struct.pack_into("<I", raw, 1032, 3)
    struct.pack_into("<III", raw, 1536, 7, 8, 200)
    assert read_header(BytesReader(bytes(raw))).bad_pages == (7, 8, 200)


@pytest.mark.parametrize("page_bytes", [4096, 8192, 16384, 65536])
def test_other_page_sizes_are_recognised(page_bytes: int) -> None:
    raw = bytearray(page_bytes)
    raw[1024:2048] = _header()[1024:2048]
    raw[-10:] = b"SWAPSPACE2"
    header = read_header(BytesReader(bytes(raw)))
    assert header.page_bytes == page_bytes
    assert header.uuid == _UUID


@pytest.mark.parametrize("length", [0, 1, 1024, 4086, 4095])
def test_a_cut_header_is_none(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(_header()[:length])
    with open_disk(path) as disk:
        assert find_page_bytes(DiskReader(disk)) is None
        with pytest.raises(DataError, match="not a swap disk"):
            read_header(DiskReader(disk))
