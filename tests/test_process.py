"""Running other programs: found first, isolated, and their last words kept."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.interruptions import Interrupted
from umldisk.errors import NoInputError, StorageError
from umldisk.system.locks import try_lock
from umldisk.system.process import DISCARD, find_program, run

WAIT_SECONDS = 60


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


def test_its_stdout_goes_to_a_descriptor_at_the_place_where_that_stands(program: Path, tmp_path: Path) -> None:
    name = script(program, "echo out; echo err >&2")
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before ")
        file.flush()
        done = run([name], stdout=file.fileno())
        file.write(b"after")
    assert (done.stdout, done.stderr) == (b"", b"err\n")
    assert (tmp_path / "out").read_bytes() == b"before out\nafter"


def test_stdout_can_be_discarded(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = run([script(program, "echo out; echo err >&2")], stdout=DISCARD)
    assert (done.stdout, done.stderr) == (b"", b"err\n")
    assert capfd.readouterr() == ("", "")


def test_a_failure_with_its_stdout_elsewhere_still_has_words(program: Path) -> None:
    with pytest.raises(StorageError, match="it said nothing"):
        run([script(program, "echo lost; exit 3")], stdout=DISCARD)
    with pytest.raises(StorageError, match="status 3: kept"):
        run([script(program, "echo lost; echo kept >&2; exit 3")], stdout=DISCARD)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    """Give a descriptor with an exclusive lock."""
    with (tmp_path / "lock").open("wb") as file:
        assert try_lock(file.fileno(), exclusive=True)
        yield file.fileno()


def lock_is_free(tmp_path: Path) -> bool:
    with (tmp_path / "lock").open("wb") as file:
        return try_lock(file.fileno(), exclusive=True)


def test_a_lock_lives_as_long_as_the_program_that_keeps_it(program: Path, tmp_path: Path) -> None:
    """The program leaves a child behind, as it would be left behind itself by our being killed."""
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "lock").open("wb") as file:
        assert try_lock(file.fileno(), exclusive=True)
        run([script(program, "sh -c 'read -r word <fifo' >/dev/null 2>&1 &")], cwd=tmp_path, kept_lock=file.fileno())
    assert not lock_is_free(tmp_path)
    with (tmp_path / "fifo").open("w") as fifo:
        fifo.write("end\n")
    deadline = time.monotonic() + WAIT_SECONDS
    while not lock_is_free(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lock_is_free(tmp_path)


INTERRUPT = "read -r line; kill -USR1 $PPID"
"""What a script interrupts us with, once we have given it a line: then `run` waits for it."""


def is_alive(pid_file: Path) -> bool:
    status = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.usefixtures("interrupting_signals")
def test_who_interrupts_us_kills_the_program(program: Path, tmp_path: Path) -> None:
    name = script(program, f'trap "" TERM; echo $$ >pid; {INTERRUPT}; while :; do sleep 0.1; done')
    with pytest.raises(Interrupted):
        run([name], stdin=b"go\n", cwd=tmp_path)
    assert not is_alive(tmp_path / "pid")


@pytest.mark.usefixtures("interrupting_signals")
def test_a_group_may_tidy_up_and_ends_with_its_children(program: Path, lock: int, tmp_path: Path) -> None:
    child = "sh -c 'trap \"\" TERM; echo $$ >child; while :; do sleep 0.1; done' &"
    wait = "until test -s child; do sleep 0.02; done"
    name = script(
        program, f'trap "echo tidy >tidied; exit 0" TERM; {child} {wait}; {INTERRUPT}; while :; do sleep 0.1; done'
    )
    with pytest.raises(Interrupted):
        run([name], stdin=b"go\n", cwd=tmp_path, kept_lock=lock)
    assert (tmp_path / "tidied").read_text() == "tidy\n"
    deadline = time.monotonic() + WAIT_SECONDS
    while is_alive(tmp_path / "child") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(tmp_path / "child")


@pytest.mark.usefixtures("interrupting_signals")
def test_a_group_that_does_not_end_is_killed(
    program: Path, lock: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("umldisk.system.process._TIDY_SECONDS", 0.2)
    name = script(program, f'trap "" TERM; echo $$ >pid; {INTERRUPT}; while :; do sleep 0.1; done')
    with pytest.raises(Interrupted):
        run([name], stdin=b"go\n", cwd=tmp_path, kept_lock=lock)
    assert not is_alive(tmp_path / "pid")


@pytest.mark.usefixtures("interrupting_signals")
def test_signals_to_its_own_group_do_not_reach_us(program: Path, lock: int) -> None:
    name = script(program, "trap '' USR1; kill -USR1 -$$; echo alive")
    assert run([name], kept_lock=lock).stdout == b"alive\n"


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
