"""Arguments that are no disks, or no places for one: refused at once, with the right exit code, nothing touched."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.faults import umldisk
from tests.kit.things import dangling, fifo, symlink_loop, unix_socket
from tests.reliability.arguments import CANNOT_CREATE, ERROR, NO_INPUT, make_disks, refused, snapshot, words_of
from tests.reliability.scenes import run

pytestmark = pytest.mark.timeout(5)


@pytest.fixture
def directory(memory: Path) -> Path:
    """Return a directory with the disks that all commands here are about."""
    make_disks(memory)
    return memory


# -- inputs ---------------------------------------------------------------------------------------

INPUTS = [
    "info X",
    "check X",
    "map X",
    "map --plot X",
    "merge X @new",
    "merge --force X @other",
    "merge --dry-run X @new",
    "merge -b X @cow @new",
    "merge -d X",
    "merge -d --dry-run X",
    "merge -d -b X @cow",
    "align X",
    "align -b X @cow",
    "rebase X @other",
    "rebase @cow X",
    "rebase -b X @cow @other",
    "rebase -u X @other",
    "rebase -u @cow X",
    "create @new X",
    "create --force @other X",
    "create --dry-run @new X",
    "diff X @other @new",
    "diff @base X @new",
    "diff --dry-run @base X @new",
]


NO_DISKS: dict[str, Callable[[Path], str]] = {
    "missing": str,
    "below-a-file": lambda path: str(path.parent / "base" / "x"),
    "name-too-long": lambda path: str(path.parent / ("x" * 300)),
    "empty": lambda _path: "",
    "directory": lambda path: str(path.parent),
    "fifo": fifo,
    "socket": unix_socket,
    "zero": lambda _path: "/dev/zero",
    "null": lambda _path: "/dev/null",
    "loop": symlink_loop,
    "dangling": dangling,
    "control-characters": lambda path: f"{path}\x1b[2J\r\n\x07",
    "no-text": lambda path: f"{path}\udcff\udcfe",
}


@pytest.mark.parametrize("kind", NO_DISKS)
@pytest.mark.parametrize("template", INPUTS)
def test_an_input_that_is_no_disk_is_refused(template: str, kind: str, directory: Path) -> None:
    argument = NO_DISKS[kind](directory / "thing")
    said = refused(words_of(template, directory, argument), directory, NO_INPUT)
    assert said.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize("kind", NO_DISKS)
def test_another_backing_file_that_is_no_disk_is_a_finding(command: str, kind: str, directory: Path) -> None:
    argument = NO_DISKS[kind](directory / "thing")
    before = snapshot(directory)
    code, out, said = run([command, "-b", argument, str(directory / "cow")])
    assert (code, said) == (0 if command == "info" else 1, "")
    assert "missing" in out
    assert snapshot(directory) == before


@pytest.mark.parametrize(
    "template",
    ["info X", "merge X @new", "merge X -", "merge -d X", "create @new X", "diff @base X @new", "merge @cow X"],
)
def test_a_fifo_blocks_no_process(template: str, directory: Path, bare_environment: dict[str, str]) -> None:
    words = words_of(template, directory, fifo(directory / "fifo"))
    done = umldisk(*words, environment=bare_environment, timeout_seconds=5)
    assert done.returncode == (CANNOT_CREATE if template.endswith("@cow X") else NO_INPUT)
    assert ERROR.fullmatch(done.stderr), done.stderr


# -- outputs --------------------------------------------------------------------------------------

OUTPUTS = ["merge @cow X", "merge --no-sparse --no-sync @cow X", "create X @base", "diff @base @other X"]


def existing(path: Path) -> str:
    path.write_bytes(b"precious")
    return str(path)


NO_OUTPUTS: dict[str, Callable[[Path], str]] = {
    "in-a-missing-directory": lambda path: str(path / "new"),
    "below-a-file": lambda path: str(path.parent / "base" / "new"),
    "name-too-long": lambda path: str(path.parent / ("x" * 300)),
    "empty": lambda _path: "",
    "directory": lambda path: str(path.parent),
    "fifo": fifo,
    "socket": unix_socket,
    "zero": lambda _path: "/dev/zero",
    "null": lambda _path: "/dev/null",
    "loop": symlink_loop,
}


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("kind", NO_OUTPUTS)
@pytest.mark.parametrize("template", OUTPUTS)
def test_an_output_that_cannot_be_made_is_refused(template: str, kind: str, force: bool, directory: Path) -> None:
    words = words_of(template, directory, NO_OUTPUTS[kind](directory / "thing"))
    refused([words[0], *(["--force"] if force else []), *words[1:]], directory, CANNOT_CREATE)


@pytest.mark.parametrize(
    "template", [*OUTPUTS, "merge --dry-run @cow X", "create -n X @base", "diff -n @base @other X"]
)
def test_an_existing_output_is_not_replaced_unasked(template: str, directory: Path) -> None:
    said = refused(words_of(template, directory, existing(directory / "thing")), directory, CANNOT_CREATE)
    assert "--force" in said


def test_a_site_that_is_no_directory_is_refused(directory: Path) -> None:
    for site in (fifo(directory / "fifo"), str(directory / "base"), symlink_loop(directory / "loop"), "/dev/null"):
        before = snapshot(directory)
        code, _out, said = run(["--site", site, "build", "vm"])
        assert code in (NO_INPUT, CANNOT_CREATE), said
        assert ERROR.fullmatch(said), said
        assert snapshot(directory) == before
