"""A scene for rebasing: a COW file, what it stands on, and what it shall stand on."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.kit import model
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access, CowFile

PAGES = 12
SIZE = PAGES * 4096
OLD_MTIME, NEW_MTIME = 1_000_000_000, 1_100_000_000
CHANGED = {*range(8, 16), 17, 40, 41}
"""Page 1 is all changed, 2 and 5 are mixed."""


def patterned(mark: bytes = b"old") -> bytes:
    return b"".join((b"%s%05d" % (mark, n)) * 64 for n in range(SIZE // 512))


def with_pages(image: bytes, other: bytes, pages: set[int]) -> bytes:
    """Return the image with some pages taken from another."""
    parts = (other if page in pages else image for page in range(PAGES))
    return b"".join(part[page * 4096 :][:4096] for page, part in enumerate(parts))


@dataclass
class Scene:
    """A COW file over OLD, and NEW, which differs from OLD in pages 0, 1, 2 and 9."""

    cow: Path
    old: Path
    new: Path
    view: bytes
    dialect: Dialect = Dialect.V3

    @classmethod
    def set_up(cls, directory: Path, dialect: Dialect = Dialect.V3) -> "Scene":
        base = patterned()
        changes = {n: b"C%07d" % n * 64 for n in CHANGED}
        old = model.write_image(directory / "old", base)
        contents = with_pages(base, patterned(b"new"), {0, 1, 2, 9})
        new = model.write_image(directory / "new", contents)
        os.utime(old, (OLD_MTIME, OLD_MTIME))
        os.utime(new, (NEW_MTIME, NEW_MTIME))
        model.write_cow(directory / "cow", old, changes, dialect=dialect)
        return cls(directory / "cow", old, new, model.merged(base, changes), dialect)

    @property
    def kept(self) -> set[int]:
        """The changed sectors once pages 0, 2 and 9 of OLD are kept."""
        return CHANGED | model.sectors_of({0, 2, 9}, SIZE)

    def changed(self) -> set[int]:
        return set(model.read_cow(self.cow, self.dialect)[1])

    def assert_complete(self) -> None:
        """Check that the COW file stands on NEW, shows what it did, and nothing is left over."""
        header, changes = model.read_cow(self.cow, self.dialect)
        assert (header.backing_path, header.mtime) == (os.fsencode(self.new), NEW_MTIME)
        assert set(changes) == self.kept
        assert model.merged(self.new.read_bytes(), changes) == self.view
        assert seen(self.cow) == self.view
        assert journals.read(str(self.cow)) is None


def seen(cow: Path, access: Access | None = None) -> bytes:
    with CowFile.open(cow, access=access) as disk:
        return disk.read(0, disk.size_bytes)
