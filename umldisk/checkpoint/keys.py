"""Which keys a store has: all others in its place are somebody else's files, and are neither listed nor touched."""

from __future__ import annotations

import re

from umldisk.checkpoint.store import CHUNK_SUFFIX, CHUNKS, DAMAGED, GUESTS, INDEX_SUFFIX, RECORD_SUFFIX
from umldisk.errors import UsageError

_KEY = re.compile(
    rf"{CHUNKS}([0-9a-f]{{4}})/\1[0-9a-f]{{60}}{re.escape(CHUNK_SUFFIX)}"
    rf"|{DAMAGED}[0-9a-f]{{64}}{re.escape(CHUNK_SUFFIX)}"
    rf"|{GUESTS}[^/.][^/\0]*/[^/.][^/\0]*(?:{re.escape(INDEX_SUFFIX)}|{re.escape(RECORD_SUFFIX)})"
)


def is_key(text: str) -> bool:
    """Whether a store may hold something under this name."""
    return _KEY.fullmatch(text) is not None


def require_key(text: str) -> str:
    """Return `text`; raises UsageError unless it is a key, so that none leads out of the store."""
    if not is_key(text):
        raise UsageError("not a key of a store", found=repr(text))
    return text


def is_chunk(key: str) -> bool:
    """Whether the key is of a chunk, of which there are many and which become durable together."""
    return key.startswith(CHUNKS)
