"""COW files that lie, given to every command: one line, exit 65, little time and memory, nothing created."""

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.peers import needs
from tests.reliability.arguments import ERROR
from tests.reliability.scenes import fingerprints, run
from tests.reliability.test_hostile import BASE, SECONDS, fields_of, write_valid
from tests.test_header import PLACES, put
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.errors import DataError

MEMORY_BYTES = 60 << 20

COMMANDS: dict[str, list[str]] = {
    "info": ["info", "@cow"],
    "check": ["check", "@cow"],
    "map": ["map", "@cow"],
    "merge": ["merge", "@cow", "@new"],
    "merge-accepting": ["merge", "--ignore-mtime", "--accept-truncated", "@cow", "@new"],
    "merge-in-place": ["merge", "-d", "@cow"],
    "align": ["align", "@cow"],
    "rebase": ["rebase", "@cow", "@other"],
    "rename": ["rebase", "-u", "@cow", "@other"],
    "diff": ["diff", "@base", "@cow", "@new"],
    "create": ["create", "@new", "@cow"],
}
LOOKING = {"info", "check", "map"}


def attempt(command: str, memory: Path, *, allowed: tuple[int, ...]) -> int:
    """Run a command on memory/cow: one of these exit codes, one error line; a refusal changes nothing."""
    before = fingerprints(memory)
    words = [str(memory / word[1:]) if word.startswith("@") else word for word in COMMANDS[command]]
    code, out, said = run(words)
    assert code in allowed, said
    if code > 1:
        assert ERROR.fullmatch(said), said
        assert not out
    if code != 0 or command in LOOKING:
        assert fingerprints(memory) == before
    return code


def hostile_values(dialect: Dialect, field: str) -> list[int]:
    bits = 64 if field == "size" else 32
    lowest = 2 if field == "format" else 0  # format 0 is the right one
    return [lowest, 1, 513, (1 << (bits - 1)), (1 << bits) - 1, random.Random(f"{dialect}{field}").getrandbits(bits)]


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
@pytest.mark.parametrize("field", ["size", "sectorsize", "alignment", "format"])
def test_a_number_that_cannot_be_true_is_refused_by_every_command(dialect: Dialect, field: str, memory: Path) -> None:
    if field not in fields_of(dialect):
        return
    valid = write_valid(memory)[dialect]
    model.write_image(memory / "other", BASE)
    for number in hostile_values(dialect, field):
        (memory / "cow").write_bytes(put(valid, dialect, **{field: number}))
        for command in COMMANDS:
            allowed = (0, 1, 65) if command in LOOKING else (65,)
            attempt(command, memory, allowed=allowed)


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)
def test_a_header_cut_at_any_byte_is_refused(dialect: Dialect, memory: Path) -> None:
    valid, places = write_valid(memory)[dialect], PLACES[dialect]
    model.write_image(memory / "other", BASE)
    cow = memory / "cow"
    commands = [name for name in COMMANDS if name != "create"]
    edges = {getattr(places, field) + step for field in fields_of(dialect) for step in (-1, 0, 1)}
    for length in range(places.length):
        cow.write_bytes(valid[:length])
        with pytest.raises(DataError):
            CowFile.open(cow)
        if length >= 4 and (length % 61 == 0 or length in edges or length == places.length - 1):
            attempt(commands[length % len(commands)], memory, allowed=(65,))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("info", "diff", "create")])
@pytest.mark.parametrize("raw", [b"", b"O", b"OOO", b"\0" * 9000, b"#!/bin/sh\n", b"QFI\xfb" + bytes(500)])
def test_what_is_no_cow_file_is_refused(command: str, raw: bytes, memory: Path) -> None:
    write_valid(memory)
    model.write_image(memory / "other", BASE)
    (memory / "cow").write_bytes(raw)
    attempt(command, memory, allowed=(65,))


