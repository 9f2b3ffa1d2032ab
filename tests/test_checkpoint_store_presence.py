"""Learning which chunks are there: always right, and never much dearer than the cheapest way."""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.store_contract import chunk
from umldisk.checkpoint.presence import Presence

_PAGE = 50


class Service:
    """Answers and counts what it is asked."""

    def __init__(self, keys: set[str]) -> None:
        self.keys = sorted(keys)
        self.requests = 0

    def ask(self, key: str) -> bool:
        self.requests += 1
        return key in self.keys

    def pages(self) -> Iterator[Sequence[str]]:
        for start in range(0, max(1, len(self.keys)), _PAGE):
            self.requests += 1
            yield self.keys[start : start + _PAGE]


@given(st.sets(st.integers(0, 400)), st.lists(st.integers(0, 400)), st.sets(st.integers(0, 400), max_size=5))
def test_tells_what_is_there(there: set[int], asked: list[int], added: set[int]) -> None:
    service = Service({chunk(n)[0] for n in there})
    presence = Presence(service.ask, service.pages)
    for number in added:
        presence.add(chunk(number)[0])
    for number in asked:
        assert presence.has(chunk(number)[0]) == (number in there | added)


@pytest.mark.parametrize("stored", [0, 20, 1000, 5000])
@pytest.mark.parametrize("asked", [1, 10, 100, 2000])
def test_costs_at_most_about_twice_the_cheapest(stored: int, asked: int) -> None:
    service = Service({chunk(n)[0] for n in range(stored)})
    presence = Presence(service.ask, service.pages)
    for number in range(10_000, 10_000 + asked):
        assert not presence.has(chunk(number)[0])
    cheapest = min(asked, -(-stored // _PAGE))
    assert service.requests <= 2.4 * cheapest + 2


def test_what_was_answered_is_not_asked_again() -> None:
    service = Service({chunk(n)[0] for n in range(5000)})
    presence = Presence(service.ask, service.pages)
    assert presence.has(chunk(7)[0])
    before = service.requests
    assert presence.has(chunk(7)[0])
    assert service.requests == before
