"""Records: what is written can be read, what is read cannot hurt, and the digest is of the bytes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.histories import TAKEN
from umldisk.checkpoint.record import (
    MOST_BYTES,
    WHOLE,
    Consistency,
    Kind,
    Record,
    Taken,
    digest_of,
    parse,
    split_verification,
    verification,
)
from umldisk.errors import DataError

TIME = datetime(2026, 3, 1, 3, 0, 0, 250_000, UTC)
CHECKPOINT = Record("web", 3, TIME, Kind.CHECKPOINT, "cd" * 32, "host", "0.1.0", TAKEN)
DELETION = Record("web", 9, TIME, Kind.DELETE, "cd" * 32, "night", "0.1.0", subjects=(1, 3))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
counts = st.integers(0, (1 << 63) - 1)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
times = st.datetimes(timezones=st.just(UTC))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@st.composite
def takens(draw: st.DrawFn, number: int) -> Taken:
    return Taken(
        drive=draw(names),
        size_bytes=draw(counts),
        index_sha256=draw(digests),
        parent=draw(st.none() | st.integers(1, number - 1)) if number > 1 else None,
        base_index_sha256=draw(st.none() | digests),
        changed_bytes=draw(counts),
        stored_bytes=draw(counts),
        read_bytes=draw(counts),
        read_whole=draw(st.booleans()),
        consistency=draw(st.sampled_from(Consistency)),
        merged=draw(st.booleans()),
        duration_seconds=draw(st.floats(0, 1e9)),
        reason=draw(texts),
        tags=tuple(draw(st.lists(texts, max_size=3))),
    )


@st.composite
def records(draw: st.DrawFn) -> Record:
    number = draw(st.integers(1, 1 << 40))
    kind = draw(st.sampled_from(Kind))
    is_checkpoint = kind is Kind.CHECKPOINT
    subjects = st.sets(st.integers(1, number - 1), max_size=4) if number > 1 and not is_checkpoint else st.just(set())
    return Record(
        guest=draw(names),
        number=number,
        time=draw(times),
        kind=kind,
        previous=draw(digests) if number > 1 else "",
        host=draw(texts),
        version=draw(texts),
        taken=draw(takens(number)) if is_checkpoint else None,
        subjects=tuple(sorted(draw(subjects))),
        detail=draw(texts.filter(bool)),
        extra=draw(st.dictionaries(texts.map("later ".__add__), plain, max_size=2)),
    )


@given(records())
def test_what_is_written_is_read(record: Record) -> None:
    data = record.build()
    assert parse(data) == record
    assert parse(data).build() == data


def test_a_file_is_sorted_json_with_a_line_for_each_value() -> None:
    data = DELETION.build()
    assert list(json.loads(data)) == sorted(json.loads(data))
    assert data.endswith(b"}\n")
    assert b'\n "guest": "web",\n' in data


def test_another_spelling_says_the_same_and_has_another_digest() -> None:
    data = CHECKPOINT.build()
    respelled = json.dumps(dict(reversed(json.loads(data).items()))).encode()
    assert parse(respelled) == parse(data)
    assert digest_of(respelled) != digest_of(data)


def test_keys_of_a_later_version_are_kept() -> None:
    row = json.loads(DELETION.build()) | {"mood": {"of": ["the", "day"]}}
    record = parse(json.dumps(row).encode())
    assert record.extra == {"mood": {"of": ["the", "day"]}}
    assert json.loads(record.build()) == row


def test_a_time_of_another_zone_becomes_utc() -> None:
    row = json.loads(DELETION.build()) | {"time": "2026-03-01T04:30:00+05:30"}
    found = parse(json.dumps(row).encode()).time
    assert found == datetime(2026, 3, 1, 4, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert found.tzinfo is UTC


# -- what is no record ------------------------------------------------------------------------------------------------

WRONG_VALUES: dict[str, list[Any]] = {
    "format": [2, "1", None, True],
    "guest": ["", "../root", "a/b", "-web", "web-", "x" * 64, "we\x00b", "wéb", 7, None],
    "number": [0, -1, 1.0, "3", True, None, 1 << 63, 10**400],
    "time": ["yesterday", "2026-03-01T03:00:00", "9999-12-31T23:59:59-10:00", "", 1772334000, None],
    "kind": ["forget", "", 1, None],
    "previous": ["", "CD" * 32, "cd" * 31, 0, None],
    "host": [None, 1, ["host"], "\ud800"],
    "version": [None, 0.1],
    "detail": [None, {}, "\udcff"],
    "taken": [[], "var", 1, {}],
}
WRONG_TAKEN: dict[str, list[Any]] = {
    "drive": ["", "../var", "a/b", 1],
    "size_bytes": [-1, 1.5, "1", True, 1 << 63],
    "index_sha256": ["", "x", None],
    "parent": [0, 3, 4, "1", False],
    "base_index_sha256": ["", 0],
    "changed_bytes": [-1, None],
    "stored_bytes": [-1, None],
    "read_bytes": [-1, None],
    "read_whole": [0, 1, "true", None],
    "consistency": ["perhaps", None],
    "merged": [0, None],
    "duration_seconds": [-1, "1", True, None, 10**400],
    "reason": [None, "\ud800"],
    "tags": ["night", [1], None, ["\udfff"]],
}
WRONG: list[tuple[str | None, str, Any]] = [
    (None, key, value) for key, values in WRONG_VALUES.items() for value in values
]
WRONG += [("taken", key, value) for key, values in WRONG_TAKEN.items() for value in values]


@pytest.mark.parametrize(("inside", "key", "value"), WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_value_is_refused(inside: str | None, key: str, value: Any) -> None:
    row = json.loads(CHECKPOINT.build())
    (row[inside] if inside else row)[key] = value
    with pytest.raises(DataError) as caught:
        parse(json.dumps(row).encode(), where="guests/web/00000003.json")
    assert "guests/web/00000003.json" in str(caught.value)


@pytest.mark.parametrize(
    "key", [key for key in WRONG_VALUES if key != "detail"] + [f"taken.{key}" for key in WRONG_TAKEN]
)
def test_a_missing_value_is_refused(key: str) -> None:
    row = json.loads(CHECKPOINT.build())
    outer, _dot, inner = key.rpartition(".")
    del (row[outer] if outer else row)[inner]
    with pytest.raises(DataError):
        parse(json.dumps(row).encode())


SENSELESS = {
    "subjects that descend": {"subjects": [3, 1]},
    "a subject twice": {"subjects": [1, 1]},
    "about itself": {"subjects": [9]},
    "about a later one": {"subjects": [1, 10]},
    "subjects that are none": {"subjects": 3},
    "a subject that is a truth value": {"subjects": [True]},
    "a drive in another kind": {"taken": json.loads(CHECKPOINT.build())["taken"]},
    "a checkpoint without a drive": {"kind": "checkpoint"},
    "a tag without a name": {"kind": "tag"},
    "the first, and one before it": {"number": 1, "subjects": []},
}


@pytest.mark.parametrize("change", SENSELESS.values(), ids=SENSELESS.keys())
def test_what_no_record_can_say_is_refused(change: dict[str, Any]) -> None:
    row = json.loads(DELETION.build()) | change
    with pytest.raises(DataError):
        parse(json.dumps(row).encode())


def test_a_checkpoint_about_others_is_refused() -> None:
    row = json.loads(CHECKPOINT.build()) | {"subjects": [1]}
    with pytest.raises(DataError, match="about others"):
        parse(json.dumps(row).encode())


GOOD = DELETION.build()
assert all(GOOD.count(part) == 1 for part in (b'"host"', b'"host": "night"', b'"number": 9'))
HOSTILE = {
    "nothing": b"",
    "cut off": GOOD[:-3],
    "two": GOOD + GOOD,
    "zeros": bytes(4096),
    "a list": b"[]",
    "a number": b"1",
    "a key twice": GOOD.replace(b'"host"', b'"host": "other", "host"'),
    "a key twice, spelled otherwise": GOOD.replace(b'"host"', b'"h\\u006fst": "other", "host"'),
    "a key twice further in": GOOD.replace(b'"host"', b'"x": {"a": 1, "a": 2}, "host"'),
    "not a number": GOOD.replace(b'"number": 9', b'"number": NaN'),
    "infinity in what is unknown": GOOD.replace(b'"host"', b'"x": Infinity, "host"'),
    "infinity spelled as a number": GOOD.replace(b'"host"', b'"x": [1e999], "host"'),
    "a number of 5000 digits": GOOD.replace(b'"number": 9', b'"number": ' + b"9" * 5000),
    "deep": b"[" * 100_000,
    "deep in what is unknown": GOOD.replace(b'"host"', b'"x": ' + b"[" * 40 + b"]" * 40 + b', "host"'),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-32": GOOD.decode().encode("utf-32-le"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "Latin-1": GOOD.replace(b'"host": "night"', b'"host": "h\xf6st"'),
    "half a character": GOOD.replace(b'"host": "night"', b'"host": "\\ud83d"'),
    "large": GOOD + b" " * MOST_BYTES,
    "a control character": GOOD.replace(b'"host": "night"', b'"host": "a\nb"'),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        parse(data)
    assert len(str(caught.value)) < 400


@given(st.binary(max_size=80))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        parse(data)


@given(st.data())
def test_whatever_stands_where_a_value_was_is_refused_or_can_be_written_again(data: st.DataObject) -> None:
    row = json.loads(CHECKPOINT.build())
    outer = data.draw(st.sampled_from([row, row["taken"]]))
    outer[data.draw(st.sampled_from(sorted(outer)))] = data.draw(plain)
    try:
        record = parse(json.dumps(row).encode())
    except DataError:
        return
    assert parse(record.build()) == record


@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_the_digest(data: st.DataObject) -> None:
    good = bytearray(CHECKPOINT.build())
    good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        parse(bytes(good))
    except DataError:
        return
    assert digest_of(bytes(good)) != digest_of(CHECKPOINT.build())


# -- verifications ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [WHOLE, "10%"])
@pytest.mark.parametrize("damage", ["", "chunk 3fa1: missing", "a: b: c"])
def test_a_verification_says_how_and_what(how: str, damage: str) -> None:
    assert split_verification(verification(how, damage)) == (how, damage)
