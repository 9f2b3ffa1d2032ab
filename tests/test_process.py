"""Running other programs: found first, isolated, and their last words kept."""

import os
import stat
from pathlib import Path

import pytest

from umldisk.errors import NoInputError, StorageError
from umldisk.system.process import find_program, run


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a shell script of our own on the PATH; the test writes what it does."""
    path = tmp_path / "bin" / "umldisk-test-peer"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path.name


def test_what_it_wrote_and_how_it_ended(program: Path) -> None:
    done = run([script(program, "echo out; echo err >&2")])
    assert (done.argv, done.status, done.stdout, done.stderr) == ((program.name,), 0, b"out\n", b"err\n")


def test_arguments_pass_through_no_shell(program: Path) -> None:
    name = script(program, 'for word; do printf "<%s>" "$word"; done')
    assert run([name, "a b", "$HOME", "*", "", ";exit 3"]).stdout == b"<a b><$HOME><*><><;exit 3>"


def test_it_gets_its_stdin_and_no_terminal(program: Path) -> None:
    name = script(program, "cat; test ! -t 0 && test ! -t 1 && test ! -t 2")
    assert run([name], stdin=b"fed").stdout == b"fed"
    assert run([name]).stdout == b""


def test_the_locale_is_fixed_and_the_rest_of_the_environment_ours(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("OURS", "kept")
    name = script(program, 'echo "$LC_ALL $OURS $MORE"')
    assert run([name], environment={"MORE": "added"}).stdout == b"C kept added\n"


def test_it_runs_in_the_directory_it_is_told(program: Path, tmp_path: Path) -> None:
    assert run([script(program, "pwd -P")], cwd=tmp_path).stdout == os.fsencode(tmp_path.resolve()) + b"\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo first >&2; echo the disk is on fire >&2; exit 3", "status 3: the disk is on fire"),
        ("echo only on stdout; exit 4", "status 4: only on stdout"),
        ("exit 5", "status 5: it said nothing"),
        ("kill -9 $$", "status -9: it said nothing"),
        ("printf 'bell\\007\\377' >&2; exit 6", "status 6: bell\\x07"),
    ],
)
def test_a_failure_carries_the_last_words(program: Path, body: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        run([script(program, body)])
    assert words in caught.value.line()
    assert program.name in caught.value.line()
    assert caught.value.line().isprintable()


def test_a_status_that_is_accepted_is_no_failure(program: Path) -> None:
    name = script(program, "exit 1")
    assert run([name], accepted=(0, 1)).status == 1
    with pytest.raises(StorageError):
        run([name], accepted=(0, 2))


def test_a_missing_program_is_named_with_its_package() -> None:
    with pytest.raises(NoInputError, match="umldisk-no-such-program is not installed") as caught:
        run(["umldisk-no-such-program"], package="some-package")
    assert caught.value.hint == "apt-get install some-package"
    with pytest.raises(NoInputError) as caught:
        find_program("umldisk-no-such-program")
    assert caught.value.hint is None


def test_system_directories_are_searched_though_not_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = find_program("mke2fs", package="e2fsprogs")
    assert Path(found).parent in {Path("/sbin"), Path("/usr/sbin"), Path("/usr/local/sbin")}
