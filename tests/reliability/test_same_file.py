"""One file in two places, and files that may not be touched: refused, whatever name they go by."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.faults import without_rights
from tests.kit.peers import needs
from tests.reliability.arguments import CANNOT_CREATE, DATA, ERROR, NO_INPUT, make_disks, refused, snapshot, words_of
from tests.reliability.scenes import run

pytestmark = pytest.mark.timeout(5)


@pytest.fixture
def directory(memory: Path) -> Path:
    """Return a directory with the disks that all commands here are about."""
    make_disks(memory)
    return memory


SAME = [
    ("merge --force @cow X", "cow"),
    ("merge --force @cow X", "base"),
    ("merge @cow X", "base"),
    ("merge --dry-run --force @cow X", "base"),
    ("merge --force @chain X", "chain"),
    ("merge --force @chain X", "cow"),
    ("merge --force @chain X", "base"),
    ("merge --force -b @other @cow X", "other"),
    ("create --force X @base", "base"),
    ("create X @base", "base"),
    ("diff --force @base @other X", "base"),
    ("diff --force @base @other X", "other"),
    ("diff @base @other X", "other"),
    ("diff --force @base @cow X", "cow"),
    ("diff --force @other @cow X", "base"),
    ("diff --force @other @chain X", "base"),
    ("merge -b X @cow @new", "cow"),
    ("merge -d -b X @cow", "cow"),
    ("align -b X @cow", "cow"),
    ("rebase @cow X", "cow"),
    ("rebase -u @cow X", "cow"),
    ("rebase -u @cow X", "chain"),
    ("rebase @cow X", "chain"),
]


def same_path(directory: Path, name: str) -> str:
    return str(directory / name)


def other_path(directory: Path, name: str) -> str:
    (directory / "below").mkdir()
    return str(directory / "below" / ".." / name)


def symlinked(directory: Path, name: str) -> str:
    (directory / "link").symlink_to(name)
    return str(directory / "link")


def hard_linked(directory: Path, name: str) -> str:
    (directory / "link").hardlink_to(directory / name)
    return str(directory / "link")


@pytest.mark.parametrize("naming", [same_path, other_path, symlinked, hard_linked])
@pytest.mark.parametrize(("template", "name"), SAME, ids=[f"{words}-{name}" for words, name in SAME])
def test_one_file_in_two_places_is_refused(
    template: str, name: str, naming: Callable[[Path, str], str], directory: Path
) -> None:
    refused(words_of(template, directory, naming(directory, name)), directory, DATA)


@pytest.mark.parametrize("name", ["cow", "base"])
@pytest.mark.parametrize("how", ["r+b", "ab"])
def test_an_input_as_standard_output_is_refused(
    name: str, how: str, directory: Path, bare_environment: dict[str, str]
) -> None:
    before = snapshot(directory)
    with (directory / name).open(how) as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "umldisk", "merge", str(directory / "cow"), "-"],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**bare_environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    assert done.returncode == DATA
    assert ERROR.fullmatch(done.stderr), done.stderr
    assert snapshot(directory) == before


@pytest.mark.parametrize("template", ["merge X @new", "merge -d X", "align X", "rebase X @other", "diff @base X @new"])
def test_a_cow_file_that_stands_on_itself_is_refused(template: str, directory: Path) -> None:
    ring = directory / "ring"
    ring.write_bytes((directory / "cow").read_bytes())
    with ring.open("r+b") as file:
        file.seek(32)
        file.write(os.fsencode(ring) + b"\0")
    refused(words_of(template, directory, str(ring)), directory, DATA)
    code, out, said = run(["check", str(ring)])
    assert (code, said) == (1, "")
    assert "backing-loop" in out
    code, out, said = run(["info", str(ring)])
    assert (code, said) == (0, "")
    assert "loop" in out


# -- rights ---------------------------------------------------------------------------------------


def as_nobody(template: str, directory: Path, argument: str = "") -> tuple[int, str, str]:
    """Run a command without root's rights, after a rehearsal with them that imports all it needs."""
    rehearsal = directory / "rehearsal"
    (rehearsal / "open").mkdir(parents=True)
    make_disks(rehearsal)
    assert run(words_of(template, rehearsal, str(rehearsal / "cow")))[0] in (0, 1, DATA, CANNOT_CREATE)
    shutil.rmtree(rehearsal)
    with without_rights():
        return run(words_of(template, directory, argument))


FORBIDDEN = [
    ("info X", 0o000, NO_INPUT),
    ("check X", 0o000, NO_INPUT),
    ("map X", 0o000, NO_INPUT),
    ("merge X @open/new", 0o000, NO_INPUT),
    ("merge -d X", 0o000, NO_INPUT),
    ("merge -d X", 0o444, NO_INPUT),
    ("align X", 0o444, NO_INPUT),
    ("rebase X @other", 0o444, NO_INPUT),
    ("rebase -u X @other", 0o444, NO_INPUT),
    ("create @open/new X", 0o000, NO_INPUT),
    ("diff @base X @open/new", 0o000, NO_INPUT),
    ("merge X @new", 0o444, CANNOT_CREATE),
    ("merge --force X @other", 0o444, CANNOT_CREATE),
    ("diff @base X @new", 0o444, CANNOT_CREATE),
]


@needs("root")
@pytest.mark.parametrize(("template", "mode", "code"), FORBIDDEN)
def test_what_may_not_be_opened_or_made_is_refused(template: str, mode: int, code: int, directory: Path) -> None:
    for place, rights in ((directory, 0o755), (directory / "open", 0o777)):
        place.mkdir(exist_ok=True)
        place.chmod(rights)
    (directory / "cow").chmod(mode)
    before = snapshot(directory / "open") | {"cow": (directory / "cow").read_bytes()}
    found, out, said = as_nobody(template, directory, str(directory / "cow"))
    assert (found, out) == (code, ""), said
    assert ERROR.fullmatch(said), said
    assert "Permission denied" in said
    assert before == snapshot(directory / "open") | {"cow": (directory / "cow").read_bytes()}
    assert {path.name for path in directory.iterdir()} == {"base", "other", "cow", "chain", "open"}


@needs("root")
def test_create_in_a_directory_of_others_is_refused(directory: Path) -> None:
    directory.chmod(0o755)
    found, _out, said = as_nobody("create @new @base", directory)
    assert found == CANNOT_CREATE, said
    assert "Permission denied" in said


@needs("tmpfs", "root")
@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("merge @cow @new", CANNOT_CREATE),
        ("create @new @base", CANNOT_CREATE),
        ("diff @base @other @new", CANNOT_CREATE),
        ("merge -d @cow", 74),
        ("align @cow", 74),
        ("rebase -u @cow @other", 74),
    ],
)
def test_a_file_system_that_is_mounted_read_only_stays_as_it_is(
    template: str, code: int, directory: Path, tmp_path: Path
) -> None:
    with read_only(directory, tmp_path) as place:
        assert "Read-only file system" in refused(words_of(template, place), place, code)
        for look in ("info @cow", "check @cow", "map @cow"):
            assert run(words_of(look, place))[0] in (0, 1)


@contextlib.contextmanager
def read_only(directory: Path, tmp_path: Path) -> Iterator[Path]:
    """Mount a directory once more in a place where its files lie too, without the right to write."""
    subprocess.run(["mount", "--bind", str(directory), str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path)], check=True)
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
