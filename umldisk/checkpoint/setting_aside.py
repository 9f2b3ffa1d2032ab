"""Moving chunks that hold something else than their name says out of the way, so that they are stored again.

    chunks/3fa1/3fa1….cacnk     damaged: a take that needs these contents would find them there and store nothing
      │  held alone, read again
      ▼
    damaged/3fa1….cacnk         the bytes as they were found; nothing names them, nothing removes them
    chunks/3fa1/                free for the next take whose disk has these contents, which helps all who need them

It is done while nobody adds to the store, for a writer that has just seen a chunk will name it. What is sound when it
is read again stays, and so does what cannot be read: that may be the store's failure of a moment.
"""

from __future__ import annotations

from collections.abc import Iterable

from umldisk.checkpoint.chunks import unpack
from umldisk.checkpoint.store import CHUNK_SUFFIX, DAMAGED, Store, chunk_key
from umldisk.errors import DataError, NoInputError

MOST_CHUNK_BYTES = 128 << 20
"""The largest chunk that casync itself takes (CA_CHUNK_SIZE_LIMIT_MAX)."""


def set_aside(store: Store, names: Iterable[bytes], *, wait_seconds: float = 0) -> tuple[str, ...]:
    """Move the chunks among `names` that are damaged, and return the keys where their bytes are now.

    Raises BusyError while anybody adds to the store, StorageError when it fails; no bytes are lost then.
    """
    wanted = list(names)
    if not wanted:
        return ()
    with store.collecting(wait_seconds=wait_seconds):
        return tuple(key for name in wanted if (key := _move(store, name)))


def _move(store: Store, name: bytes) -> str:
    key = chunk_key(name)
    try:
        data = store.get(key)
    except NoInputError:
        return ""
    try:
        unpack(data, name, most_bytes=MOST_CHUNK_BYTES, where=key)
    except DataError:
        place = f"{DAMAGED}{name.hex()}{CHUNK_SUFFIX}"
        store.put(place, data)
        store.delete([key])
        return place
    return ""
