"""Checkpoints for tests: values for whoever only looks at them, and histories written into a store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.chunks import pack
from umldisk.checkpoint.index import CHUNK_BYTES, Index, name_of, places, replaced
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken, digest_of
from umldisk.checkpoint.store import Store, base_key, chunk_key, index_key, record_key

START = datetime(2026, 11, 1, 3, tzinfo=UTC)


def taken(drive: str = "var", *, index: Index | None = None, **facts: object) -> Taken:
    values: dict[str, object] = {
        "drive": drive,
        "size_bytes": index.size_bytes if index else 1 << 30,
        "index_sha256": index.digest() if index else "0" * 64,
        "parent": None,
        "base_index_sha256": None,
        "changed_bytes": 0,
        "stored_bytes": 0,
        "read_bytes": 0,
        "read_whole": False,
        "consistency": Consistency.OFF,
        "merged": False,
        "duration_seconds": 0.5,
    }
    return Taken(**(values | facts))  # type: ignore[arg-type]


def checkpoint(
    number: int,
    time: datetime,
    *,
    guest: str = "blackdance",
    drive: str = "var",
    protected: bool = False,
    tags: tuple[str, ...] = (),
    damage: str = "",
    deleted: bool = False,
    **facts: object,
) -> Checkpoint:
    what = taken(drive, **facts)  # type: ignore[arg-type]
    record = Record(guest, number, time.astimezone(UTC), Kind.CHECKPOINT, "", "host", "1", what)
    deleted_at = record.time if deleted else None
    return Checkpoint(record, what, protected=protected, tags=tags, damage=damage, deleted_at=deleted_at)


class History:
    """A guest's records in a store, each after the one before; it writes as umldisk does, index before record."""

    def __init__(self, store: Store, guest: str = "blackdance") -> None:
        self.store = store
        self.guest = guest
        self.count = 0
        self._previous = ""

    def record(self, kind: Kind, *subjects: int, what: Taken | None = None, detail: str = "") -> int:
        """Append a record, which gets the next number."""
        number = self.count + 1
        time = START + timedelta(days=number)
        row = Record(self.guest, number, time, kind, self._previous, "host", "1", what, subjects, detail)
        data = row.build()
        self.store.put_new(record_key(self.guest, number), data)
        self.count, self._previous = number, digest_of(data)
        return number

    def take(self, index: Index, drive: str = "var") -> int:
        """Record an index, whose chunks are in the store already."""
        self.store.put(index_key(self.guest, self.count + 1), index.build())
        return self.record(Kind.CHECKPOINT, what=taken(drive, index=index))

    def delete(self, *numbers: int) -> int:
        return self.record(Kind.DELETE, *numbers)

    def put_base(self, index: Index, drive: str = "var") -> None:
        self.store.put(base_key(self.guest, drive), index.build())


def put_disk(store: Store, image: bytes) -> Index:
    """Put all chunks of a disk, cut at our places, and return its index."""
    changed = {}
    for start, end in places(len(image)):
        data = image[start:end]
        changed[start] = name_of(data)
        store.put(chunk_key(name_of(data)), pack(data))
    index = replaced(None, len(image), changed)
    for chunk in index.chunks():
        store.put(chunk_key(chunk.name), pack(image[chunk.start : chunk.end]))
    return index


def labelled(store: Store, labels: Mapping[int, str], places_count: int) -> Index:
    """Return an index whose places have the chunks called by `labels`, which are put as mere stand-ins."""
    changed = {place * CHUNK_BYTES: name_of(label.encode()) for place, label in labels.items()}
    index = replaced(None, places_count * CHUNK_BYTES, changed)
    for name in sorted(index.names()):
        store.put(chunk_key(name), b"stand-in")
    return index


def cut(image: bytes, ends: list[int]) -> tuple[Index, dict[str, bytes]]:
    """Return the index of a disk that is cut at any places, and its chunks as a store has them."""
    from umldisk.checkpoint.layout import ITEM

    table, chunks, start = b"", {}, 0
    for end in sorted({*ends, len(image)} - {0}):
        name = name_of(image[start:end])
        table += ITEM.pack(end, name)
        chunks[chunk_key(name)] = pack(image[start:end])
        start = end
    return Index(table, 1, CHUNK_BYTES, 1 << 20), chunks
