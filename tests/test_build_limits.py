"""What a drive cannot hold is refused by name, and only that; debugfs says what attributes it holds."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.kit.peers import needs
from tests.kit.rich_values import access_list
from umldisk.build import disks
from umldisk.build.attributes import attribute_script, run_script
from umldisk.build.disks import Workshop
from umldisk.build.limits import MOST_NAMES, MOST_SUBDIRECTORIES, require_lengths, require_writable
from umldisk.build.pool import Pool
from umldisk.build.scratch import Layout
from umldisk.build.split import split
from umldisk.build.tree import Entry, FileType, HardLink, Inode, directory, file, plant, symlink
from umldisk.config.guest import Guest
from umldisk.errors import DataError, StorageError
from umldisk.image.drives import DRIVES, HOME, ROOT, VAR, Content
from umldisk.image.mkfs import UNSAFE_PATH_BYTES

_UNLUCKY = "/" + "/".join(["d" * 254] * 7 + ["e" * (UNSAFE_PATH_BYTES - 7 * 255 - 1)])
_TIB = 1 << 40
_Attributes = tuple[tuple[str, bytes], ...]


def _with_attributes(xattrs: _Attributes) -> Entry:
    return Entry("/f", Inode(FileType.FILE, 0o644, xattrs=xattrs))


def _with_attribute(size_bytes: int) -> Entry:
    return _with_attributes((("user.a", bytes(size_bytes)),))


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


@pytest.mark.parametrize("entry", [file("/f", "x"), symlink("/f", "x")], ids=["file", "symlink"])
def test_a_file_of_very_many_names_is_refused_and_named(entry: Entry) -> None:
    tree = plant({}, [entry, *(HardLink(f"/d/{number}", "/f") for number in range(MOST_NAMES - 1))])
    require_writable(ROOT, tree)
    with pytest.raises(DataError, match="too many names") as refused:
        require_writable(HOME, plant(tree, [HardLink("/one-more", "/f")]))
    assert (refused.value.where, refused.value.found) == ("/home/f", MOST_NAMES + 1)


def test_names_on_different_drives_are_of_different_files() -> None:
    names = (f"/{place}/{number}" for place in ("home", "srv") for number in range(MOST_NAMES // 2 + 1))
    tree = plant({}, [file("/f", "x"), *(HardLink(name, "/f") for name in names)])
    for drive, share in split(tree, DRIVES).items():
        require_writable(drive, share)


@dataclass(frozen=True)
class _Long:
    """Contents that must not be read."""

    size_bytes: int
    pieces: Callable[[], object] = NotImplemented


@pytest.mark.parametrize(
    ("content", "most_bytes"),
    [(Content.EXT2, 2196873666560), (Content.EXT3, 2196873666560), (Content.EXT4, 16 * _TIB - 4096)],
)
def test_a_file_longer_than_a_drive_can_hold_is_refused(content: Content, most_bytes: int) -> None:
    var = replace(VAR, content=content)

    def entry(size_bytes: int) -> Entry:
        return Entry("/var/f", Inode(FileType.FILE, 0o644, contents=_Long(size_bytes)))  # type: ignore[arg-type]

    fitting, too_long = entry(most_bytes), entry(most_bytes + 1)
    assert list(require_lengths([fitting], (ROOT, var))) == [fitting]
    for drive, share in split(plant({}, [fitting]), (ROOT, var)).items():
        require_writable(drive, share)
    with pytest.raises(DataError, match=f"at most {most_bytes} bytes on the var drive") as early:
        list(require_lengths([too_long], (ROOT, var)))
    with pytest.raises(DataError, match="longer than its drive can hold") as late:
        require_writable(var, split(plant({}, [too_long]), (ROOT, var))[var])
    assert early.value.where == late.value.where == "/var/f"


@dataclass(frozen=True)
class _Disk:
    """A disk with the empty file /f, which has the inode `number`, and where copies of it can be made."""

    path: Path
    number: int
    workshop: Workshop

    def takes(self, entry: Entry) -> bool:
        """Whether debugfs gives /f all that the inode of `entry` has."""
        copy, values = self.path.with_name("copy"), Path(self.workshop.new_directory("values"))
        shutil.copyfile(self.path, copy)
        script = attribute_script({"/f": entry.inode}, {"/f": self.number}, str(values))
        failure = None
        try:
            run_script(str(copy), script, str(values), environment=self.workshop.environment)
        except StorageError as error:
            failure = error.what
        shutil.rmtree(values)
        disks.check(str(copy), self.workshop.environment)
        assert failure is None or "ea_set" in failure
        return failure is None


@pytest.fixture(scope="module", params=[Content.EXT2, Content.EXT4])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Disk:
    top = tmp_path_factory.mktemp("disk")
    share = plant({}, Pool(str(top / "pool")).take(iter([file("/f", "")])))
    workshop = Workshop.open(str(top), time_ns=10**18)
    Layout([share]).write(str(top / "tree"), share)
    drive, path = replace(VAR, size_bytes=8 << 20, content=request.param), str(top / "disk")
    disks.make_ext_disk(path, Guest("x", "/x"), drive, share, workshop=workshop, tree=str(top / "tree"))
    return _Disk(top / "disk", disks.read_inode_numbers(path)["/f"], workshop)


def _refused(entry: Entry) -> bool:
    refusal = None
    try:
        require_writable(VAR, plant({}, [entry]))
    except DataError as error:
        refusal = error.what, error.where
    assert refusal in (None, ("a file has more extended attributes than ext can hold", "/var/f"))
    return refusal is not None


@st.composite
def _attribute_sets(draw: st.DrawFn) -> _Attributes:
    """Give some attributes, the last of which fills the inode, the block or both more or less."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 20, 64, 68, 69, 1333, 2050]), max_size=4))
    room = draw(st.sampled_from([88, 4060, 4148])) - sum(24 + size for size in sizes)
    sizes.append(max(room - 24 + draw(st.integers(-12, 12)), 0))
    names = [f"user.{draw(st.sampled_from(['', 'b', 'bcde', 'bcdef']))}{number}" for number in range(len(sizes))]
    users = draw(st.none() | st.sampled_from([0, 1, 7, 8, 500, 510]))
    found = {name: b"x" * size for name, size in zip(names, draw(st.permutations(sizes)), strict=True)}
    if users is not None:
        found["system.posix_acl_access"] = access_list(
            7, [(1000 + number, 7) for number in range(users)], [(50, 5)], 5, 7, 4
        )
    return tuple(sorted(found.items()))


def _of_sizes(*sizes: int) -> _Attributes:
    return tuple((f"user.{number}", b"x" * size) for number, size in enumerate(sizes))


@needs("mke2fs", "debugfs", "e2fsck")
@settings(deadline=None, max_examples=60)
@given(xattrs=_attribute_sets())
@example(xattrs=_of_sizes(1333, 1333, 1333))
@example(xattrs=_of_sizes(2050, 2050))
@example(xattrs=_of_sizes(68, 4040))
@example(xattrs=_of_sizes(69, 4040))
@example(xattrs=_of_sizes(*[82] * 40))
def test_attributes_are_refused_just_when_debugfs_cannot_place_them(xattrs: _Attributes, disk: _Disk) -> None:
    entry = _with_attributes(xattrs)
    assert _refused(entry) != disk.takes(entry)
