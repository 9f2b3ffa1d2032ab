"""A disk as a picture of characters.

         0  ██▓▒░░░░········································
       36M  ················░░░░░░░░░░░░░░██████░░░··········

Each character, a *cell*, is a fixed share of the disk, and so is each line. What a cell shows is decided by amounts and
not by its first or last sector: how many of its bytes are changed, and, if none are, whether the backing file has any
data there. Cells are a power of two in size, so that offsets stay round numbers; there are at most as many as fit the
lines asked for, whatever the size of the disk.

Everything here is pure: amounts in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby, islice
from typing import NamedTuple

from umldisk.cow import bitmap
from umldisk.cow.geometry import SECTORS_PER_BYTE

MOST_LINES = 24
_LABEL_GAP = 2
_COLUMN_STEP = 8
_LONGEST_LABEL = 8
_UNITS = ("", "K", "M", "G", "T", "P")


class Shade(Enum):
    """What a cell shows; the value is its word in the legend."""

    FULL = "changed"
    MORE = "half or more"
    LESS = "less than half"
    DATA = "backing data"
    HOLE = "hole"


class Cell(NamedTuple):
    """A part of the disk: its size, how much of it is changed, and of how much the backing file has data; bytes."""

    size_bytes: int
    changed_bytes: int
    data_bytes: int

    @property
    def shade(self) -> Shade:
        """What decides about its character."""
        if self.changed_bytes >= self.size_bytes:
            return Shade.FULL
        if self.changed_bytes:
            return Shade.MORE if 2 * self.changed_bytes >= self.size_bytes else Shade.LESS
        return Shade.DATA if self.data_bytes else Shade.HOLE


@dataclass(frozen=True, slots=True)
class Style:
    """What the terminal can show."""

    unicode: bool = True
    colour: bool = False


_BLOCKS = {Shade.FULL: "█", Shade.MORE: "▓", Shade.LESS: "▒", Shade.DATA: "░", Shade.HOLE: "·"}
_ASCII = {Shade.FULL: "#", Shade.MORE: "*", Shade.LESS: "+", Shade.DATA: ":", Shade.HOLE: "."}
_COLOURS = {Shade.FULL: "31", Shade.MORE: "31", Shade.LESS: "33", Shade.DATA: "36", Shade.HOLE: "2"}


@dataclass(frozen=True, slots=True)
class Grid:
    """How the disk is cut into cells, `columns` of them a line."""

    size_bytes: int
    cell_bytes: int
    columns: int

    @property
    def cells(self) -> int:
        """How many there are; the last may be short."""
        return -(-self.size_bytes // self.cell_bytes)

    @property
    def line_bytes(self) -> int:
        """The share of the disk in one line."""
        return self.cell_bytes * self.columns

    def cell_sizes(self) -> Iterator[int]:
        """Yield the size of each cell."""
        for start in range(0, self.size_bytes, self.cell_bytes):
            yield min(self.cell_bytes, self.size_bytes - start)


def lay_grid(size_bytes: int, *, width: int, grain_bytes: int, lines: int = MOST_LINES) -> Grid:
    """Cut a disk so that it fills at most `lines` of `width` characters; cells are whole multiples of `grain_bytes`.

    Where the width leaves no room for eight cells, eight it is.
    """
    columns = max(_COLUMN_STEP, (width - _LONGEST_LABEL - _LABEL_GAP) // _COLUMN_STEP * _COLUMN_STEP)
    cell_bytes = grain_bytes
    while -(-size_bytes // (cell_bytes * columns)) > lines:
        cell_bytes *= 2
    return Grid(size_bytes, cell_bytes, columns)


def count_bits(grid: Grid, windows: Iterable[tuple[int, bytes]], *, sector_bytes: int) -> list[int]:
    """Return the changed bytes of each cell, from parts of a bitmap as (number of the first byte, bytes)."""
    changed = [0] * grid.cells
    cell_groups = grid.cell_bytes // (SECTORS_PER_BYTE * sector_bytes)
    for number, window in windows:
        position = 0
        while position < len(window):
            cell, inside = divmod(number + position, cell_groups)
            stop = position + cell_groups - inside
            changed[cell] += bitmap.count(window[position:stop]) * sector_bytes
            position = stop
    return [min(amount, size) for amount, size in zip(changed, grid.cell_sizes(), strict=True)]


def spread(grid: Grid, ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Return how many bytes of each cell lie in `ranges` (start, end), which must not overlap."""
    amounts = [0] * grid.cells
    for start, end in ranges:
        position = start
        while position < end:
            cell = position // grid.cell_bytes
            stop = min(end, (cell + 1) * grid.cell_bytes)
            amounts[cell] += stop - position
            position = stop
    return amounts


def draw(grid: Grid, cells: Iterable[Cell], style: Style) -> list[str]:
    """Return the picture: one line a share of the disk, with its first byte in front."""
    unit, factor = _unit(grid.line_bytes)
    remaining = iter(cells)
    lines = []
    for start in range(0, grid.size_bytes, grid.line_bytes):
        shades = [cell.shade for cell in islice(remaining, grid.columns)]
        label = f"{start // factor}{unit if start else ''}"
        lines.append(f"{label:>{_LONGEST_LABEL}}{' ' * _LABEL_GAP}{_paint(shades, style)}")
    return lines


def _unit(number: int) -> tuple[str, int]:
    """Return the largest binary unit that `number` is a multiple of."""
    power = 0
    while power < len(_UNITS) - 1 and number and number % 1024 ** (power + 1) == 0:
        power += 1
    return _UNITS[power], 1024**power


def _paint(shades: Sequence[Shade], style: Style) -> str:
    characters = _BLOCKS if style.unicode else _ASCII
    if not style.colour:
        return "".join(characters[shade] for shade in shades)
    return "".join(
        f"\x1b[{_COLOURS[shade]}m{characters[shade] * len(list(group))}\x1b[0m" for shade, group in groupby(shades)
    )


def legend(grid: Grid, style: Style, *, has_backing: bool = True) -> list[str]:
    """Return what the characters mean, and how much of the disk one of them is."""
    shown = [shade for shade in Shade if has_backing or shade is not Shade.DATA]
    names = {**{shade: shade.value for shade in Shade}, **({} if has_backing else {Shade.HOLE: "not changed"})}
    meanings = [f"{_paint([shade], style)} {names[shade]}" for shade in shown]
    return [
        "  ".join(meanings),
        f"one character {_exact(grid.cell_bytes)}, one line {_exact(grid.line_bytes)}",
    ]


def _exact(number: int) -> str:
    unit, factor = _unit(number)
    return f"{number // factor} {unit}{'iB' if unit else 'bytes'}"
