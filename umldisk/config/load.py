"""From the text of a umldisk.toml to guests, or to everything that is wrong with it.

    text ──TOML parser──▶ tables ──schema──▶ layers ──combine──▶ settings of each guest ──rules──▶ guests as values
                  │                   │                                                    │
                  └───────────────────┴──────── complaints, then with their lines ─────────┴──▶ ConfigError

The whole file is checked whoever asks for a guest, so that a mistake does not wait for the day on which its guest is
built. Only what the file names on the host (a base, key files) is looked at guest by guest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from umldisk.config.assemble import assemble, file_complaints
from umldisk.config.effective import Effective, Layer, Origin, combine, read_layer
from umldisk.config.guest import Guest
from umldisk.config.kinds import INVALID, unknown_key, wrong_table
from umldisk.config.locate import locate_keys
from umldisk.config.problems import Complaint, ConfigError, KeyPath, Problem, dotted
from umldisk.config.reading import read_small_file
from umldisk.config.rules import guest_complaints, site_complaints
from umldisk.config.values import GUEST_NAME

MOST_BYTES = 1 << 20
MOST_LINE_CHARACTERS = 1 << 14
"""Longer files and lines are mistakes; the parser's time grows with the square of a dotted key's length."""

_TOP = ("defaults", "guest")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A umldisk.toml without problems; `path` is where it lies or would lie, `guests` are those it has tables for."""

    path: str
    text: str
    defaults: Layer | None
    guests: Mapping[str, Layer]

    def effective(self, name: str) -> Effective:
        """Return what counts for a guest. One without a table has the defaults, with the problems they may have.

        Raises ConfigError with these.
        """
        own = self.guests.get(name)
        found = combine(name, [layer for layer in (self.defaults, own) if layer is not None])
        if own is None:
            self._require_none(guest_complaints(found))
        return found

    def guest(self, name: str, directory: str) -> Guest:
        """Return the guest called `name`, whose disks are in `directory`. Raises ConfigError, for its key files too."""
        complaints: list[Complaint] = []
        found = assemble(self.effective(name), site=self._site, directory=directory, complaints=complaints)
        self._require_none(complaints)
        return found

    def require_files(self) -> None:
        """Raise ConfigError with what is wrong with the files that the settings of all guests name."""
        guests = [self.effective(name) for name in self.guests]
        self._require_none([complaint for guest in guests for complaint in file_complaints(guest, site=self._site)])

    def locate(self) -> dict[KeyPath, int]:
        """Return the lines of all keys of the document."""
        return locate_keys(self.text)

    @property
    def _site(self) -> str:
        return os.path.dirname(self.path)

    def _require_none(self, complaints: Iterable[Complaint]) -> None:
        problems = problems_of(complaints, self.text)
        if problems:
            raise ConfigError(self.path, problems)


def load_configuration(path: str) -> Configuration:
    """Read a umldisk.toml; one that is not there says nothing.

    Raises ConfigError with every problem, NoInputError and StorageError when the file cannot be read.
    """
    if not os.path.lexists(path):
        return Configuration(path, "", None, {})
    data = read_small_file(path, MOST_BYTES)
    text = _decode(path, data)
    return parse_configuration(text, path=path)


def parse_configuration(text: str, *, path: str) -> Configuration:
    """Return what a text says that lies at `path`. Raises ConfigError with every problem."""
    document = _parse(path, text)
    complaints: list[Complaint] = [unknown_key((name,), _TOP) for name in document if name not in _TOP]
    defaults = None
    if "defaults" in document:
        defaults = read_layer(document["defaults"], ("defaults",), Origin.DEFAULTS_TABLE, complaints)
    guests = _read_guests(document.get("guest", {}), complaints)
    configuration = Configuration(path, text, defaults, guests)
    complaints += _about_guests(configuration)
    problems = problems_of(complaints, text)
    if problems:
        raise ConfigError(path, problems)
    return configuration


def _read_guests(raw: object, complaints: list[Complaint]) -> dict[str, Layer]:
    if not isinstance(raw, dict):
        complaints.append(wrong_table(("guest",), raw))
        return {}
    guests = {}
    for name, table in raw.items():
        at = ("guest", name)
        if GUEST_NAME.read(name, at, complaints) is not INVALID:
            guests[name] = read_layer(table, at, Origin.GUEST_TABLE, complaints)
    return guests


def _about_guests(configuration: Configuration) -> Iterator[Complaint]:
    below = [configuration.defaults] if configuration.defaults else []
    guests = [combine(name, [*below, own]) for name, own in configuration.guests.items()]
    for guest in guests or [combine("", below)]:
        yield from guest_complaints(guest)
    yield from site_complaints(guests)


def problems_of(complaints: Iterable[Complaint], text: str) -> list[Problem]:
    """Return the complaints with their lines, each once, in the order of the text."""
    different = list(dict.fromkeys(complaints))
    lines = locate_keys(text) if different else {}
    problems = [Problem(_line(c.path, lines), dotted(c.path), c.found, c.expected, c.hint) for c in different]
    return sorted(problems, key=lambda problem: problem.line or 0)


def _line(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """Return the line of a key, or of the nearest that it would stand below."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


# -- the text ---------------------------------------------------------------------------------------------------------


def _decode(path: str, data: bytes) -> str:
    if len(data) > MOST_BYTES:
        raise ConfigError(path, [Problem(None, "", "a file of more than 1 MiB", "a text of at most 1 MiB")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - before.rfind(b"\n")
        found = f"the byte 0x{data[error.start]:02x}"
        problem = Problem(before.count(b"\n") + 1, "", found, "text in UTF-8", column=column)
        raise ConfigError(path, [problem]) from None


def _parse(path: str, text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    _refuse_long_lines(path, text)
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(path, [Problem(None, "", "values nested too deeply", "a few levels")]) from None
    except ValueError as error:  # TOMLDecodeError, or what a number or date is too large for
        raise ConfigError(path, [_syntax_problem(text, str(error))]) from None


def _refuse_long_lines(path: str, text: str) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MOST_LINE_CHARACTERS:
            problem = Problem(number, "", f"a line of {len(line)} characters", f"at most {MOST_LINE_CHARACTERS}")
            raise ConfigError(path, [problem])


def _syntax_problem(text: str, message: str) -> Problem:
    """Make a problem of the parser's message, which ends in the place."""
    what, _open, place = message.rpartition(" (at ")
    numbers = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    line, column = (int(numbers[1]), int(numbers[2])) if numbers else (None, None)
    if place == "end of document)":
        line = text.rstrip("\n").count("\n") + 1
    said = what or message
    return Problem(line, "", f"an error of syntax: {said[:1].lower()}{said[1:]}", "TOML", column=column)
