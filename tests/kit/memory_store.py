"""A store in memory: the rules of `umldisk.checkpoint.store` in few lines, to be looked into and tampered with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from umldisk.checkpoint.store import Listed, aside_key, chunk_key
from umldisk.errors import BusyError, NoInputError


class MemoryStore:
    """A store whose keys are `data`; `log` tells every ("get" | "put" | "put_new" | "delete", key) in order.

    `copy` gives another store of the same contents, which is what a crash or a backup leaves. Waiting for a lock is not
    done: a lock that is held is BusyError at once.
    """

    def __init__(self, data: dict[str, bytes] | None = None) -> None:
        self.data: dict[str, bytes] = dict(data or {})
        self.log: list[tuple[str, str]] = []
        self._lock = threading.RLock()
        self._writers: set[str] = set()
        self._collecting = False

    @property
    def location(self) -> str:
        return "memory"

    def copy(self) -> MemoryStore:
        """Return another store with what this one holds now, and no locks."""
        with self._lock:
            return MemoryStore(self.data)

    def get(self, key: str) -> bytes:
        with self._lock:
            self.log.append(("get", key))
            if key not in self.data:
                raise NoInputError("not in the store", where=key)
            return self.data[key]

    def exists(self, key: str) -> bool:
        with self._lock:
            return key in self.data

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self.log.append(("put", key))
            self.data[key] = bytes(data)

    def put_new(self, key: str, data: bytes) -> None:
        with self._lock:
            self.log.append(("put_new", key))
            if self.data.setdefault(key, bytes(data)) != data:
                raise BusyError("in the store already with other contents", where=key)

    def flush(self) -> None:
        """There is nothing that could be lost."""

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._lock:
            found = sorted((key, len(data)) for key, data in self.data.items() if key.startswith(prefix))
        return (Listed(key, size) for key, size in found)

    def set_aside(self, name: bytes) -> str:
        with self._lock:
            if (key := chunk_key(name)) not in self.data:
                raise NoInputError("not in the store", where=key)
            self.data[aside_key(name)] = self.data.pop(key)
            return aside_key(name)

    def delete(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self.log.append(("delete", key))
                self.data.pop(key, None)

    def writing(self, guest: str, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        return self._holding_guest(guest)

    def collecting(self, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        return self._holding_all()

    @contextlib.contextmanager
    def _holding_guest(self, guest: str) -> Iterator[None]:
        with self._lock:
            if self._collecting or guest in self._writers:
                raise BusyError("the store is in use", where=self.location)
            self._writers.add(guest)
        try:
            yield
        finally:
            with self._lock:
                self._writers.discard(guest)

    @contextlib.contextmanager
    def _holding_all(self) -> Iterator[None]:
        with self._lock:
            if self._collecting or self._writers:
                raise BusyError("the store is in use", where=self.location)
            self._collecting = True
        try:
            yield
        finally:
            with self._lock:
                self._collecting = False
