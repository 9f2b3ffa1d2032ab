"""The printers that commands share, and the progress bar."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.cli import output, progress
from umldisk.progress import SILENT


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    path: bytes
    colour: Colour


@dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    numbers: tuple[int, ...]
    nothing: None = None
    flag: bool = True


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1023, "1 KiB"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024, "10 KiB"),
        (10 * 1024 + 512, "10.5 KiB"),
        (100 * 1024 + 512, "100 KiB"),
        (1023 * 1024, "1 MiB"),
        (1 << 30, "1 GiB"),
        (5 << 40, "5 TiB"),
        ((1 << 63) - 1, "8 EiB"),
        (2000 << 60, "2000 EiB"),
    ],
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert output.human_bytes(size_bytes) == text


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_for_people_is_near_the_size(size_bytes: int) -> None:
    number, unit = output.human_bytes(size_bytes).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * factor - size_bytes) <= max(0.006 * size_bytes, 0.5)
    assert len(number.replace(".", "").lstrip("0")) <= 3


def test_the_exact_size_stands_beside_a_rounded_one() -> None:
    assert output.exact_bytes(512) == "512 bytes"
    assert output.exact_bytes(1 << 20) == "1 MiB (1048576 bytes)"


def test_counting() -> None:
    assert [output.counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_table_aligns_and_escapes() -> None:
    rows = [("a", "1", "x"), ("bb\x1b", "10", "")]
    assert output.table(rows, right=[1]) == ["a        1  x", "bb\\x1b  10"]
    assert output.table([]) == []


def test_json_is_the_whole_object() -> None:
    stream = io.StringIO()
    report = Outer(Inner(b"/a/\xff", Colour.RED), (1, 2))
    output.write_json(report, stream=stream)
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue()) == {
        "inner": {"path": "/a/\udcff", "colour": "red"},
        "numbers": [1, 2],
        "nothing": None,
        "flag": True,
    }


def test_json_of_other_values() -> None:
    assert output.plain({Colour.RED: PurePosixPath("/x"), 3: range(2)}) == {"red": "/x", "3": [0, 1]}
    with pytest.raises(TypeError, match="object"):
        output.plain(object())


@given(st.binary(min_size=1, max_size=20))
def test_any_name_survives_json(name: bytes) -> None:
    stream = io.StringIO()
    output.write_json(name, stream=stream)
    assert os.fsencode(json.loads(stream.getvalue())) == name


@pytest.mark.parametrize(
    ("presenter", "printed"),
    [
        (output.Presenter(), "line 5\n"),
        (output.Presenter(quiet=True), ""),
        (output.Presenter(as_json=True), "5\n"),
        (output.Presenter(as_json=True, quiet=True), "5\n"),
    ],
)
def test_a_report_is_text_or_json_or_nothing(
    presenter: output.Presenter, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    presenter.show(5, lambda number: [f"line {number}"])
    assert capsys.readouterr() == (printed, "")


def test_a_note_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("look\r")
    assert capsys.readouterr() == ("", "umldisk: look\\r\n")


# -- progress ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr; a fixture cannot, as pytest sets stderr after all fixtures."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_no_bar_without_a_terminal_or_when_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal_as_stderr(monkeypatch)
    assert progress.terminal_progress(quiet=True) is SILENT
    assert progress.terminal_progress(quiet=False) is not SILENT
    assert output.Presenter(quiet=True).progress is SILENT
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert progress.terminal_progress(quiet=False) is SILENT


def test_a_short_operation_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    with progress.terminal_progress(quiet=False).task("merge", 10) as task:
        task.add(10)
    assert terminal.getvalue() == ""


def test_a_long_operation_draws_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.terminal_progress(quiet=False).task("merge", 4096) as task:
        task.add(1024)
        now += progress.DELAY_SECONDS
        task.add(1024)
        drawn = terminal.getvalue()
        task.add(2048)
    assert "merge:  50%" in drawn
    assert "2.00k/4.00k" in drawn
    assert terminal.getvalue().endswith("\r")


def test_an_operation_of_unknown_length_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    now = time.monotonic()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.terminal_progress(quiet=False).task("copy up") as task:
        now += progress.DELAY_SECONDS
        task.add(3072)
        assert "copy up: 3.00kB" in terminal.getvalue()


def test_the_bar_library_is_imported_for_a_bar_only(bare_environment: dict[str, str]) -> None:
    code = """if True:
        import io, sys
        class Terminal(io.StringIO):
            def isatty(self): return True
        sys.stderr = Terminal()
        from umldisk.cli import progress
        seen = []
        for delay in (60, 1e-9):
            progress.DELAY_SECONDS = delay
            with progress.terminal_progress(False).task("x", 2) as task:
                task.add(1)
            seen.append("tqdm" in sys.modules)
        print(seen, "multiprocessing" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare_environment
    )
    assert done.stdout == "[False, True] False\n"
