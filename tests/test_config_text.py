"""Texts that are no umldisk.toml at all, and what else can stand under its name."""

import os
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.config import guest, one_guest, problems
from umldisk.config.load import MOST_BYTES, load_configuration, parse_configuration
from umldisk.config.problems import ConfigError, Problem
from umldisk.config.schema import KEYS
from umldisk.config.show import to_toml
from umldisk.config.site import Site
from umldisk.errors import NoInputError


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("[guest.x\n", 1, 9),
        ("a = 1\nb = \n", 2, 5),
        ("a = 1\na = 2\n", 2, 6),
        ("x\n", 1, 2),
        ('a = "\n', 1, 6),
        ('\na = """\n\n', 2, None),
        ("\ufeff[guest.x]\n", 1, 1),
        ("[guest.x]\nmemory = '\x00'\n", 2, 11),
        ("[a]\n[a]\n", 2, 3),
    ],
)
def test_syntax_errors_have_line_and_column(text: str, line: int, column: int | None) -> None:
    (problem,) = problems(text)
    assert (problem.line, problem.column) == (line, column)
    assert problem.found.startswith("an error of syntax: ")
    assert " (at " not in problem.found


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 10_000, "a = " + "{a=" * 5_000, "a = " + "[\n" * 100_000, "a = " + "[" * 3000 + "]" * 3000]
)
def test_deep_nesting_is_a_problem(text: str) -> None:
    (problem,) = problems(text)
    assert "nested too deeply" in problem.found


def test_a_long_line_is_a_problem_before_it_costs_time() -> None:
    text = "a = 1\n" + ".".join("k" * 400_000) + " = 1\n"
    (problem,) = problems(text)
    assert (problem.line, problem.found) == (2, "a line of 800003 characters")


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "-" + "1" * 4000, "1e999999", "nan", "07:32:00"])
def test_numbers_and_dates_of_any_size_are_problems(value: str) -> None:
    (problem,) = problems(one_guest(f"memory = {value}"))
    assert problem.line in (2, None)
    assert len(problem.text()) < 200


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="[]{}=.,#'\"\\\n\r\t ax1-é\x00\x7f", max_size=40))
def test_no_text_does_anything_but_parse_or_have_problems(text: str) -> None:
    refused = None
    try:
        parse_configuration(text, path="/s/umldisk.toml")
    except ConfigError as error:
        refused = error
    assert refused is None or refused.problems
    assert refused is None or all(line.isprintable() for line in refused.lines)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "1G", "/a", "x", "10.1.0.6/30", "root"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([key.path for key in KEYS]), VALUES), max_size=6))
def test_no_value_does_anything_but_count_or_be_a_problem(said: list[tuple[tuple[str, ...], object]]) -> None:
    different = {".".join(path).replace("*", "root"): value for path, value in said if value is not None}
    pairs = [f"{key} = {to_toml(_without_none(value))}" for key, value in different.items()]
    found: tuple[Problem, ...] = ()
    try:
        guest(one_guest(*pairs))
    except ConfigError as error:
        found = error.problems
    assert all(problem.line and problem.line <= len(pairs) + 1 for problem in found)


def _without_none(value: object) -> object:
    return [_without_none(item) for item in value if item is not None] if isinstance(value, list) else value


def test_bytes_that_are_no_utf8_have_a_place(tmp_path: Path) -> None:
    path = tmp_path / "umldisk.toml"
    path.write_bytes(b'# fine\n[guest.x]\nuser = "m\xfcller"\n')
    with pytest.raises(ConfigError) as refused:
        load_configuration(str(path))
    assert refused.value.lines == (f"{path}:3:10: found the byte 0xfc, expected text in UTF-8",)


def test_a_file_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "umldisk.toml"
    path.write_bytes(b"#\n" * (MOST_BYTES // 2))
    assert dict(load_configuration(str(path)).guests) == {}
    with path.open("r+b") as stream:
        stream.truncate(10 << 30)
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        load_configuration(str(path))


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "dangling", "loop", "device"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "umldisk.toml"
    monkeypatch.chdir(tmp_path)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    else:
        path.symlink_to({"dangling": "gone", "loop": "umldisk.toml", "device": "/dev/zero"}[kind])
    assert not stat.S_ISREG(path.lstat().st_mode)
    with pytest.raises(NoInputError):
        Site(str(tmp_path)).guest("x")
