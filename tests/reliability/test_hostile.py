"""COW files that lie: refused in one line with the right exit code, quickly, and with nothing created or changed.

What is right: a header that cannot be true, or contradicts the files, is exit 65. Exit 66 is right in one case only:
the header can be true, and what it names as backing file is not there or is no disk image. A header that was changed
and can still be true is read like any other, and what is read is what the header says.
"""

import contextlib
import os
import random
import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit import model
from tests.reliability.scenes import fingerprints
from tests.test_header import PLACES, put
from umldisk.cow.checking import check
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile
from umldisk.cow.merging import MergeOptions, merge
from umldisk.errors import DataError, NoInputError, UmldiskError
from umldisk.ops.describe import describe

BASE = b"".join(bytes([65 + n]) * 512 for n in range(24))
CHANGES: dict[int, bytes | None] = {1: b"c" * 512, 9: None, **dict.fromkeys(range(16, 24), b"d" * 512)}
_ERROR = re.compile(r"umldisk: error: [^\n]+\n(hint: [^\n]+\n)?")

MUTATED_HEADERS = 100_000
SHARES = 4
"""The mutated headers are divided into so many tests, for as many processors."""

SECONDS = 0.2
MEMORY_BYTES = 60 << 20

EDGES = [0, 1, 2, 7, 511, 512, 513, 1023, 4095, 4096, 1 << 20, 1 << 21, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
EDGES_OF_64_BITS = [*EDGES, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 512, (1 << 64) - 1]


def write_valid(memory: Path) -> dict[Dialect, bytes]:
    """Write a backing file; return a whole COW file over it in every dialect."""
    backing = model.write_image(memory / "base", BASE)
    os.utime(backing, (0, 1_000_000_000))
    valid = {}
    for dialect in Dialect:
        model.write_cow(memory / "cow", backing, CHANGES, dialect=dialect)
        valid[dialect] = (memory / "cow").read_bytes()
    return valid


def fields_of(dialect: Dialect) -> list[str]:
    numbers = ["mtime", "size", "sectorsize"]
    return numbers + (["alignment", "format"] if dialect.has_alignment else [])


# -- a hundred thousand of them -------------------------------------------------------------------


class Mutator:
    """Makes a false header out of a true one, in one to three steps."""

    def __init__(self, seed: int, valid: dict[Dialect, bytes]) -> None:
        self._random = random.Random(seed)
        self._valid = valid
        self._steps: list[Callable[[Dialect, bytearray], None]] = [
            self._set_number,
            self._set_number,
            self._flip_bits,
            self._overwrite,
            self._cut,
            self._splice,
            self._change_path,
            self._change_bitmap,
            self._change_kind,
        ]

    def next(self) -> tuple[Dialect, bytes]:
        """Return the dialect that was meant, and the file."""
        dialect = self._random.choice(list(Dialect))
        raw = bytearray(self._valid[dialect])
        for _ in range(self._random.choice((1, 1, 2, 3))):
            self._random.choice(self._steps)(dialect, raw)
        return dialect, bytes(raw)

    def _set_number(self, dialect: Dialect, raw: bytearray) -> None:
        if len(raw) < PLACES[dialect].length:
            return
        field = self._random.choice(fields_of(dialect))
        bits = 64 if field == "size" else 32
        edge = self._random.choice(EDGES_OF_64_BITS if bits == 64 else EDGES)
        near = max(0, min(edge + self._random.randint(-2, 2), (1 << bits) - 1))
        number = self._random.choice((edge, near, self._random.getrandbits(bits), len(BASE)))
        raw[:] = put(bytes(raw), dialect, **{field: number})

    def _place(self, dialect: Dialect, raw: bytearray) -> int:
        """Choose a byte, mostly one of those that mean something."""
        places = PLACES[dialect]
        fields = [0, 4, places.path, *(getattr(places, field) for field in fields_of(dialect))]
        anywhere = self._random.randrange(places.length + 64)
        return min(self._random.choice((anywhere, self._random.choice(fields) + self._random.randrange(8))), len(raw))

    def _flip_bits(self, dialect: Dialect, raw: bytearray) -> None:
        for _ in range(self._random.randint(1, 8)):
            place = self._place(dialect, raw)
            if place < len(raw):
                raw[place] ^= 1 << self._random.randrange(8)

    def _overwrite(self, dialect: Dialect, raw: bytearray) -> None:
        place = self._place(dialect, raw)
        length = min(self._random.choice((1, 4, 8, 64, 5000)), len(raw) - place)
        filler = self._random.choice((b"\0" * length, b"\xff" * length, self._random.randbytes(length)))
        raw[place : place + length] = filler

    def _cut(self, dialect: Dialect, raw: bytearray) -> None:
        near = self._place(dialect, raw)
        del raw[self._random.choice((near, self._random.randrange(len(raw) + 1))) :]

    def _splice(self, dialect: Dialect, raw: bytearray) -> None:
        other = self._valid[self._random.choice(list(Dialect))]
        start, end = sorted((self._place(dialect, raw), self._place(dialect, raw)))
        raw[start:end] = other[start:end]

    def _change_path(self, dialect: Dialect, raw: bytearray) -> None:
        places = PLACES[dialect]
        paths = [b"", b"\0", b"/", b".", b"base", b"cow", b"/dev/null", b"/dev/zero", b"../" * 80, b"x" * 4096]
        path = self._random.choice([*paths, self._random.randbytes(self._random.randrange(64))])
        field = slice(places.path, min(places.path + places.path_bytes, len(raw)))
        raw[field] = path.ljust(places.path_bytes, b"\0")[: max(0, field.stop - field.start)]

    def _change_bitmap(self, dialect: Dialect, raw: bytearray) -> None:
        start = 8192 if dialect.has_alignment else PLACES[dialect].length
        raw[start : start + 3] = self._random.choice((b"\xff\xff\xff", self._random.randbytes(3)))

    def _change_kind(self, _dialect: Dialect, raw: bytearray) -> None:
        magic = self._random.choice((b"OOOM", b"MOOO", b"OOMO"))
        raw[:8] = magic + struct.pack(self._random.choice("<>") + "I", self._random.choice((0, 1, 2, 3, 4)))


def read_through(cow: Path, dialect: Dialect | None) -> None:
    """Open a COW file and read all of it; what is read must be what its header says."""
    with CowFile.open(cow, access=Access(dialect=dialect)) as file:
        view = file.read(0, file.size_bytes)
        changed = {sector for run in file.runs() for sector in range(run.start, run.end)}
        header, changes = model.read_cow(cow, file.header.dialect)
        assert view == model.merged(BASE, changes, header.sector_bytes)
        assert changed == changes.keys()


def merge_it(cow: Path, dialect: Dialect | None) -> None:
    """Merge into a new image; what comes out must be what the header says."""
    new = cow.with_name("new")
    try:
        report = merge(cow, new, access=Access(dialect=dialect), options=MergeOptions(sync=False))
        assert new.stat().st_size == report.size_bytes == len(BASE)
    finally:
        new.unlink(missing_ok=True)


def describe_it(cow: Path, dialect: Dialect | None) -> None:
    description = describe(cow, Access(dialect=dialect))
    assert description.path == str(cow)


def check_it(cow: Path, dialect: Dialect | None) -> None:
    report = check(cow, access=Access(dialect=dialect))
    assert report.path == str(cow)


Action = Callable[[Path, Dialect | None], None]
ACTIONS: list[Action] = [read_through, read_through, merge_it, describe_it, check_it]


def judge(error: UmldiskError, cow: Path) -> None:
    """Tell whether the refusal is of the right kind and can be shown."""
    line = error.line()
    assert line.isprintable()
    assert line
    if isinstance(error, NoInputError):
        assert error.where is not None
        assert error.where != str(cow)
        assert not is_disk(error.where)
        return
    assert isinstance(error, DataError), f"exit {error.exit_code}: {line}"


def is_disk(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        mode = os.stat(path).st_mode
        return stat.S_ISREG(mode) or stat.S_ISBLK(mode)
    return False


def attempt(action: Action, cow: Path, dialect: Dialect | None) -> tuple[float, str]:
    """Do one thing with a COW file; return the processor time it took, and what came of it."""
    started = time.process_time()
    outcome = "done"
    try:
        action(cow, dialect)
    except UmldiskError as error:
        judge(error, cow)
        outcome = type(error).__name__
    return time.process_time() - started, outcome


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_hundred_thousand_mutated_headers(share: int, memory: Path) -> None:
    mutator = Mutator(20_260_000 + share, write_valid(memory))
    cow = memory / "cow"
    before = fingerprints(memory)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    fd = os.open(cow, os.O_RDWR)
    for action in ACTIONS:
        action(cow, Dialect.V3_64)  # the last one written is whole; what is imported here costs no time later
    for number in range(MUTATED_HEADERS // SHARES):
        dialect, raw = mutator.next()
        os.ftruncate(fd, 0)
        os.pwrite(fd, raw, 0)
        action = ACTIONS[number % len(ACTIONS)]
        wanted = dialect if number % 7 == 0 else None
        try:
            seconds, outcome = attempt(action, cow, wanted)
            for _ in range(2):  # other processes disturb the measurement
                if seconds > SECONDS:
                    seconds, outcome = attempt(action, cow, wanted)
        except Exception as error:
            error.add_note(f"mutation {number} of share {share}, meant as {dialect.value}, by {action.__name__}")
            raise
        outcomes[outcome] += 1
        slowest = max(slowest, seconds)
        assert os.pread(fd, len(raw) + 1, 0) == raw
    os.close(fd)
    assert slowest < SECONDS
    assert {name: value for name, value in fingerprints(memory).items() if name != "cow"} == {"base": before["base"]}
    # All kinds of outcome are met, or the mutations were too tame or too wild.
    assert min(outcomes["done"], outcomes["DataError"], outcomes["NoInputError"]) > MUTATED_HEADERS // SHARES // 100
