"""An archive as a stream: what gzip, bzip2, xz and zstd pack comes out again; what is cut or damaged is refused."""

import hashlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import things
from tests.kit.peers import needs
from umldisk.build.bases import compression
from umldisk.build.bases.compression import Archive, open_archive
from umldisk.errors import DataError, NoInputError, StorageError, UmldiskError

PACKERS = {
    "gz": ["gzip", "--stdout"],
    "bz2": ["bzip2", "--stdout"],
    "xz": ["xz", "--stdout"],
    "zst": ["zstd", "--quiet", "--stdout"],
}
PACKED = pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(argv[0])) for kind, argv in PACKERS.items()])
TEXT = b"".join(b"line %d of a file\n" % number for number in range(20_000))
BOMB_BYTES = 128 << 20


def pack(kind: str, data: bytes, *options: str) -> bytes:
    return subprocess.run([*PACKERS[kind], *options], input=data, capture_output=True, check=True).stdout


def opened(tmp_path: Path, data: bytes) -> Archive:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return open_archive(str(path))


def unpack(tmp_path: Path, data: bytes) -> bytes:
    """Return all that comes out; the digest must be that of the file as it is stored."""
    with opened(tmp_path, data) as archive:
        out = archive.read(1 << 30)
        assert archive.read(1) == b""
        assert archive.sha256 == hashlib.sha256(data).hexdigest()
        assert archive.position == len(out)
    return out


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        unpack(tmp_path, data)
    return str(caught.value)


@PACKED
def test_what_the_program_packs_comes_out(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, TEXT)
    assert unpack(tmp_path, packed) == TEXT
    assert opened(tmp_path, packed).compression == kind
    assert unpack(tmp_path, pack(kind, b"")) == b""


@PACKED
def test_members_in_a_row_are_one_stream(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, TEXT) + pack(kind, b"") + pack(kind, b"more", "-9")
    assert unpack(tmp_path, packed) == TEXT + b"more"


@PACKED
def test_padding_of_zeros_is_no_data(tmp_path: Path, kind: str) -> None:
    assert unpack(tmp_path, pack(kind, TEXT) + bytes(300_000)) == TEXT


@PACKED
@pytest.mark.parametrize("garbage", [b"x", b"\0\0\0\0<html>", b"\x1f\x8b", bytes(200_000) + b"\1" * 100])
def test_garbage_behind_the_data_is_refused(tmp_path: Path, kind: str, garbage: bytes) -> None:
    assert f"the {kind} data is" in refusal(tmp_path, pack(kind, TEXT) + garbage)


@PACKED
def test_data_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, TEXT[:2000])
    for length in range(10, len(packed)):
        with opened(tmp_path, packed[:length]) as archive:
            assert archive.compression == kind
            with pytest.raises(DataError, match=f"the {kind} data is cut short .*archive, byte {length}, "):
                archive.drain()


@PACKED
def test_a_cut_in_a_later_member_is_refused(tmp_path: Path, kind: str) -> None:
    assert "cut short" in refusal(tmp_path, pack(kind, TEXT) + pack(kind, TEXT)[:-6])


@PACKED
def test_flipped_bytes_never_give_other_data(tmp_path: Path, kind: str) -> None:
    packed = pack(kind, TEXT[:3000], *(["--check"] if kind == "zst" else []))
    refused = 0
    for at in range(10, len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
        try:
            assert unpack(tmp_path, damaged) == TEXT[:3000]
        except DataError:
            refused += 1
    assert refused > 0.8 * (len(packed) - 10)


@needs("zstd")
def test_zstd_frames_to_skip_are_skipped(tmp_path: Path) -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"
    packed = skippable + pack("zst", TEXT) + skippable + pack("zst", b"end")
    assert unpack(tmp_path, packed) == TEXT + b"end"


@needs("xz")
def test_windows_that_take_all_memory_are_refused(tmp_path: Path) -> None:
    assert "Memory usage limit" in refusal(tmp_path, pack("xz", TEXT, "--lzma2=dict=1GiB"))
    # magic, no size given, window of 2 GiB, then one empty last block
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, (31 - 10) << 3]) + b"\1\0\0"
    assert "too much memory" in refusal(tmp_path, frame)
    small = b"\x28\xb5\x2f\xfd" + bytes([0, (27 - 10) << 3]) + b"\1\0\0"
    assert unpack(tmp_path, small) == b""


