"""The disk as a list of runs and as a picture, against counting sector by sector."""

import io
import itertools
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model
from tests.kit.faulty import MAKERS, SIZE, pair, patch
from tests.kit.model import Disk, write_cow, write_image
from umldisk.cli.map import style_for
from umldisk.cow import header as headers
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access
from umldisk.cow.layers import Kind
from umldisk.cow.mapping import Extent, open_map
from umldisk.cow.picture import Cell, Grid, Shade, Style, count_bits, draw, lay_grid, legend, spread
from umldisk.errors import DataError

PAGE = 4096
PLAIN = Style(unicode=False)


# -- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "shade"),
    [
        (Cell(4096, 4096, 4096), Shade.FULL),
        (Cell(4096, 4095, 0), Shade.MORE),
        (Cell(4096, 2048, 0), Shade.MORE),
        (Cell(4096, 2047, 4096), Shade.LESS),
        (Cell(4096, 1, 0), Shade.LESS),
        (Cell(4096, 0, 1), Shade.DATA),
        (Cell(4096, 0, 0), Shade.HOLE),
        (Cell(1, 1, 0), Shade.FULL),
    ],
)
def test_a_cell_is_decided_by_amounts(cell: Cell, shade: Shade) -> None:
    assert cell.shade is shade


@given(
    size_bytes=st.integers(0, 1 << 45),
    width=st.integers(20, 300),
    grain_bytes=st.sampled_from([4096, 8192, 32768]),
    lines=st.integers(1, 60),
)
def test_a_grid_covers_the_disk_within_its_lines(size_bytes: int, width: int, grain_bytes: int, lines: int) -> None:
    grid = lay_grid(size_bytes, width=width, grain_bytes=grain_bytes, lines=lines)
    assert grid.columns <= max(8, width - 10)
    assert -(-grid.cells // grid.columns) <= lines
    assert grid.cell_bytes % grain_bytes == 0
    assert (grid.cells - 1) * grid.cell_bytes < size_bytes <= grid.cells * grid.cell_bytes or size_bytes == 0
    assert grid.cell_bytes == grain_bytes or -(-size_bytes // (grid.line_bytes // 2)) > lines
    sizes = list(grid.cell_sizes())
    assert (len(sizes), sum(sizes)) == (grid.cells, size_bytes)


@st.composite
def counted(draw: st.DrawFn) -> tuple[Grid, bytes, list[tuple[int, bytes]]]:
    """Draw a grid, a bitmap, and windows on the parts of it that are not zero."""
    bitmap = draw(st.binary(min_size=1, max_size=200))
    grid = Grid(len(bitmap) * PAGE, PAGE << draw(st.integers(0, 4)), 8)
    cuts = sorted({0, len(bitmap), *draw(st.sets(st.integers(0, len(bitmap))))})
    windows = [(low, bitmap[low:high]) for low, high in itertools.pairwise(cuts) if any(bitmap[low:high])]
    return grid, bitmap, windows


@given(drawn=counted())
def test_counting_bits_by_cells(drawn: tuple[Grid, bytes, list[tuple[int, bytes]]]) -> None:
    grid, bitmap, windows = drawn
    expected = [0] * grid.cells
    for sector in range(len(bitmap) * 8):
        expected[sector * 512 // grid.cell_bytes] += (bitmap[sector // 8] >> sector % 8 & 1) * 512
    assert count_bits(grid, windows, sector_bytes=512) == expected


@given(cuts=st.sets(st.integers(0, 100_000)), cell_bytes=st.integers(1, 30_000))
def test_spreading_ranges_over_cells(cuts: set[int], cell_bytes: int) -> None:
    grid = Grid(100_000, cell_bytes, 8)
    ranges = list(itertools.pairwise(sorted(cuts)))[::2]
    amounts = spread(grid, ranges)
    for number, amount in enumerate(amounts):
        low, high = number * cell_bytes, (number + 1) * cell_bytes
        assert amount == sum(max(0, min(end, high) - max(start, low)) for start, end in ranges)


# -- lines ------------------------------------------------------------------------------------------------------------


def cells_of(text: str) -> Iterator[Cell]:
    by_letter = {"#": (4096, 0), "*": (3000, 0), "+": (9, 0), ":": (0, 9), ".": (0, 0)}
    for letter in text:
        yield Cell(4096, *by_letter[letter])


def test_lines_are_shares_of_the_disk_with_their_offsets() -> None:
    grid = Grid(20 * PAGE, PAGE, 8)
    picture = draw(grid, cells_of("#*+:.##.::::....+.#."), PLAIN)
    assert picture == ["       0  #*+:.##.", "     32K  ::::....", "     64K  +.#."]
    blocks = draw(grid, cells_of("#*+:.##.::::....+.#."), Style())
    assert blocks[0] == "       0  █▓▒░·██·"


def test_colours_wrap_stretches_and_add_nothing_else() -> None:
    grid = Grid(8 * PAGE, PAGE, 8)
    (line,) = draw(grid, cells_of("##::...."), Style(unicode=False, colour=True))
    assert line == "       0  \x1b[31m##\x1b[0m\x1b[36m::\x1b[0m\x1b[2m....\x1b[0m"


def test_the_legend_names_each_character_and_the_scale() -> None:
    grid = Grid(1 << 40, 1 << 29, 72)
    assert legend(grid, PLAIN) == [
        "# changed  * half or more  + less than half  : backing data  . hole",
        "one character 512 MiB, one line 36 GiB",
    ]
    assert ": backing data" not in legend(grid, PLAIN, has_backing=False)[0]
    assert ". not changed" in legend(grid, PLAIN, has_backing=False)[0]


def test_an_empty_disk_has_no_lines() -> None:
    assert draw(lay_grid(0, width=80, grain_bytes=PAGE), [], PLAIN) == []


# -- from files -------------------------------------------------------------------------------------------------------


@given(disk=model.disks())
def test_extents_are_the_changed_sectors_of_the_model(tmp_path_factory: pytest.TempPathFactory, disk: Disk) -> None:
    cow, _backing = disk.write(tmp_path_factory.mktemp("disk"))
    with open_map(cow, Access(dialect=disk.dialect)) as opened:
        found = list(opened.extents())
    listed = [sector for one in found for sector in range(one.start_sector, one.start_sector + one.sectors)]
    assert listed == sorted(disk.changes)
    for one in found:
        assert one.offset_bytes == one.start_sector * disk.sector_bytes
        assert one.size_bytes == min(one.sectors * disk.sector_bytes, len(disk.base) - one.offset_bytes)
        if one.kind is Kind.ZERO:
            assert not any(disk.view[one.offset_bytes : one.offset_bytes + one.size_bytes])
    for left, right in itertools.pairwise(found):
        touching = left.start_sector + left.sectors == right.start_sector
        assert not (touching and left.kind is right.kind)


def test_holes_under_set_bits_are_told_from_data(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    data: dict[int, bytes | None] = dict.fromkeys(range(80, 96), b"x" * 512)
    write_cow(cow, backing, {**dict.fromkeys(range(56, 104)), **data, 2047: b"y" * 512})
    with open_map(cow) as opened:
        assert list(opened.extents()) == [
            Extent(56, 24, 56 * 512, 24 * 512, Kind.ZERO),
            Extent(80, 16, 80 * 512, 16 * 512, Kind.DATA),
            Extent(96, 8, 96 * 512, 8 * 512, Kind.ZERO),
            Extent(2047, 1, 2047 * 512, 512, Kind.DATA),
        ]


def test_a_picture_of_a_disk(tmp_path: Path) -> None:
    backing = write_image(tmp_path / "root_fs", bytes(3 * PAGE) + b"x" * (2 * PAGE) + bytes(3 * PAGE) + b"end")
    cow = tmp_path / "root_cow"
    whole, half, some = range(8), range(8, 12), [22, 23]
    write_cow(cow, backing, dict.fromkeys([*whole, *half, *some, 64]))
    with open_map(cow) as opened:
        grid = lay_grid(opened.layer.size_bytes, width=20, grain_bytes=PAGE)
        assert draw(grid, opened.cells(grid), PLAIN) == ["       0  #*+::...", "     32K  #"]


def test_a_picture_over_a_chain_sees_the_data_of_all_below(tmp_path: Path) -> None:
    blank = write_image(tmp_path / "root_fs", bytes(16 * PAGE))
    low, top = tmp_path / "low_cow", tmp_path / "top_cow"
    write_cow(low, blank, dict.fromkeys(range(16, 24), b"x" * 512))
    write_cow(top, low, dict.fromkeys(range(8)), size_bytes=16 * PAGE)
    with open_map(top) as opened:
        grid = lay_grid(opened.layer.size_bytes, width=20, grain_bytes=PAGE)
        assert draw(grid, opened.cells(grid), PLAIN) == ["       0  #.:.....", "     32K  ........"]


def test_without_the_backing_file_only_changes_show(tmp_path: Path) -> None:
    with open_map(MAKERS["backing-missing"][0](tmp_path)) as opened:
        assert not opened.has_backing
        grid = lay_grid(SIZE, width=40, grain_bytes=PAGE)
        shades = [cell.shade for cell in opened.cells(grid)]
    assert shades.count(Shade.FULL) == 1
    assert shades.count(Shade.HOLE) == len(shades) - 1


@pytest.mark.parametrize("code", ["data-cut", "bitmap-cut"])
def test_a_cut_file_is_mapped_only_if_that_is_accepted(tmp_path: Path, code: str) -> None:
    cow = MAKERS[code][0](tmp_path)
    with pytest.raises(DataError, match="the file ends"), open_map(cow):
        pass
    with open_map(cow, Access(accept_truncated=True)) as opened:
        assert sum(one.sectors for one in opened.extents()) == (8 if code == "data-cut" else 0)


def test_a_full_tebibyte_is_drawn_in_little_memory(tmp_path: Path) -> None:
    backing = tmp_path / "root_fs"
    backing.touch()
    os.truncate(backing, 1 << 40)
    seconds = backing.stat().st_mtime_ns // 1_000_000_000
    header = headers.build(Dialect.V3, backing_path=os.fsencode(backing), mtime=seconds, size_bytes=1 << 40)
    cow = tmp_path / "root_cow"
    cow.write_bytes(header.raw)
    os.truncate(cow, header.geometry.file_bytes)
    half = b"\x55" * (1 << 20)
    for byte in range(0, header.geometry.bitmap_bytes, 32 << 20):
        patch(cow, header.geometry.bitmap_offset + byte, half)
    with open_map(cow) as opened:
        grid = lay_grid(1 << 40, width=80, grain_bytes=PAGE)
        tracemalloc.start()
        picture = draw(grid, opened.cells(grid), PLAIN)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(picture) == 16
    assert sum(line.count("*") for line in picture) == 8 * 4
    assert sum(line.count(".") for line in picture) == 1024 - 8 * 4
    assert peak < 2 << 20


# -- the terminal -----------------------------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("encoding", "blocks"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_blocks_need_an_encoding_that_has_them(encoding: str, blocks: bool) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    assert style_for(stream, {}) == Style(unicode=blocks, colour=False)


def test_colours_need_a_terminal_that_wants_them() -> None:
    terminal = Terminal(io.BytesIO(), encoding="utf-8")
    assert style_for(terminal, {}).colour
    assert style_for(terminal, {"NO_COLOR": ""}).colour
    assert not style_for(terminal, {"NO_COLOR": "1"}).colour
    assert not style_for(terminal, {"TERM": "dumb"}).colour
