"""How the program begins and ends: its commands, its errors, its streams."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import umldisk
from tests.kit.oracle import run_umldisk, sample
from umldisk import errors
from umldisk.cli.failures import guarded
from umldisk.cli.group import COMMANDS, EXIT_CODES, group
from umldisk.cli.main import main

Captured = pytest.CaptureFixture[str]
UMLDISK = [sys.executable, "-m", "umldisk"]


def error_classes() -> list[type[errors.UmldiskError]]:
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.UmldiskError)]


# -- commands and help ------------------------------------------------------------------------------------------------


def test_version_by_the_short_way_and_by_the_group(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert main(["--debug", "--version"]) == 0
    assert capsys.readouterr().out == f"umldisk {umldisk.__version__}\n" * 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_one_and_has_help(name: str, capsys: Captured) -> None:
    module, _colon, attribute = COMMANDS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert main([name, "-h"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: umldisk {name} [OPTIONS]")
    assert "Example" in text


def test_help_lists_commands_and_exit_codes(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    commands, codes = text.partition("Commands:")[2].split("Exit codes:")
    assert [line.split()[0] for line in commands.splitlines() if line.strip()] == list(COMMANDS)
    assert [int(line.split()[0]) for line in codes.splitlines() if line.strip()] == list(EXIT_CODES)


def test_every_exit_code_of_an_error_is_in_the_table() -> None:
    assert {cls.exit_code for cls in error_classes()} | {errors.FINDINGS_EXIT_CODE} <= set(EXIT_CODES)


def test_listing_the_commands_imports_none(bare_environment: dict[str, str]) -> None:
    code = "import sys; from umldisk.cli.main import main; main(['-h']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare_environment
    )
    modules = {name for name in done.stderr.split() if name.startswith("umldisk.")}
    assert modules.isdisjoint({lazy.target.partition(":")[0] for lazy in COMMANDS.values()})
    assert "umldisk.cow.file" not in modules


# -- usage errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "missing command", "umldisk --help"),
        (["mrege"], "no such command 'mrege'", "umldisk --help"),
        (["--nope"], "no such option", "umldisk --help"),
        (["merge", "--nope"], "no such option", "umldisk merge --help"),
        (["merge"], "missing argument 'COW'", "umldisk merge --help"),
        (["create", "a"], "missing argument 'BACKING'", "umldisk create --help"),
        (["create", "a", "b", "c"], "got unexpected extra argument (c)", "umldisk create --help"),
        (["--site"], "option '--site' requires an argument", "umldisk --help"),
    ],
)
def test_usage_errors_look_like_all_errors(words: list[str], message: str, hint: str, capsys: Captured) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert first.startswith(f"umldisk: error: {message}")
    assert second == f"hint: {hint}"
    assert captured.out == ""


def test_an_unknown_dialect_is_told_the_known_ones(capsys: Captured) -> None:
    assert main(["create", "--dialect", "v9", "a", "b"]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert "'v9'" in first
    assert "v3-64" in first


# -- failures ---------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize("cls", error_classes())
def test_each_error_ends_with_its_code_in_one_line(cls: type[errors.UmldiskError], capsys: Captured) -> None:
    error = cls("it is so", where="/a/b", hint="do this")
    assert guarded("prog", raising(error)) == cls.exit_code
    assert capsys.readouterr() == ("", "prog: error: it is so (/a/b)\nhint: do this\n")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 74, "prog: error: No space left on device\n"),
        (OSError(errno.EIO, "bad", "/a"), 74, "prog: error: bad (/a)\n"),
        (OSError("nothing known"), 74, "prog: error: nothing known\n"),
        (OSError(), 74, "prog: error: OSError\n"),
        (MemoryError(), 70, "prog: error: this is a fault in prog: MemoryError\n"),
        (ZeroDivisionError("one\ntwo"), 70, "prog: error: this is a fault in prog: ZeroDivisionError: one\\ntwo\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(errno.EPIPE, "gone"), 141, ""),
    ],
)
def test_what_else_can_go_wrong(error: BaseException, code: int, text: str, capsys: Captured) -> None:
    assert guarded("prog", raising(error)) == code
    assert capsys.readouterr() == ("", text)


def test_a_fault_below_a_command_is_one_line_and_a_traceback_only_with_debug(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise IndexError("oops")

    monkeypatch.setattr(importlib.import_module("umldisk.cow.creating"), "create", broken)
    words = ["create", str(tmp_path / "cow"), str(tmp_path / "base")]
    assert main(words) == 70
    assert capsys.readouterr().err == "umldisk: error: this is a fault in umldisk: IndexError: oops\n"
    assert main(["--debug", *words]) == 70
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("\numldisk: error: this is a fault in umldisk: IndexError: oops\n")


def test_an_expected_failure_has_a_traceback_with_debug_only(tmp_path: Path, capsys: Captured) -> None:
    words = ["merge", str(tmp_path / "nothing"), str(tmp_path / "new")]
    assert main(words) == 66
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["--debug", *words]) == 66
    assert "NoInputError" in capsys.readouterr().err


class Unwritable(io.StringIO):
    """A stdout whose other end has a fault."""

    def __init__(self, fault: OSError) -> None:
        super().__init__()
        self.fault = fault

    def flush(self) -> None:
        raise self.fault


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            74,
            "prog: error: cannot write: No space left on device (standard output)\n",
        ),
        (BrokenPipeError(errno.EPIPE, "gone"), 141, ""),
    ],
)
def test_what_is_not_written_in_the_end_is_a_failure(
    fault: OSError, code: int, text: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Unwritable(fault))
    assert guarded("prog", lambda: 0) == code
    assert capsys.readouterr().err == text


# -- streams: processes of their own ----------------------------------------------------------------------------------


def test_a_name_that_is_no_text_prints_safely(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\x1b[31m\xc3\xa9\n"
    done = subprocess.run([*UMLDISK, "merge", name, "new"], capture_output=True, check=False)
    assert done.returncode == 66
    text = done.stderr.decode()
    assert "\\xff\\x1b[31mé\\n" in text
    assert text.count("\n") == 1
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*UMLDISK, "merge", name, "new"], capture_output=True, check=False, env=ascii_only)
    assert b"\\xff\\x1b[31m\\xe9\\n" in done.stderr


def test_json_keeps_a_name_that_is_no_text(tmp_path: Path) -> None:
    import json

    files = sample(tmp_path)
    name = os.fsencode(tmp_path) + b"/\xff\xfe new"
    done = run_umldisk("merge", "--json", files.cow, os.fsdecode(name))
    assert done.returncode == 0, done.stderr
    assert os.fsencode(json.loads(done.stdout)["output"]) == name
    assert Path(os.fsdecode(name)).read_bytes() == files.merged


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    files = sample(tmp_path)
    before = files.cow.read_bytes(), files.backing.read_bytes()
    command = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *UMLDISK, "merge", "--verify", files.cow, tmp_path / "new"],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new").read_bytes() == files.merged
    assert (files.cow.read_bytes(), files.backing.read_bytes()) == before


def test_a_full_device_as_stdout_is_a_failure_in_one_line(tmp_path: Path) -> None:
    files = sample(tmp_path)
    for words in (["--help"], ["merge", files.cow, tmp_path / "new"], ["merge", files.cow, "-"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run([*UMLDISK, *words], stdout=full, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 74
        assert done.stderr.startswith(b"umldisk: error: ")
        assert b"No space left on device" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_a_closed_stdout_takes_no_image(tmp_path: Path) -> None:
    files = sample(tmp_path)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *UMLDISK, "merge", files.cow, "-"]
    done = subprocess.run(command, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (74, b"umldisk: error: standard output is closed\n")


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=1 << 20)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        for words in (["merge", files.cow, "-"], ["--help"]):
            done = subprocess.run([*UMLDISK, *words], stdout=pipe, stderr=subprocess.PIPE, check=False)
            assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_ends_quietly(tmp_path: Path) -> None:
    files = sample(tmp_path, size_bytes=1 << 20)
    with subprocess.Popen(
        [*UMLDISK, "merge", files.cow, "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.read(1)  # it writes, and soon waits for a reader
        running.send_signal(signal.SIGINT)
        running.stdout.close()
        assert running.wait(timeout=30) in (130, 141)
        assert running.stderr is not None
        assert running.stderr.read() == b""


def test_a_shell_can_ask_what_comes_next() -> None:
    asking = {**os.environ, "_UMLDISK_COMPLETE": "bash_complete", "COMP_WORDS": "umldisk reb", "COMP_CWORD": "1"}
    done = subprocess.run(UMLDISK, capture_output=True, text=True, check=True, env=asking)
    assert done.stdout.splitlines() == ["plain,rebase"]


def test_global_options_stand_before_the_command(tmp_path: Path, capsys: Captured) -> None:
    with group.make_context("umldisk", ["--site", str(tmp_path), "build", "x"]) as context:
        assert context.params == {"site_dir": str(tmp_path), "debug": False}
    assert main(["build", "--site", str(tmp_path), "x"]) == 2
    assert "no such option" in capsys.readouterr().err
