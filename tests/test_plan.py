"""Plans: joined steps cover the same bytes with the same contents, and are added up rightly."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import model
from umldisk.cow.file import CowFile
from umldisk.cow.layers import Kind, Layer, Segment
from umldisk.cow.plan import SHORT_BYTES, Totals, coalesce, measure, thicken
from umldisk.system.files import DiskFile

K = 1024


class Stub(Layer):
    """A layer that a plan can name and nobody reads."""

    def __init__(self, disk: DiskFile, name: str) -> None:
        super().__init__(disk, size_bytes=1 << 40, data_offset=0)
        self.name = name

    def segments(self, start: int, end: int) -> Iterator[Segment]:
        raise AssertionError

    def read_into(self, offset: int, view: memoryview) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stub]]:
    path = tmp_path_factory.mktemp("plan") / "file"
    path.touch()
    with DiskFile(str(path), os.open(path, os.O_RDONLY)) as disk:
        yield [Stub(disk, name) for name in ("top", "middle", "base")]


# What a plan is made of: (length in KiB, kind, number of the layer), and whether a gap comes before.
_steps = st.lists(st.tuples(st.integers(1, 80), st.sampled_from(Kind), st.integers(0, 2), st.booleans()), max_size=30)


def segments(steps: list[tuple[int, Kind, int, bool]], stubs: list[Stub], *, gaps: bool) -> list[Segment]:
    made, position = [], 0
    for length, kind, layer, gap in steps:
        position += 4 * K if gaps and gap else 0
        made.append(Segment(position, position + length * K, kind, stubs[layer]))
        position += length * K
    return made


def kilobytes(plan: list[Segment]) -> dict[int, Segment]:
    """Map each KiB of the disk to the step that covers it, exactly one."""
    covered: dict[int, Segment] = {}
    for segment in plan:
        for number in range(segment.start // K, segment.end // K):
            assert number not in covered
            covered[number] = segment
    return covered


@given(_steps)
def test_coalescing_keeps_kind_and_source_of_every_byte(
    stubs: list[Stub], steps: list[tuple[int, Kind, int, bool]]
) -> None:
    plan = segments(steps, stubs, gaps=True)
    before, after = kilobytes(plan), kilobytes(list(coalesce(plan)))
    assert before.keys() == after.keys()
    for number, segment in before.items():
        assert after[number].kind is segment.kind
        assert segment.kind is Kind.ZERO or after[number].layer is segment.layer


@given(_steps)
def test_nothing_is_left_to_join(stubs: list[Stub], steps: list[tuple[int, Kind, int, bool]]) -> None:
    plan = list(coalesce(segments(steps, stubs, gaps=True)))
    for left, right in itertools.pairwise(plan):
        touching = left.end == right.start and left.kind is right.kind
        assert not (touching and (left.layer is right.layer or left.kind is Kind.ZERO))


@given(_steps)
def test_thickening_covers_the_same_bytes_and_keeps_long_steps(
    stubs: list[Stub], steps: list[tuple[int, Kind, int, bool]]
) -> None:
    plan = segments(steps, stubs, gaps=False)
    top = stubs[0]
    thick = list(thicken(plan, top))
    before, after = kilobytes(plan), kilobytes(thick)
    assert before.keys() == after.keys()
    for number, segment in before.items():
        if segment.kind is not Kind.MIXED and segment.end - segment.start >= SHORT_BYTES:
            assert after[number] == segment
    for segment in thick:
        assert segment.kind is not Kind.MIXED or segment.layer is top
        assert segment in plan or segment.kind is Kind.MIXED


@given(_steps)
def test_no_two_short_steps_stay_neighbours(stubs: list[Stub], steps: list[tuple[int, Kind, int, bool]]) -> None:
    thick = list(thicken(segments(steps, stubs, gaps=False), stubs[0]))
    for left, right in itertools.pairwise(thick):
        assert not all(s.kind is Kind.MIXED or s.end - s.start < SHORT_BYTES for s in (left, right))


@given(_steps)
def test_the_totals_add_up(stubs: list[Stub], steps: list[tuple[int, Kind, int, bool]]) -> None:
    totals = measure(segments(steps, stubs, gaps=True))
    moved = [length for length, kind, _layer, _gap in steps if kind is not Kind.ZERO]
    zeros = [length for length, kind, _layer, _gap in steps if kind is Kind.ZERO]
    assert totals == Totals(len(moved), sum(moved) * K, sum(zeros) * K)


def test_nothing_planned_is_nothing_done() -> None:
    assert measure(coalesce([])) == Totals()


def test_plans_of_any_length_are_never_held() -> None:
    def endless() -> Iterator[Segment]:
        layer: Layer = None  # type: ignore[assignment]
        for number in itertools.count():
            kind = Kind.DATA if number % 2 else Kind.ZERO
            yield Segment(number * 64 * K, (number + 1) * 64 * K, kind, layer)

    plan = thicken(coalesce(endless()), None)  # type: ignore[arg-type]
    assert [segment.start for segment in itertools.islice(plan, 3)] == [0, 64 * K, 128 * K]


def test_the_plan_of_a_known_disk(tmp_path: Path) -> None:
    long = 64 * K // 512
    base = b"b" * (256 * K)
    changes: dict[int, bytes | None] = dict.fromkeys(range(long, 2 * long))  # 64 KiB cleared
    changes |= dict.fromkeys(range(2 * long, 3 * long), b"c" * 512)  # 64 KiB written
    changes |= {3 * long + 1: b"c" * 512, 3 * long + 17: b"c" * 512}  # two single sectors
    model.write_cow(tmp_path / "cow", model.write_image(tmp_path / "base", base), changes)
    with CowFile.open(tmp_path / "cow") as file:
        plan = list(coalesce(thicken(file.layer.segments(0, len(base)), file.layer)))
        below = file.backing
        assert [(s.start // K, s.end // K, s.kind, s.layer) for s in plan] == [
            (0, 64, Kind.DATA, below),
            (64, 128, Kind.ZERO, file.layer),
            (128, 192, Kind.DATA, file.layer),
            (192, 204, Kind.MIXED, file.layer),
            (204, 256, Kind.DATA, below),
        ]
        assert measure(plan) == Totals(runs=4, copied_bytes=192 * K, punched_bytes=64 * K)
