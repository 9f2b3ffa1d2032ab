"""`umldisk-moo` and `umldisk-mkcow` beside the programs they stand for.

The same words go to both, in a directory of the same contents; exit status and files have to agree, except where the
old program is wrong in a way that no script can rely on. These cases are named here.
"""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit import oracle
from tests.kit.oracle import READ_BY_MOO, run_tool, sample
from tests.kit.peers import needs
from umldisk.cli import mkcow, moo
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile

Captured = pytest.CaptureFixture[str]
MTIME = 1_000_000_000
SEGMENTATION_FAULT = -11


class Outcome(NamedTuple):
    """What a program left: its status, whether it printed its usage, and every file in its directory."""

    status: int
    usage: bool
    files: dict[str, bytes]


def ours(module: str, *words: str, cwd: Path) -> Outcome:
    code = f"import sys; from umldisk.cli.{module} import main; sys.exit(main())"
    return outcome(sys.executable, "-c", code, *words, cwd=cwd)


def outcome(*argv: str, cwd: Path) -> Outcome:
    done = run_tool(*argv, cwd=cwd)
    files = {path.name: path.read_bytes() for path in cwd.iterdir() if path.is_file()}
    return Outcome(done.returncode, b"usage:" in done.stderr, files)


def fill(directory: Path) -> Path:
    """Make a disk: the COW file `cow` over the backing file `base`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    made = sample(directory, size_bytes=16384, changed={2, 3, 9}, cleared={9})
    made.cow.rename(directory / "cow")
    return directory


def combinations(words: Sequence[str], longest: int) -> Iterator[tuple[str, ...]]:
    for length in range(longest + 1):
        yield from itertools.product(words, repeat=length)


# -- umldisk-moo: what the words mean ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("cow new", moo.Request("cow", "new", None)),
        ("-d cow", moo.Request("cow", None, None)),
        ("-b base cow new", moo.Request("cow", "new", "base")),
        ("-d -b base cow", moo.Request("cow", None, "base")),
        ("-b base -d cow", moo.Request("cow", None, "base")),
        ("-b -d cow new", moo.Request("cow", "new", "-d")),
        ("-d -d", moo.Request("-d", None, None)),
        ("cow -d", moo.Request("cow", "-d", None)),
        ("-b b -b new", moo.Request("-b", "new", "b")),
        ("-- new", moo.Request("--", "new", None)),
        ("", None),
        ("cow", None),
        ("-h", None),
        ("-d", None),
        ("-b", None),
        ("-b base", None),
        ("-b base cow", None),
        ("-d cow new", None),
        ("cow new more", None),
        ("cow new -b base", None),
        ("-bbase cow new", None),
    ],
)
def test_words(words: str, request_: moo.Request | None) -> None:
    assert moo.parse(words.split()) == request_


@needs("uml_moo")
def test_all_short_command_lines_mean_what_they_mean_to_uml_moo(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of which neither is a file keep the old program from doing anything but understanding them.

    It then fails to open what it takes for the COW file, or prints its usage.
    """
    monkeypatch.chdir(tmp_path)
    for words in combinations(["-b", "-d", "x", "--"], 4):
        old = run_tool("uml_moo", *words, cwd=tmp_path)
        status = moo.main(words)
        usage = "usage:" in capsys.readouterr().err
        if words == ("-d",):  # it takes the end of the words for a file's name
            assert old.returncode == SEGMENTATION_FAULT
            assert usage
            continue
        assert (status, usage) == (old.returncode, b"usage:" in old.stderr), words
    assert list(tmp_path.iterdir()) == []


# -- umldisk-moo: what it does ----------------------------------------------------------------------------------------


@needs("uml_moo")
@pytest.mark.parametrize(
    "words",
    [
        "cow new",
        "cow existing",
        "-b v3.base cow new",
        "-b elsewhere cow new",
        "-d cow",
        "-d -b elsewhere cow",
        "cow -d",
        "cow -",
        "no-such-cow new",
        "v3.base new",
        "cow no-such-directory/new",
        "cow .",
        "-b no-such-base cow new",
        "-b other-size cow new",
        "-b other-time cow new",
        "-d no-such-cow",
    ],
)
def test_scripts_get_the_same_status_and_files(words: str, tmp_path: Path) -> None:
    outcomes = []
    for name in ("old", "new"):
        directory = fill(tmp_path / name)
        (directory / "existing").write_bytes(b"x" * 100_000)
        shutil.copy2(directory / "v3.base", directory / "elsewhere")
        shutil.copy2(directory / "v3.base", directory / "other-time")
        os.utime(directory / "other-time", (5, 5))
        (directory / "other-size").write_bytes(bytes(20480))
        split = words.split()
        run = outcome("uml_moo", *split, cwd=directory) if name == "old" else ours("moo", *split, cwd=directory)
        outcomes.append(run)
    old, new = outcomes
    if new.status == 0 and "-d" in words.split()[:1]:  # only ours makes the COW file fit the merged backing file
        old.files.pop("cow")
        new.files.pop("cow")
    if new.status and words.endswith("new"):
        old.files.pop("new", None)  # the old program leaves a beginning of it
    assert new == old


