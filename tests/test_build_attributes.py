"""The debugfs script: how fields are written, and what it refuses to say."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.build import attributes
from umldisk.build.attributes import attribute_script, device_script, encode_device, encode_time
from umldisk.build.tree import Entry, FileType, HardLink, Inode, Tree, file, plant
from umldisk.errors import DataError
from umldisk.image.ext import EARLIEST_SECONDS, LATEST_SECONDS


def _decode(low: int, extra: int) -> int:
    """Read a time as ext4_decode_extra_time does."""
    signed = low - (1 << 32) if low >> 31 else low
    return (signed + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


@given(st.integers(EARLIEST_SECONDS * 10**9, LATEST_SECONDS * 10**9 + 999_999_999))
def test_a_time_comes_back_to_the_nanosecond(time_ns: int) -> None:
    low, extra = encode_time(time_ns)
    assert 0 <= low < 1 << 32
    assert 0 <= extra < 1 << 32
    assert _decode(low, extra) == time_ns


def test_device_numbers_are_old_or_new() -> None:
    assert encode_device(1, 3) == (0x0103, 0)
    assert encode_device(255, 255) == (0xFFFF, 0)
    assert encode_device(8, 256) == (0, 0x100800)
    assert encode_device(0xFFF, 0xFFFFF) == (0, 0xFFFFFFFF)


@pytest.mark.parametrize("device", [(0x1000, 0), (0, 0x100000), (-1, 0)])
def test_a_device_number_that_does_not_fit_is_refused(device: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="device number"):
        encode_device(*device)


def _device(path: str, kind: FileType = FileType.CHARACTER_DEVICE) -> Entry:
    return Entry(path, Inode(kind, 0o600, device=(4, 64)))


def _lines(script: Iterable[bytes]) -> list[str]:
    return b"".join(script).decode("utf-8", "surrogateescape").splitlines()


def test_devices_are_made_in_the_directory_of_that_number() -> None:
    tree = plant({}, [_device('/dev/a "b" c'), _device("/dev/sda", FileType.BLOCK_DEVICE), file("/x", "")])
    assert _lines(device_script(tree, {"/": 2, "/dev": 12})) == [
        "cd <12>",
        'mknod "a ""b"" c" c 0 0',
        "cd <12>",
        'mknod "sda" b 0 0',
    ]


def test_every_inode_is_told_once_and_by_number(tmp_path: Path) -> None:
    tree = plant({}, [file("/one", "", 0o4711, gid=70_000, mtime_ns=1_500_000_000), HardLink("/two", "/one")])
    numbers = {"/": 2, "/one": 12, "/two": 12}
    lines = _lines(attribute_script(tree, numbers, str(tmp_path)))
    assert lines[11:] == [
        "sif <12> mode 0104711",
        "sif <12> uid 0",
        "sif <12> gid 70000",
        *(
            line
            for name in ("atime", "ctime", "mtime", "crtime")
            for line in (f"sif <12> {name} @1", f"sif <12> {name}_extra {500_000_000 << 2}")
        ),
    ]
    assert all(line.startswith("sif <2> ") for line in lines[:11])


def test_values_of_attributes_go_through_files(tmp_path: Path) -> None:
    tree: Tree = {"/": Inode(FileType.DIRECTORY, 0o755, xattrs=(("user.a b", b"1\n2"), ("user.c", b"\0")))}
    lines = _lines(attribute_script(tree, {"/": 2}, str(tmp_path)))
    assert lines[-2:] == ['ea_set -f 2.0 <2> "user.a b"', 'ea_set -f 2.1 <2> "user.c"']
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {"2.0": b"1\n2", "2.1": b"\0"}


def test_a_name_that_would_break_the_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line break"):
        _lines(device_script(plant({}, [_device("/a\nb")]), {"/": 2}))
    tree: Tree = {"/": Inode(FileType.DIRECTORY, 0o755, xattrs=(("user.a\nb", b""),))}
    with pytest.raises(DataError, match="line break"):
        _lines(attribute_script(tree, {"/": 2}, str(tmp_path)))


def test_names_of_files_are_never_in_the_script(tmp_path: Path) -> None:
    tree = plant({}, [file("/quit\nrm", ""), file('/"; x', "")])
    said = b"".join(attribute_script(tree, dict.fromkeys(tree, 12), str(tmp_path)))
    assert b"rm" not in said
    assert b'"' not in said


def test_nothing_is_run_for_an_empty_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "run", None)
    attributes.run_script("/no/image", iter(()), str(tmp_path), environment={})
