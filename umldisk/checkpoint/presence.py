"""Which chunks an object store has, learnt with as few requests as possible.

One question is one request. A listing tells a thousand chunks with one, but of a large store that is many; so it is
begun with the first page, which tells how large the store is: names are digests, spread evenly, and when the first
thousand reach up to 1/200 of all possible names there are about 200 pages. Single questions are asked until they are
as many as the pages would be; then the whole is listed. That is never more than twice what the better way would cost.

What is known holds as long as nothing is removed: while the store is held for writing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from umldisk.checkpoint.store import CHUNKS


class Presence:
    """Knowledge of which chunks are there; `ask` asks for one, `pages` lists all in order. Safe for threads."""

    def __init__(self, ask: Callable[[str], bool], pages: Callable[[], Iterator[Sequence[str]]]) -> None:
        self._ask = ask
        self._begin = pages
        self._pages: Iterator[Sequence[str]] | None = None
        self._page_count = 0.0
        self._known: set[str] = set()
        self._is_complete = False
        self._questions = 0
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Take note of a chunk that is there."""
        self._known.add(key)

    def has(self, key: str) -> bool:
        """Whether the chunk is there."""
        if key in self._known:
            return True
        with self._lock:
            self._learn()
        if self._is_complete or key in self._known:
            return key in self._known
        if self._ask(key):
            self.add(key)
            return True
        return False

    def _learn(self) -> None:
        if self._is_complete:
            return
        self._questions += 1
        if self._pages is None:
            self._pages = self._begin()
            self._page_count = self._estimate(next(self._pages, ()))
        elif self._questions > self._page_count:
            for page in self._pages:
                self._known.update(page)
            self._is_complete = True

    def _estimate(self, first: Sequence[str]) -> float:
        """Return how many pages there are, by how far the first one reaches."""
        self._known.update(first)
        if not first:
            self._is_complete = True
            return 0
        reached = max(first).removeprefix(CHUNKS)[:4]
        return 65536 / (int(reached, 16) + 1)
