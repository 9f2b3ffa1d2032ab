"""What somebody who can write to a store does to the history of the guest web in it."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import strategies as st

from umldisk.checkpoint.record import digest_of
from umldisk.checkpoint.store import record_key

WAYS = ["flip", "rewrite", "remove", "exchange", "push in", "push in renumbered", "pull out", "pull out renumbered"]


def key(number: int, guest: str = "web") -> str:
    return record_key(guest, number)


def last_of(data: dict[str, bytes]) -> int:
    return max(number for number in range(1, 20) if key(number) in data)


def alter(data: dict[str, bytes], place: int, /, **values: object) -> None:
    row = json.loads(data[key(place)])
    data[key(place)] = json.dumps(row | values, indent=1).encode()


def rewrite_from(data: dict[str, bytes], number: int) -> None:
    """Alter a record and make all later ones fit, as who knows the format would."""
    alter(data, number, host="elsewhere")
    while key(number + 1) in data:
        number += 1
        alter(data, number, previous=digest_of(data[key(number - 1)]))


def flip(data: dict[str, bytes], number: int, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
    contents = bytearray(data[key(number)])
    contents[draw(st.integers(0, len(contents) - 1))] ^= 1 << draw(st.integers(0, 7))
    data[key(number)] = bytes(contents)


def push_in(data: dict[str, bytes], number: int, *, renumbered: bool) -> None:
    """Put a copy of a record after it; all later ones move up, with other names or also with other contents."""
    for later in range(last_of(data), number - 1, -1):
        data[key(later + 1)] = data[key(later)]
        if renumbered:
            alter(data, later + 1, number=later + 1)


def pull_out(data: dict[str, bytes], number: int, *, renumbered: bool) -> None:
    """Remove a record; all later ones move down."""
    for later in range(number + 1, last_of(data) + 1):
        data[key(later - 1)] = data[key(later)]
        if renumbered:
            alter(data, later - 1, number=later - 1)
    del data[key(last_of(data))]


def tamper(data: dict[str, bytes], way: str, number: int, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
    match way:
        case "flip":
            flip(data, number, draw)
        case "rewrite":
            rewrite_from(data, number)
        case "remove":
            del data[key(number)]
        case "exchange":
            other = draw(st.sampled_from([place for place in range(1, 20) if key(place) in data]))
            data[key(number)], data[key(other)] = data[key(other)], data[key(number)]
        case "push in" | "push in renumbered":
            push_in(data, number, renumbered=way.endswith("renumbered"))
        case "pull out" | "pull out renumbered":
            pull_out(data, number, renumbered=way.endswith("renumbered"))
