"""`umldisk map`: which parts of the disk are changed, as a list or a picture."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

import click

from umldisk.cli.options import FILE, accept_truncated_option, backing_option, dialect_option, json_option
from umldisk.cli.output import plain
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.cow.dialect import Dialect
    from umldisk.cow.mapping import DiskMap, Extent
    from umldisk.cow.picture import Style

_HELP = """List the changed sectors of COW in runs: first sector, sectors, first byte, bytes, kind.

The kind is data where COW holds data, and zero where it holds a hole, which a guest reads as zeros.

With --plot the disk is drawn: each line a fixed share of it, each character a share of its line.

\b
Examples:
  umldisk map root_cow
  umldisk map --plot root_cow
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  options that exclude each other
  65  COW is no COW file, or is damaged or cut off
  66  COW is missing or is no disk image
  74  reading failed
"""

_COLUMNS = ("start", "sectors", "byte", "bytes", "kind")
_BATCH_LINES = 1000


@click.command("map", help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@click.option("--plot", is_flag=True, help="Draw a picture of the disk.")
@click.option(
    "--width", type=click.IntRange(20, 2000), metavar="N", help="Columns of the picture; else the terminal's."
)
@json_option
@backing_option
@dialect_option
@accept_truncated_option
def map_(
    cow: str,
    *,
    plot: bool,
    width: int | None,
    as_json: bool,
    backing: str | None,
    dialect: Dialect | None,
    accept_truncated: bool,
) -> None:
    """Parse, open, list or draw."""
    from umldisk.cow.file import Access
    from umldisk.cow.mapping import open_map

    if plot and as_json:
        raise UsageError("--plot and --json exclude each other")
    access = Access(backing=backing, dialect=dialect, accept_truncated=accept_truncated)
    with open_map(cow, access) as disk:
        if plot:
            _write(_picture(disk, width or shutil.get_terminal_size().columns))
        else:
            _write(_json(disk) if as_json else _table(disk))


def _write(lines: Iterable[str]) -> None:
    """Write a list that may be longer than memory."""
    batch: list[str] = []
    for line in lines:
        batch.append(line + "\n")
        if len(batch) >= _BATCH_LINES:
            sys.stdout.write("".join(batch))
            batch.clear()
    sys.stdout.write("".join(batch))


def _table(disk: DiskMap) -> Iterator[str]:
    """The columns are as wide as the largest numbers of this disk can be, for the list is never held."""
    geometry = disk.layer.geometry
    sectors, size = (max(len(str(number)), 7) for number in (geometry.sectors, geometry.size_bytes))
    widths = (sectors, sectors, size, size)
    yield "  ".join(f"{name:>{width}}" for name, width in zip(_COLUMNS, (*widths, 0), strict=True))
    for extent in disk.extents():
        numbers = (f"{number:>{width}}" for number, width in zip(extent, widths, strict=False))
        yield f"{'  '.join(numbers)}  {extent.kind.value}"


def _json(disk: DiskMap) -> Iterator[str]:
    """One object, whose list of runs is written as it comes."""
    geometry = disk.layer.geometry
    head = {"path": disk.layer.disk.path, "size_bytes": geometry.size_bytes, "sector_bytes": geometry.sector_bytes}
    yield json.dumps(plain(head), indent=2).removesuffix("\n}") + ',\n  "runs": ['
    held: str | None = None
    for extent in disk.extents():
        if held is not None:
            yield held + ","
        held = f"    {json.dumps(_fields(extent))}"
    if held is not None:
        yield held
    yield "  ]\n}"


def _fields(extent: Extent) -> object:
    return plain(extent._asdict())


def _picture(disk: DiskMap, width: int) -> Iterator[str]:
    from umldisk.cow.picture import draw, lay_grid, legend

    geometry = disk.layer.geometry
    style = style_for(sys.stdout, os.environ)
    grid = lay_grid(geometry.size_bytes, width=width, grain_bytes=geometry.group_bytes)
    yield from draw(grid, disk.cells(grid), style)
    yield ""
    yield from legend(grid, style, has_backing=disk.has_backing)


def style_for(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """Return what can be shown on `stream`: blocks if it takes them, colours on a terminal unless NO_COLOR is set."""
    from umldisk.cow.picture import Style

    try:
        "█▓▒░·".encode(stream.encoding or "ascii")
        blocks = True
    except (UnicodeEncodeError, LookupError):
        blocks = False
    terminal = stream.isatty() and environ.get("TERM") != "dumb"
    return Style(unicode=blocks, colour=terminal and not environ.get("NO_COLOR"))
