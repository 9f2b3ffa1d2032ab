"""A directory of small disks, and commands on it that have to be refused."""

import re
from pathlib import Path

from tests.kit import model
from tests.reliability.scenes import BASE, CHANGES, OTHER, run

ERROR = re.compile(r"umldisk: error: [^\n]+\n(hint: [^\n]+\n)?")
DATA, NO_INPUT, CANNOT_CREATE = 65, 66, 73


def make_disks(directory: Path) -> None:
    """Make one of each: base, other, cow, and chain, a COW file over cow."""
    model.write_image(directory / "base", BASE)
    model.write_image(directory / "other", OTHER)
    model.write_cow(directory / "cow", directory / "base", CHANGES)
    model.write_cow(directory / "chain", directory / "cow", {}, size_bytes=len(BASE))


Snapshot = dict[str, tuple[int, int, int, int]]


def snapshot(directory: Path) -> Snapshot:
    """Return what there is, with times of change, without opening anything."""
    found = {path: path.lstat() for path in directory.rglob("*")}
    return {str(path): (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ino) for path, s in found.items()}


def words_of(template: str, directory: Path, argument: str = "") -> list[str]:
    """Return the words of a command: names after @ are in the directory, X is the argument in question."""
    words = template.split()
    return [argument if word == "X" else str(directory / word[1:]) if word[0] == "@" else word for word in words]


def refused(words: list[str], directory: Path, code: int) -> str:
    """Run a command that must be refused with this code, in one line, and must leave everything as it is."""
    before = snapshot(directory)
    found, out, said = run(words)
    assert found == code, said or out
    assert ERROR.fullmatch(said), said
    assert not out
    assert snapshot(directory) == before
    return said
