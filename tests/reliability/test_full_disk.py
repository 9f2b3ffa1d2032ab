"""A file system that is really full: an error, no partial output, and once there is room the same command completes."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import model
from tests.kit.peers import mounted, needs
from tests.reliability.scenes import SCENES, Scene, fingerprints, run, view_of

PAGE = 4096
MIB = 1 << 20
_ERROR = re.compile(r"umldisk: error: [^\n]*No space left on device[^\n]*\n(hint: [^\n]+\n)?")


def fill(directory: Path, *, but_bytes: int) -> Path:
    """Fill a file system up to a few bytes with a file whose last part is given back."""
    filler = directory / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        length = 0
        for step in (MIB, PAGE):
            with contextlib.suppress(OSError):
                for _ in itertools.count():
                    os.posix_fallocate(fd, length, step)
                    length += step
        os.fsync(fd)
        os.ftruncate(fd, max(0, length - but_bytes))
        os.fsync(fd)
    finally:
        os.close(fd)
    return filler


@pytest.fixture(scope="module")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that is full to the page."""
    with mounted("tmpfs", tmp_path_factory.mktemp("full"), size_bytes=MIB) as point:
        yield point


@needs("tmpfs")
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_however_full_it_is_nothing_is_lost_and_the_same_command_completes_later(scene: Scene, tmpfs: Path) -> None:
    codes = []
    for free_pages in range(64):
        directory = tmpfs / "scene"
        scene.prepare(directory)
        before = fingerprints(directory)
        filler = fill(tmpfs, but_bytes=free_pages * PAGE)
        code, _out, said = run(scene.command(directory))
        filler.unlink()
        codes.append(code)
        try:
            if code == 0:
                scene.check_done(directory)
            else:
                assert code == 74, said
                assert _ERROR.fullmatch(said), said
                assert set(fingerprints(directory)) - set(before) <= {"base.umldisk-journal", "cow.umldisk-journal"}
                scene.check_between(directory, before)
                scene.run_again(directory)
        except AssertionError as error:
            error.add_note(f"with {free_pages} pages free: {said}")
            raise
        finally:
            shutil.rmtree(directory)
        if code == 0:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) == {74}


# -- a file system on a disk ----------------------------------------------------------------------

BASE = b"\0" * MIB + b"base" * (MIB // 4)
CHANGES: dict[int, bytes | None] = {
    **dict.fromkeys(range(0, 2048, 2), b"changed " * 64),
    **dict.fromkeys(range(2048, 4096, 2)),
}
VIEW = model.merged(BASE, CHANGES)


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted("ext4", tmp_path_factory.mktemp("full")) as point:
        yield point


def check_aligned(directory: Path) -> None:
    _header, changes = model.read_cow(directory / "cow")
    assert changes.keys() == set(range(4096))


LARGER: dict[str, tuple[list[str], str | None, Callable[[Path], object]]] = {
    "merge": (["merge", "cow", "new"], "new", lambda d: (d / "new").read_bytes() == VIEW),
    "merge-no-sparse": (["merge", "--no-sparse", "cow", "new"], "new", lambda d: (d / "new").read_bytes() == VIEW),
    "merge-no-sync": (["merge", "--no-sync", "cow", "new"], "new", lambda d: (d / "new").read_bytes() == VIEW),
    "merge-in-place": (["merge", "-d", "cow"], None, lambda d: (d / "base").read_bytes() == VIEW),
    "merge-reset": (["merge", "-d", "--reset", "cow"], None, lambda d: (d / "base").read_bytes() == VIEW),
    "align": (["align", "cow"], None, check_aligned),
    "diff": (["diff", "base", "other", "new"], "new", lambda d: view_of(d / "new") == (d / "other").read_bytes()),
}


def prepare(directory: Path) -> None:
    """Write images of 2 MiB, the first half of base a hole, and a COW file with the second half of its data one."""
    directory.mkdir()
    model.write_image(directory / "base", BASE)
    model.write_image(directory / "other", b"other page".ljust(PAGE, b".") * (len(BASE) // PAGE))
    model.write_cow(directory / "cow", directory / "base", CHANGES)
    for name in ("base", "cow", "other"):
        fd = os.open(directory / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


@needs("ext4")
@pytest.mark.parametrize("free_bytes", [0, 256 * 1024], ids=["full", "nearly-full"])
@pytest.mark.parametrize("name", LARGER)
def test_no_partial_output_and_once_there_is_room_the_same_command_completes(
    name: str, free_bytes: int, ext4: Path
) -> None:
    words, output, is_right = LARGER[name]
    directory = ext4 / f"{name}-{free_bytes}"
    prepare(directory)
    command = [words[0], *(str(directory / word) if word.isalpha() else word for word in words[1:])]
    filler = fill(ext4, but_bytes=free_bytes)
    code, _out, said = run(command)
    filler.unlink()
    assert code == 74, said
    assert _ERROR.fullmatch(said), said
    assert output is None or not (directory / output).exists()
    assert not [path.name for path in directory.iterdir() if path.name.startswith(".")]
    assert view_of(directory / "cow") == VIEW
    code, _out, said = run(command)
    assert code == 0, said
    assert is_right(directory) is not False
    assert view_of(directory / "cow") == VIEW
    assert {path.name for path in directory.iterdir()} == {"base", "cow", "other"} | ({output} if output else set())
    shutil.rmtree(directory)


# -- the disks of a guest -------------------------------------------------------------------------


@needs("tmpfs", "mke2fs", "busybox")
def test_a_build_without_room_leaves_nothing_and_completes_when_there_is_some(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=MIB) as point:
        command = ["--site", str(point / "site"), "build", "vm"]
        code, _out, said = run(command)
        assert code == 74, said
        assert said.count("umldisk: error: ") == 1
        assert not [path for path in point.rglob("*_fs") if path.is_file()]
        subprocess.run(["mount", "-o", f"remount,size={64 * MIB}", str(point)], check=True)
        code, _out, said = run(command)
        assert code == 0, said
        made = sorted(path.name for path in point.rglob("*_fs"))
        assert made == ["home_fs", "root_fs", "swap_fs", "tmp_fs", "var_fs"]
        assert not [path for path in point.rglob("*") if "tree" in path.name or "building" in path.name]


@needs("tmpfs")
def test_the_disk_of_these_tests_is_really_full(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=MIB) as point:
        fill(point, but_bytes=0)
        with (point / "more").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space") as caught:
            file.write(b"x")
        assert caught.value.errno == errno.ENOSPC
