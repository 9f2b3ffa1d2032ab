"""Printers that commands share.

A command's result is one frozen dataclass. `Presenter` shows it either as JSON, which is the whole
object, or as a few lines of text that the command picks; never both. Data goes to stdout and
everything said about it to stderr.

Names of files are bytes and may hold anything. Text escapes what a terminal could act on. JSON
keeps every byte: one that is no UTF-8 becomes a lone surrogate (0xff is "\\udcff"), which Python's
os.fsencode turns back.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TextIO, TypeVar

from umldisk.errors import printable

if TYPE_CHECKING:
    from umldisk.progress import Progress

Report = TypeVar("Report")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclasses.dataclass(frozen=True, slots=True)
class Presenter:
    """Shows what a command did: as text, as JSON (`as_json`), or not at all (`quiet`)."""

    as_json: bool = False
    quiet: bool = False

    @property
    def progress(self) -> Progress:
        """What long operations report to: a bar on the terminal, or nobody."""
        from umldisk.cli.progress import terminal_progress

        return terminal_progress(self.quiet)

    def show(
        self,
        report: Report,
        to_lines: Callable[[Report], Iterable[str]],
        *,
        stream: TextIO | None = None,
    ) -> None:
        """Print `report`, as text by way of `to_lines`, on stdout unless `stream` says otherwise."""
        if self.as_json:
            write_json(report, stream=stream)
        elif not self.quiet:
            write_lines(to_lines(report), stream=stream)


def write_lines(lines: Iterable[str], *, stream: TextIO | None = None) -> None:
    """Print lines of text, with everything escaped that is not printable."""
    _write("".join(printable(line) + "\n" for line in lines), stream)


def note(text: str, *, program: str = "umldisk") -> None:
    """Say something on stderr that is neither data nor an error."""
    write_lines([f"{program}: {text}"], stream=sys.stderr)


def write_json(value: object, *, stream: TextIO | None = None) -> None:
    """Print `value`, a dataclass or anything `plain` takes, as JSON in ASCII."""
    import json

    _write(json.dumps(plain(value), indent=2) + "\n", stream)


def _write(text: str, stream: TextIO | None) -> None:
    target: TextIO | None = stream or sys.stdout
    if target is not None:  # who closes stdout does not want to know
        target.write(text)


_PLAIN_TYPES = {type(None), bool, int, float, str}


@functools.cache
def _field_names(of: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(of))


def plain(value: object) -> object:
    """Return `value` in JSON's types: dataclasses become objects, enums their values, bytes text."""
    if type(value) in _PLAIN_TYPES or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _field_names(type(value))}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    return _plain_text(value)


def _plain_text(value: object) -> str:
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    if hasattr(value, "isoformat"):  # a time; importing its module takes longer than most commands
        return str(value.isoformat())
    raise TypeError(f"no JSON for {type(value).__name__}")


def human_bytes(size_bytes: int) -> str:
    """Return a size for people, in binary units and three digits: 512 B, 4 KiB, 1.46 GiB."""
    size, unit = float(size_bytes), 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    digits = 0 if size >= 99.95 or unit == 0 else 1 if size >= 9.995 else 2
    text = f"{size:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {_UNITS[unit]}"


def exact_bytes(size_bytes: int) -> str:
    """Return a size for people with the exact number where the unit hides it."""
    if abs(size_bytes) < 1000:
        return f"{size_bytes} bytes"
    return f"{human_bytes(size_bytes)} ({size_bytes} bytes)"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s for all numbers but one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return rows of text as lines with aligned columns; those numbered in `right` align right."""
    cells = [[printable(cell) for cell in row] for row in rows]
    aligned_right = set(right)
    width_of: dict[int, int] = {}
    for row in cells:
        for column, cell in enumerate(row):
            width_of[column] = max(width_of.get(column, 0), len(cell))

    def padded(column: int, cell: str) -> str:
        width = width_of[column]
        return cell.rjust(width) if column in aligned_right else cell.ljust(width)

    return ["  ".join(padded(*pair) for pair in enumerate(row)).rstrip() for row in cells]