def test_plain_data_passes_as_it_is(tmp_path: Path) -> None:
    for data in (b"", b"x", b"BZh9 is no archive", b"\x1f\x8b", TEXT * 10):
        assert unpack(tmp_path, data) == data
        assert opened(tmp_path, data).compression == ""


@given(
    steps=st.lists(st.tuples(st.sampled_from(["read", "peek", "skip"]), st.integers(0, 70))),
    drained=st.booleans(),
)
def test_reading_is_that_of_a_file(steps: list[tuple[str, int]], drained: bool) -> None:
    data = bytes(range(256))
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    model = io.BytesIO(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "CHUNK_BYTES", 13)
        archive = Archive("data", reader)
        for step, length in steps:
            at = model.tell()
            expected = model.read(length)
            if step == "peek":
                model.seek(at)
            result = getattr(archive, step)(length)
            assert result == (len(expected) if step == "skip" else expected)
            assert archive.position == model.tell()
        if drained:
            archive.drain()
            assert archive.position == len(data)
            assert archive.sha256 == hashlib.sha256(data).hexdigest()
            assert archive.read(5) == b""
        archive.close()


def test_the_digest_is_not_told_before_the_end(tmp_path: Path) -> None:
    with opened(tmp_path, TEXT) as archive:
        archive.read(10)
        assert archive.sha256 is None
        archive.drain()
        assert archive.sha256 == hashlib.sha256(TEXT).hexdigest()


def test_a_fifo_waits_for_its_writer(tmp_path: Path) -> None:
    path = things.fifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: Path(path).write_bytes(TEXT))
    writer.start()
    with open_archive(path) as archive:
        assert archive.read(1 << 30) == TEXT
    writer.join()


@needs("gzip")
def test_the_standard_input_is_an_archive(bare_environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom umldisk.build.bases.compression import open_archive\n"
        "with open_archive('-') as archive:\n    sys.stdout.buffer.write(archive.read(1 << 30))"
    )
    argv, root = [sys.executable, "-c", code], Path(__file__).parents[1]
    for data in (TEXT, b""):
        child = subprocess.run(
            argv, input=pack("gz", data), capture_output=True, check=True, cwd=root, env=bare_environment
        )
        assert child.stdout == data


def test_a_standard_input_that_is_no_file_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duplicate = os.dup
    leader, follower = os.openpty()
    directory = os.open(tmp_path, os.O_RDONLY)
    for fd, found in ((directory, "a directory"), (follower, "a terminal")):
        monkeypatch.setattr(os, "dup", lambda _zero, fd=fd: duplicate(fd))
        with pytest.raises(NoInputError, match=f"standard input, .*found {found}"):
            open_archive("-")
    for fd in (leader, follower, directory):
        os.close(fd)
    with pytest.raises(NoInputError, match="standard input: Bad file descriptor"):
        open_archive("-")


def test_what_is_no_file_is_no_input(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for path in (missing, str(tmp_path), things.unix_socket(tmp_path / "s"), "/dev/zero", "", "a\0b"):
        with pytest.raises(NoInputError):
            open_archive(path)
    with pytest.raises(NoInputError):
        open_archive(things.symlink_loop(tmp_path / "loop"))


def test_a_read_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = opened(tmp_path, TEXT * 10)

    def fail(*_arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(StorageError, match=r"cannot read: Input/output error \(.*archive\)"):
        archive.drain()
    descriptors = set(os.listdir("/proc/self/fd"))
    with pytest.raises(UmldiskError):
        opened(tmp_path, TEXT)
    assert set(os.listdir("/proc/self/fd")) == descriptors


@PACKED
def test_a_bomb_takes_no_memory(tmp_path: Path, kind: str, bare_environment: dict[str, str]) -> None:
    bomb = tmp_path / "bomb"
    with bomb.open("wb") as out, subprocess.Popen([*PACKERS[kind], "-1"], stdin=subprocess.PIPE, stdout=out) as packer:
        assert packer.stdin
        for _ in range(BOMB_BYTES >> 20):
            packer.stdin.write(bytes(1 << 20))
        packer.stdin.close()
    code = (
        "import re, sys\nfrom umldisk.build.bases.compression import open_archive\n"
        "archive = open_archive(sys.argv[1])\narchive.drain()\n"
        "print(archive.position, re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(bomb)],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=bare_environment,
    )
    size, peak_kib = map(int, child.stdout.split())
    assert size == BOMB_BYTES
    assert bomb.stat().st_size < BOMB_BYTES // 100
    assert peak_kib < 80 << 10