NO_DISKS: dict[str, bytes] = {
    "nowhere": b"/nonexistent/base",
    "directory": b"/",
    "zero": b"/dev/zero",
    "null": b"/dev/null",
    "fifo": b"fifo",
    "too-long": b"x" * 250 * 16,
    "not-text": b"\xff\xfe\x1b[2J\x07",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", NO_DISKS)
def test_a_backing_file_that_is_no_disk_is_no_input(kind: str, memory: Path) -> None:
    valid = write_valid(memory)[Dialect.V3]
    os.mkfifo(memory / "fifo")
    path = NO_DISKS[kind].ljust(4096, b"\0")
    (memory / "cow").write_bytes(valid[:32] + path + valid[32 + 4096 :])
    before = {path.name: path.lstat().st_mtime_ns for path in memory.iterdir()}
    for command in ("merge", "merge-accepting", "merge-in-place", "align", "diff"):
        words = [str(memory / word[1:]) if word.startswith("@") else word for word in COMMANDS[command]]
        code, _out, said = run(words)
        assert code == 66, said
        assert ERROR.fullmatch(said), said
        assert said.isascii() or kind != "not-text"
    for command in ("info", "check"):
        code, _out, said = run([command, str(memory / "cow")])
        assert code in (0, 1), said
    assert {path.name: path.lstat().st_mtime_ns for path in memory.iterdir()} == before


# -- time and memory ------------------------------------------------------------------------------

# What a process needs, measured from outside: its processor time in seconds, its peak memory in KiB.
_MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_pid, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss, file=sys.__stdout__)
"""


def measured(*words: str, environment: dict[str, str]) -> tuple[int, float, int]:
    """Run umldisk as a process of its own; return its exit code, processor seconds and peak memory in bytes."""
    umldisk = [sys.executable, "-m", "umldisk", *words]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *umldisk],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    code, seconds, peak_kib = done.stdout.splitlines()[-1].split()
    return int(code), float(seconds), int(peak_kib) * 1024


def worst_files(memory: Path) -> dict[str, bytes]:
    """Return the files that ask for most: whole tebibytes of bitmap, widest alignments, longest paths."""
    valid = write_valid(memory)
    v3, v2 = valid[Dialect.V3], valid[Dialect.V2]
    endless = put(v3, Dialect.V3, size=1 << 62)
    return {
        "size of 2^62": endless,
        "size of 2^63 - 2^57": put(v3, Dialect.V3, size=(1 << 63) - (1 << 57)),
        "size of 2^62, version 2": put(v2, Dialect.V2, size=1 << 62),
        "largest alignment": put(v3, Dialect.V3, alignment=1 << 20),
        "largest alignment and size": put(endless, Dialect.V3, alignment=1 << 20),
        "alignment of 2^31": put(v3, Dialect.V3, alignment=1 << 31),
        "sectors of 2^31": put(v3, Dialect.V3, sectorsize=1 << 31),
        "longest path": v3[:32] + b"/" * 4095 + v3[32 + 4095 :],
        "all ones": v3[:8] + b"\xff" * (len(v3) - 8),
    }


def least(words: list[str], environment: dict[str, str]) -> tuple[int, float, int]:
    """Run a command until it is quick enough, three times at most: other processes disturb the measurement."""
    runs = []
    for _ in range(3):
        runs.append(measured(*words, environment=environment))
        if runs[-1][1] < SECONDS:
            break
    return min(runs, key=lambda one: one[1])


@pytest.mark.slow
def test_the_worst_headers_cost_next_to_nothing(memory: Path, bare_environment: dict[str, str]) -> None:
    files = worst_files(memory)
    cow = memory / "cow"
    cow.write_bytes(write_valid(memory)[Dialect.V3])
    for command in ("info", "check", "merge"):
        words = [command, str(cow)] if command != "merge" else [command, "--force", str(cow), str(memory / "new")]
        usual_code, usual_seconds, _peak = least(words, bare_environment)
        assert usual_code in (0, 1)
        (memory / "new").unlink(missing_ok=True)
        for name, raw in files.items():
            cow.write_bytes(raw)
            code, seconds, peak_bytes = least(words, bare_environment)
            what = f"{command} of {name}: exit {code}, {seconds} s, {peak_bytes >> 20} MiB"
            assert code in ((65, 66) if command == "merge" else (0, 1, 65)), what
            assert peak_bytes < MEMORY_BYTES, what
            assert seconds < usual_seconds + SECONDS, what
            assert not (memory / "new").exists()
        cow.write_bytes(write_valid(memory)[Dialect.V3])


@needs("tmpfs")
@pytest.mark.timeout(60)
def test_a_disk_of_exbibytes_that_is_all_hole_is_handled_like_any_other(memory: Path) -> None:
    """A file on tmpfs can be that long; what a tool needs must follow what is there."""
    size, sector = 1 << 60, (1 << 51) - 8
    base, cow = memory / "base", memory / "cow"
    for path in (base, memory / "other"):
        path.touch()
        os.truncate(path, size)
    code, _out, said = run(["create", str(cow), str(base)])
    assert code == 0, said
    with CowFile.open(cow) as file:
        geometry = file.geometry
    with cow.open("r+b") as raw:
        os.pwrite(raw.fileno(), b"\xff", geometry.bitmap_offset + sector // 8)
        os.pwrite(raw.fileno(), b"x" * 4096, geometry.data_offset + sector * 512)
    started, before_kib = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words in (
        ["info", "cow"],
        ["check", "cow"],
        ["map", "cow"],
        ["map", "--plot", "cow"],
        ["merge", "cow", "new"],
        ["diff", "base", "new", "back"],
        ["align", "cow"],
        ["rebase", "cow", "other"],
        ["merge", "-d", "cow"],
    ):
        code, _out, said = run(
            [words[0], *(word if word.startswith("-") else str(memory / word) for word in words[1:])]
        )
        assert code in (0, 1), f"{words}: {said}"
    for path in (memory / "new", memory / "other"):
        with path.open("rb") as image:
            image.seek(sector * 512)
            assert image.read(4096) == b"x" * 4096
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < MEMORY_BYTES // 1024
