"""Directories as descriptors: never through a symlink, whatever the umask, trees of any shape removed."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.faults import NOBODY, without_rights
from tests.kit.peers import needs
from tests.kit.things import fifo, unix_socket
from umldisk.errors import CannotCreateError, StorageError
from umldisk.system.swapping import Directory, Standing, make_directories, open_directory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with open_directory(str(tmp_path)) as opened:
        yield opened


@pytest.fixture
def no_permissions() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("no_permissions")
def test_a_made_directory_is_for_us_alone_whatever_the_umask(directory: Directory, tmp_path: Path) -> None:
    with directory.make("new") as made:
        assert (made.path, made.names()) == (str(tmp_path / "new"), [])
    assert _mode(tmp_path / "new") == 0o700


@needs("root")
@pytest.mark.usefixtures("no_permissions")
def test_an_ordinary_user_needs_no_umask_either(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o700)
    opened = open_directory(str(tmp_path))  # the directories above it are closed to others
    with opened, without_rights(), opened.make("new") as made, made.make("inner"):
        opened.clear("new")
        assert opened.names() == []


def test_an_acl_that_is_there_stays_and_is_not_handed_down(directory: Directory, tmp_path: Path) -> None:
    name = "system.posix_acl_default"
    assert directory.make_new_files_private()
    mine = os.getxattr(tmp_path, name)
    assert directory.make_new_files_private()
    (tmp_path / "file").touch(mode=0o666)
    assert _mode(tmp_path / "file") == 0o600
    with directory.make("new") as made:
        assert os.listxattr(made.fd) == []
    assert os.getxattr(tmp_path, name) == mine
    directory.forget_default_acl()
    directory.forget_default_acl()
    assert os.listxattr(tmp_path) == []


def test_what_is_there_is_not_made_again(directory: Directory, tmp_path: Path) -> None:
    for name in ("file", "link", "directory"):
        {"file": Path.touch, "directory": Path.mkdir, "link": lambda path: path.symlink_to("/tmp")}[name](
            tmp_path / name
        )
        with pytest.raises(CannotCreateError, match="File exists"):
            directory.make(name)


@pytest.mark.usefixtures("no_permissions")
@pytest.mark.parametrize("at_least", [0o700, 0o711])
def test_missing_parents_are_made_passable(tmp_path: Path, at_least: int) -> None:
    make_directories(str(tmp_path / "site" / "guests" / "x"), parents_at_least=at_least)
    modes = [_mode(tmp_path / place) for place in ("site", "site/guests", "site/guests/x")]
    assert modes == [at_least, at_least, 0o700]


def test_parents_that_exist_keep_their_modes(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o750)
    (tmp_path / "site").chmod(0o750)
    make_directories(str(tmp_path / "site" / "x"), parents_at_least=0o711)
    make_directories(str(tmp_path / "site" / "x"), parents_at_least=0o711)
    assert _mode(tmp_path / "site") == 0o750


@pytest.mark.parametrize("way", ["file", "dangling"])
def test_a_way_that_leads_nowhere_is_refused(tmp_path: Path, way: str) -> None:
    if way == "file":
        (tmp_path / way).touch()
    else:
        (tmp_path / way).symlink_to("nowhere")
    with pytest.raises(CannotCreateError, match="cannot create"):
        make_directories(str(tmp_path / way / "guests" / "x"), parents_at_least=0o711)


def test_nothing_is_done_through_a_symlink(directory: Directory, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file_link").symlink_to(outside / "file")
    assert not directory.has_directory("link")
    with pytest.raises(StorageError):
        directory.open("link")
    with pytest.raises(StorageError):
        directory.dress("file_link", Standing(0o777))
    directory.clear("link")
    directory.clear("file_link")
    assert directory.names() == ["outside"]
    assert (outside / "file").read_text() == "kept"
    assert _mode(outside / "file") != 0o777


def test_a_moved_file_keeps_its_times_and_replaces_another(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    os.utime(tmp_path / "old", ns=(1, 987654321))
    with directory.make("to") as to:
        (tmp_path / "to" / "new").write_text("replaced")
        directory.move("old", to, "new")
        assert (to.names(), directory.names()) == (["new"], ["to"])
    assert (tmp_path / "to" / "new").stat().st_mtime_ns == 987654321
    with pytest.raises(StorageError, match="cannot move: No such file"):
        directory.move("old", directory, "x")


def test_it_is_the_same_directory_when_its_path_leads_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with open_directory(str(tmp_path / "here")) as directory:
        (tmp_path / "here").rename(tmp_path / "moved")
        (tmp_path / "here").symlink_to("/etc")
        directory.make("new").__exit__(None, None, None)
        directory.sync()
    assert os.listdir(tmp_path / "moved") == ["new"]


@needs("root")
def test_a_dressed_file_has_owner_and_mode(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "disk").touch(mode=0o600)
    directory.dress("disk", Standing(0o440, 4001, 4002))
    status = (tmp_path / "disk").stat()
    assert Standing.of(status) == Standing(0o440, 4001, 4002)
    directory.dress("disk", Standing(0o600))
    assert Standing.of((tmp_path / "disk").stat()) == Standing(0o600, 4001, 4002)
    directory.give(Standing(0o711, 4001))
    assert directory.standing == Standing(0o711, 4001, tmp_path.parent.stat().st_gid)


def test_only_a_file_of_its_own_is_dressed(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch(mode=0o600)
    os.link(tmp_path / "elsewhere", tmp_path / "linked")
    (tmp_path / "directory").mkdir()
    fifo(tmp_path / "fifo")
    for name in ("linked", "directory", "fifo"):
        with pytest.raises(StorageError, match="not a file of its own"):
            directory.dress(name, Standing(0o644))
    assert _mode(tmp_path / "elsewhere") == 0o600


_NAMES = st.sampled_from(["a", "b", "-rf", "new\nline", "*", os.fsdecode(b"\xff")])
_TREES = st.recursive(
    st.sampled_from(["file", "link", "fifo", "socket"]),
    lambda inner: st.tuples(st.sampled_from([0o700, 0, 0o400, 0o300]), st.dictionaries(_NAMES, inner, max_size=4)),
    max_leaves=12,
)


def _grow(path: Path, tree: object) -> None:
    if isinstance(tree, tuple):
        path.mkdir()
        for name, inner in tree[1].items():
            _grow(path / name, inner)
        path.chmod(tree[0])
    elif tree == "socket":
        unix_socket(path)
    else:
        {"file": Path.touch, "link": lambda path: path.symlink_to("/etc"), "fifo": fifo}[str(tree)](path)


@needs("root")
@given(tree=_TREES)
def test_a_tree_of_any_shape_is_removed_by_its_ordinary_owner(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    top = tmp_path_factory.mktemp("t")
    os.chown(top, NOBODY, NOBODY)
    with open_directory(str(top)) as directory:
        before = os.getcwd()
        os.chdir(top)  # reached by relative paths, because the directories above are closed to others
        try:
            with without_rights():
                _grow(Path("tree"), tree)
                directory.clear("tree")
        finally:
            os.chdir(before)
        assert directory.names() == []


def test_a_deep_tree_is_removed_with_few_descriptors(directory: Directory, tmp_path: Path) -> None:
    deep = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
            os.mkdir("e")
            open("f", "x").close()
    """
    (tmp_path / "tree").mkdir()
    subprocess.run([sys.executable, "-c", deep, str(tmp_path / "tree")], check=True)
    directory.clear("tree")
    assert directory.names() == []
    directory.clear("tree")  # nothing there is nothing to do
