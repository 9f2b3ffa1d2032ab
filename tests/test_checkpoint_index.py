"""Indexes: the same for the same disk whatever led to it, the same file again when read, and nothing else is read."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import nights
from tests.kit.nights import PLACE, REGION, items, items_of, sha
from umldisk.checkpoint import layout
from umldisk.checkpoint.index import (
    Index,
    name_of,
    null_name,
    parse,
    places,
    replaced,
)
from umldisk.errors import DataError

FROM_CASYNC = 0x4000, 0x10000, 0x40000
"""The sizes of chunks that `casync make` says in its indexes."""


def named(image: bytes) -> dict[int, bytes]:
    """Name every place of an image, as whoever reads all of it does."""
    return {start: name_of(image[start:end]) for start, end in places(len(image))}


def index_of(image: bytes) -> Index:
    return replaced(None, len(image), named(image))


def cut_anyhow(lengths: list[int]) -> Index:
    """Make an index of chunks as casync could cut them."""
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    table = b"".join(layout.ITEM.pack(end, sha(b"%d" % end)) for end in ends)
    return Index(table, *FROM_CASYNC)


drawn_images = nights.sizes.flatmap(nights.images)


@given(drawn_images)
def test_index_of_an_image_is_the_naive_one_and_survives_its_file(image: bytes) -> None:
    index = index_of(image)
    assert items_of(index) == items(image)
    assert index.size_bytes == len(image)
    assert index.is_regular
    again = parse(index.build())
    assert again == index
    assert again.digest() == hashlib.sha256(index.build()).hexdigest()


@given(st.data())
def test_replaced_places_give_the_index_of_the_changed_image(data: st.DataObject) -> None:
    image = data.draw(drawn_images)
    changed = bytearray(image)
    written = data.draw(nights.nights(len(image)))
    for sector, contents in written.items():
        end = min(sector * 512 + 512, len(image))
        changed[sector * 512 : end] = (contents or bytes(512))[: end - sector * 512]
    names = named(bytes(changed))
    touched = {place: names[place] for place in nights.touched(written, len(image))}
    assert replaced(index_of(image), len(image), touched) == index_of(bytes(changed))


def test_left_out_places_are_zeros_without_a_base_and_the_base_s_with_one() -> None:
    data = b"d" * PLACE
    index = replaced(None, 3 * REGION + 5, {REGION + PLACE: name_of(data)})
    assert items_of(index) == items(bytes(REGION + PLACE) + data + bytes(2 * REGION - 2 * PLACE + 5))
    assert replaced(index, index.size_bytes, {}) == index


def test_a_region_that_becomes_zeros_again_is_one_chunk_again() -> None:
    empty = replaced(None, 2 * REGION, {})
    full = replaced(empty, 2 * REGION, {REGION: name_of(b"f" * PLACE)})
    assert (len(empty), len(full)) == (2, 17)
    assert replaced(full, 2 * REGION, {REGION: null_name(PLACE)}) == empty


@given(drawn_images, st.data())
def test_chunks_of_a_range_are_those_that_hold_a_byte_of_it(image: bytes, data: st.DataObject) -> None:
    index = index_of(image)
    start, end = sorted((data.draw(st.integers(0, len(image))), data.draw(st.integers(0, len(image) + 9))))
    every = list(index.chunks())
    assert list(index.chunks(start, end)) == [c for c in every if c.start < end and c.end > start and start < end]
    assert all(left.end == right.start for left, right in pairwise(every))
    offset = data.draw(st.integers(0, len(image) - 1))
    found = index.chunk(index.find(offset))
    assert found.start <= offset < found.end
    assert index.names() == {chunk.name for chunk in every}
    nulls = {c.end - c.start: c.name for c in every if not any(image[c.start : c.end])}
    assert index.null_chunks() == nulls


@pytest.mark.parametrize("length", [1, 4096, PLACE, REGION, REGION + 1, 3 * REGION + 7])
def test_null_names_are_those_of_zeros(length: int) -> None:
    assert null_name(length) == sha(bytes(length))


@pytest.mark.parametrize(
    ("lengths", "regular"),
    [
        ([PLACE] * 16, True),
        ([PLACE] * 16 + [100], True),
        ([PLACE, PLACE + 1, PLACE], False),
        ([PLACE, 2 * PLACE, PLACE], False),
        ([REGION, PLACE], False),  # one chunk that is not zeros
        ([100, PLACE], False),
        ([], True),
    ],
)
def test_only_places_and_regions_of_zeros_are_regular(lengths: list[int], regular: bool) -> None:
    assert cut_anyhow(lengths).is_regular is regular


def test_zeros_are_regular_as_a_whole_region_only() -> None:
    def of_zeros(*ends: int) -> Index:
        starts = [0, *ends[:-1]]
        return Index(b"".join(layout.ITEM.pack(e, null_name(e - s)) for s, e in zip(starts, ends, strict=True)))

    assert of_zeros(REGION, REGION + 5).is_regular
    assert of_zeros(REGION, 2 * REGION, 2 * REGION + 3 * PLACE).is_regular
    assert not of_zeros(PLACE, REGION + PLACE).is_regular
    assert not of_zeros(2 * PLACE, REGION, 2 * REGION).is_regular


def test_an_index_of_other_cuts_is_read_with_what_it_says() -> None:
    index = cut_anyhow([20_000, 70_000, 0x40000, 1])
    assert parse(index.build()) == index
    assert index.chunk_size_max == 0x40000


# -- what is refused --------------------------------------------------------------------------------------------------

SOUND = index_of(b"a" * (3 * PLACE) + bytes(2 * REGION) + b"b").build()


@given(st.data())
def test_a_changed_file_is_refused_or_is_another_index_to_the_byte(data: st.DataObject) -> None:
    changed = bytearray(SOUND)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=3)):
        changed[at] = value
    length = data.draw(st.one_of(st.just(len(SOUND)), st.integers(0, len(SOUND))))
    raw = bytes(changed[:length])
    try:
        index = parse(raw)
    except DataError:
        assert raw != SOUND
    else:
        assert index.build() == raw
        ends = [0, *(chunk.end for chunk in index.chunks())]
        assert all(0 < end - start <= index.chunk_size_max for start, end in pairwise(ends))


@given(st.binary(max_size=400))
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError):
        parse(raw)


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, 49, "byte 0"),
        (8, 0, "byte 0"),
        (23, 0x90, "byte 16"),  # casync's flag for SHA-512/256 is cleared
        (56, 0, "byte 48"),
        (len(SOUND) - 1, 0, f"byte {len(SOUND) - 40}"),
        (len(SOUND) - 16, 1, f"byte {len(SOUND) - 40}"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(at: int, value: int, says: str) -> None:
    raw = bytearray(SOUND)
    raw[at] = value
    with pytest.raises(DataError, match=says) as caught:
        parse(bytes(raw), where="an index")
    assert "an index" in str(caught.value)


@pytest.mark.parametrize(
    ("ends", "found"),
    [([PLACE, PLACE], "0"), ([PLACE, 100], "-65436"), ([0], "0"), ([PLACE, 1 << 63], str((1 << 63) - PLACE))],
)
def test_chunks_that_do_not_ascend_are_named_by_their_place(ends: list[int], found: str) -> None:
    table = b"".join(layout.ITEM.pack(end, bytes(32)) for end in ends)
    with pytest.raises(DataError, match=f"byte {64 + 40 * (len(ends) - 1)}, .*found {found}"):
        parse(Index(table).build())


def test_a_chunk_that_casync_would_not_take_is_refused() -> None:
    table = layout.ITEM.pack((128 << 20) + 1, bytes(32))
    with pytest.raises(DataError, match="impossible length"):
        parse(Index(table, chunk_size_max=1 << 40).build())
    assert len(parse(Index(layout.ITEM.pack(128 << 20, bytes(32)), chunk_size_max=1 << 40).build())) == 1
