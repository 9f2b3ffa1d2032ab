"""Made-up histories of guests: a clock that ticks, drives that were taken, and records appended as commands do it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.kit.memory_store import MemoryStore
from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken
from umldisk.checkpoint.store import Store

FIRST_NIGHT = datetime(2026, 3, 1, 3, tzinfo=UTC)
TAKEN = Taken(
    drive="var",
    size_bytes=1 << 30,
    index_sha256="ab" * 32,
    parent=None,
    base_index_sha256=None,
    changed_bytes=65536,
    stored_bytes=40000,
    read_bytes=131072,
    read_whole=True,
    consistency=Consistency.OFF,
    merged=False,
    duration_seconds=1.25,
    reason="nightly",
    tags=("night",),
)


class Nights:
    """A clock that goes on by a day whenever it is looked at, from the first of March 2026 at 3 o'clock."""

    def __init__(self) -> None:
        self.now = FIRST_NIGHT - timedelta(days=1)

    def __call__(self) -> datetime:
        self.now += timedelta(days=1)
        return self.now


class Keeper:
    """Appends to guests' histories on one host, which has a catalog of its own."""

    def __init__(self, store: Store, catalog: Catalog, host: str = "host") -> None:
        self.store = store
        self.catalog = catalog
        self.host = host
        self.clock = Nights()

    def say(self, kind: Kind, guest: str, *subjects: int, detail: str = "", taken: Taken | None = None) -> Record:
        """Append one record."""
        with self.store.writing(guest):
            return history.append(
                self.store,
                self.catalog,
                guest,
                kind,
                clock=self.clock,
                host=self.host,
                taken=taken,
                subjects=subjects,
                detail=detail,
            )

    def take(self, guest: str = "web", drive: str = "var", *, tags: tuple[str, ...] = ()) -> Record:
        """Append a checkpoint whose parent is the drive's last one."""
        history.sync(self.store, self.catalog, guest)
        before = [found.number for found in self.catalog.checkpoints(guest, drive=drive, deleted=True)]
        taken = replace(TAKEN, drive=drive, parent=before[-1] if before else None, tags=tags)
        return self.say(Kind.CHECKPOINT, guest, taken=taken)


def filled(path: Path, nights: int = 5) -> MemoryStore:
    """Make a catalog with some nights of the guest web, and return the store that has them."""
    store = MemoryStore()
    with Catalog.open(path, writable=True) as catalog:
        keeper = Keeper(store, catalog)
        for _night in range(nights):
            keeper.take(tags=("night",))
        keeper.say(Kind.TAG, "web", 1, detail="good")
    return store
