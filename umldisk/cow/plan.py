"""From segments to steps: what a merge will do, as pure data.

A plan is an iterator of segments, in the order of the disk, already coalesced. It is never held as a whole, because a
disk of a tebibyte can have more runs than memory; `measure` folds it into totals for a dry run. Where changes are so
dense that listing them would cost more than reading through them, `thicken` trades many short segments for one MIXED
stretch. Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from umldisk.cow.layers import Kind, Layer, Segment

SHORT_BYTES = 32 * 1024
"""A segment shorter than this, with short neighbours, is cheaper to read through than to treat on its own."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a plan amounts to: `runs` steps that move data, bytes copied, bytes that become holes.

    `shared_bytes` needed no copying, because the file system could let two files share them; a plan cannot know them
    and counts them as copied.
    """

    runs: int = 0
    copied_bytes: int = 0
    punched_bytes: int = 0
    shared_bytes: int = 0


def coalesce(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Join neighbours of one kind from one layer, and zeros whichever layer they come from."""
    held: Segment | None = None
    for segment in segments:
        if held is None:
            held = segment
        elif _continues(held, segment):
            held = Segment(held.start, segment.end, held.kind, held.layer)
        else:
            yield held
            held = segment
    if held is not None:
        yield held


def _continues(held: Segment, segment: Segment) -> bool:
    same_source = held.layer is segment.layer or held.kind is Kind.ZERO
    return held.end == segment.start and held.kind is segment.kind and same_source


def thicken(segments: Iterable[Segment], top: Layer) -> Iterator[Segment]:
    """Join rows of short or mixed segments into MIXED ones of `top`, which sees through all layers.

    The segments must be without gaps. The result covers the same bytes with the same contents.
    """
    row: list[Segment] = []
    for segment in segments:
        if segment.kind is Kind.MIXED or segment.end - segment.start < SHORT_BYTES:
            row = _grow(row, segment, top)
            continue
        yield from row
        row = []
        yield segment
    yield from row


def _grow(row: list[Segment], segment: Segment, top: Layer) -> list[Segment]:
    """Return the row with one more segment: at most one, a MIXED stretch once it has joined two."""
    if not row:
        return [segment if segment.kind is not Kind.MIXED else segment._replace(layer=top)]
    return [Segment(row[0].start, segment.end, Kind.MIXED, top)]


def measure(segments: Iterable[Segment]) -> Totals:
    """Add a plan up without carrying it out."""
    runs = copied = punched = 0
    for segment in segments:
        length = segment.end - segment.start
        if segment.kind is Kind.ZERO:
            punched += length
        else:
            runs += 1
            copied += length
    return Totals(runs, copied, punched)
