"""What a drive cannot hold is refused by name, and only that."""

import pytest

from umldisk.build.limits import MOST_SUBDIRECTORIES, require_writable
from umldisk.build.tree import Entry, FileType, Inode, directory, file, plant, symlink
from umldisk.errors import DataError
from umldisk.image.drives import HOME, ROOT
from umldisk.image.mkfs import UNSAFE_PATH_BYTES

_UNLUCKY = "/" + "/".join(["d" * 254] * 7 + ["e" * (UNSAFE_PATH_BYTES - 7 * 255 - 1)])


def _with_attribute(size_bytes: int) -> Entry:
    return Entry("/f", Inode(FileType.FILE, 0o644, xattrs=(("user.a", bytes(size_bytes)),)))


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (file("/lost+found", ""), "lost.found"),
        (symlink("/lost+found", "x"), "lost.found"),
        (directory(_UNLUCKY), "mke2fs breaks"),
        (_with_attribute(20_000), "more extended attributes"),
    ],
)
def test_what_does_not_fit_is_refused(entry: Entry, what: str) -> None:
    with pytest.raises(DataError, match=what):
        require_writable(HOME, plant({}, [entry]))


@pytest.mark.parametrize(
    "entry", [directory("/lost+found"), directory(_UNLUCKY[:-1]), directory(_UNLUCKY + "x"), _with_attribute(3900)]
)
def test_what_fits_is_not(entry: Entry) -> None:
    require_writable(ROOT, plant({}, [entry]))


def test_a_directory_of_very_many_is_refused() -> None:
    tree = plant({}, (directory(f"/d/{number}") for number in range(MOST_SUBDIRECTORIES)))
    require_writable(ROOT, tree)
    with pytest.raises(DataError, match="too many directories") as refused:
        require_writable(HOME, plant(tree, [directory("/d/one-more")]))
    assert refused.value.where == "/home/d"