@needs("uml_moo")
@pytest.mark.parametrize("dialect", READ_BY_MOO)
@pytest.mark.parametrize("destructive", [False, True])
def test_every_dialect_gives_the_same_image(dialect: Dialect, destructive: bool, tmp_path: Path) -> None:
    images = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        files = sample(tmp_path / name, dialect, changed={1, 2, 17}, cleared={2})
        words = ["-d", files.cow.name] if destructive else [files.cow.name, "image"]
        run = (
            outcome("uml_moo", *words, cwd=files.cow.parent)
            if name == "old"
            else ours("moo", *words, cwd=files.cow.parent)
        )
        assert run.status == 0
        images.append(run.files[files.backing.name if destructive else "image"])
    assert images == [files.merged, files.merged]


def test_a_second_run_simply_works(tmp_path: Path, capsys: Captured) -> None:
    files = sample(tmp_path)
    for _run in range(3):
        assert moo.main(["-d", str(files.cow)]) == 0
        assert files.backing.read_bytes() == files.merged
        assert moo.main([str(files.cow), str(tmp_path / "new")]) == 0
        assert (tmp_path / "new").read_bytes() == files.merged
    assert capsys.readouterr() == ("", "")


def test_other_cow_files_go_on_working(tmp_path: Path) -> None:
    files = sample(tmp_path)
    old = files.backing.read_bytes()
    create(tmp_path / "sibling", files.backing)
    assert moo.main(["-d", str(files.cow)]) == 0
    assert files.backing.read_bytes() == files.merged
    with CowFile.open(tmp_path / "sibling") as sibling:
        assert sibling.read(0, len(old)) == old


def test_a_failure_is_told_on_stderr_and_is_status_1(tmp_path: Path, capsys: Captured) -> None:
    files = sample(tmp_path)
    assert moo.main([str(files.cow), str(files.backing)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("umldisk-moo: error: the output is one of the inputs")


# -- umldisk-mkcow ----------------------------------------------------------------------------------------------------


@needs("uml_mkcow")
def test_all_short_command_lines_mean_what_they_mean_to_uml_mkcow(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only `base` exists before each; a COW file over itself is what the old program alone makes."""
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    for words in combinations(["-f", "x", "base"], 3):
        base.write_bytes(bytes(4096))
        os.utime(base, (MTIME, MTIME))
        old = run_tool("uml_mkcow", *words, cwd=tmp_path)
        for path in tmp_path.iterdir():
            path.unlink()
        base.write_bytes(bytes(4096))
        os.utime(base, (MTIME, MTIME))
        status = mkcow.main(words)
        usage = "usage" in capsys.readouterr().err
        files = words[1:] if words[:1] == ("-f",) else words
        stands_on_itself = len(files) > 1 and files[0] == files[1]
        assert usage == (b"usage" in old.stderr), words
        assert status == (mkcow.FAILED if stands_on_itself else old.returncode), words
        for path in tmp_path.iterdir():
            path.unlink()


@needs("uml_mkcow")
def test_the_cow_file_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(1_000_000))
    oracle.mkcow(tmp_path / "old", tmp_path / "base")
    assert mkcow.main([str(tmp_path / "new"), str(tmp_path / "base")]) == 0
    old, new = (tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()
    path = os.fsencode(tmp_path / "base") + b"\0"
    end_of_path = 32 + len(path)
    assert old[32:end_of_path] == path
    # uml_mkcow does not clear what follows the path in its field
    assert (new[:end_of_path], new[4128:]) == (old[:end_of_path], old[4128:])


def test_force_gives_an_empty_cow(tmp_path: Path, capsys: Captured) -> None:
    files = sample(tmp_path)
    assert mkcow.main([str(files.cow), str(files.backing)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert mkcow.main(["-f", str(files.cow), str(files.backing)]) == 0
    with CowFile.open(files.cow) as cow:
        assert list(cow.runs()) == []
        assert cow.read(0, 16384) == files.backing.read_bytes()


@pytest.mark.parametrize("program", ["moo", "mkcow"])
def test_neither_imports_the_command_line_library(program: str, bare_environment: dict[str, str]) -> None:
    code = f"import sys; from umldisk.cli.{program} import main; main(['a', 'b']); print('click' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=bare_environment)
    assert done.stdout == "False\n"
