"""What is wrong with a umldisk.toml: every problem at once, each with its line and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from umldisk.errors import DataError, printable

KeyPath = tuple[str | int, ...]
"""The way from the top of the document to a value: keys of tables and indexes of arrays."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem before its line is known; `hint` says what to do about it."""

    path: KeyPath
    found: str
    expected: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `line` and `column` count from 1 and are None where there is no place to name.

    `key` is dotted, and empty where the text is no TOML at all.
    """

    line: int | None
    key: str
    found: str
    expected: str
    hint: str | None = None
    column: int | None = None

    def text(self) -> str:
        """The problem in one line of printable text, without the place."""
        facts = f"found {self.found}, expected {self.expected}" + (f"; {self.hint}" if self.hint else "")
        return printable(f"{self.key}: {facts}" if self.key else facts)


class ConfigError(DataError):
    """A umldisk.toml with problems: all of them in `problems`, and as `lines` of the form `PATH:LINE: KEY: ...`."""

    def __init__(self, path: str, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = tuple(problems)
        self.lines = tuple(problem_line(path, problem) for problem in self.problems)
        more = len(self.problems) - 1
        line = self.problems[0].line
        first = self.problems[0].text() if line is None else f"line {line}: {self.problems[0].text()}"
        super().__init__(f"{first} (and {more} more)" if more else first, where=path)


def problem_line(path: str, problem: Problem) -> str:
    """Return a problem of the file at `path` in one line: `PATH:LINE: KEY: found ..., expected ...`."""
    numbers = (number for number in (problem.line, problem.column) if number is not None)
    place = ":".join([printable(path), *map(str, numbers)])
    return f"{place}: {problem.text()}"


def dotted(path: KeyPath) -> str:
    """Return a path as TOML would write it, with indexes in brackets: `guest.x.network.interfaces[0].address`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _BARE_KEY.fullmatch(step) else toml_text(step))
    return text


def toml_text(text: str) -> str:
    """Return `text` as a basic string of TOML, in ASCII."""
    escaped = (c if " " <= c <= "~" and c not in '"\\' else _escape(c) for c in text)
    return f'"{"".join(escaped)}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(raw: object) -> str:
    """Return a value of TOML's types as a message quotes it: strings and numbers themselves, of the rest the type."""
    if isinstance(raw, str):
        cut = raw if len(raw) <= _SHOWN_CHARACTERS else f"{raw[:_SHOWN_CHARACTERS]}..."
        return f'"{cut}"'
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, int | float):
        return _number(raw)
    if isinstance(raw, dict):
        return "a table"
    return "an array" if isinstance(raw, list) else "a date or time"


def _number(raw: float) -> str:
    if isinstance(raw, int) and abs(raw) >= 10**20:  # past some length Python refuses to write a number out
        return "a number of more than 20 digits"
    return str(raw)
