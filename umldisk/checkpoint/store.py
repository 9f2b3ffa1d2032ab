"""What a store is: keys with bytes, on a directory or on an S3 bucket, the same keys on both.

    chunks/3fa1/3fa1…64 hex….cacnk        one chunk, a zstd frame, named by its contents
    guests/NAME/00000012.json             the twelfth record of a guest: what happened, and the digest of the eleventh
    guests/NAME/00000012.caibx            the index that belongs to it, if it is a checkpoint that was not reclaimed
    guests/NAME/base-DRIVE.caibx          what the drive's backing file is known to hold, for the next night
    damaged/3fa1…64 hex….cacnk            bytes that lay under that chunk's name and are no such chunk (`setting_aside`)

Rules that all stores and all who use them keep, so that several hosts can share one:

- A key appears whole or not at all. Chunks and records never change once they are there; putting one again is harmless.
- Chunks come before the index that names them, the index before its record. Dying in between leaves chunks that
  nothing names.
- Whoever adds holds the store with `writing`, whoever reclaims with `collecting`, which excludes all writers of all
  hosts. Only what is named by no index of any guest is ever reclaimed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

CHUNKS = "chunks/"
DAMAGED = "damaged/"
GUESTS = "guests/"
CHUNK_SUFFIX = ".cacnk"
INDEX_SUFFIX = ".caibx"
RECORD_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a listing with the size of what is stored."""

    key: str
    size_bytes: int


class Store(Protocol):
    """Where chunks, indexes and records are kept; safe to use from several threads.

    Every method raises StorageError when the store fails (after its own retries), and never loses what it acknowledged.
    """

    @property
    def location(self) -> str:
        """What the user called it: a directory or s3://bucket/prefix."""

    def get(self, key: str) -> bytes:
        """Return what is stored; raises NoInputError when there is nothing."""

    def exists(self, key: str) -> bool:
        """Whether there is something under `key`; cheap when asked often."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data`, replacing what was there; it is durable after the next `flush`, or when this is not a chunk."""

    def put_new(self, key: str, data: bytes) -> None:
        """Store `data` durably; raises BusyError when the key is there already with other bytes."""

    def flush(self) -> None:
        """Make every chunk that was put durable."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield every key that begins with `prefix`, in order."""

    def set_aside(self, name: bytes) -> str:
        """Move a chunk, unread, to `aside_key`, durably, and return that; raises NoInputError when there is none."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys; those that are missing already do not matter."""

    def writing(self, guest: str, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Hold the store for adding to `guest`; others may add to other guests. Raises BusyError."""

    def collecting(self, *, wait_seconds: float = 0) -> AbstractContextManager[None]:
        """Hold the store alone, for reclaiming. Raises BusyError while anybody writes."""


def chunk_key(name: bytes) -> str:
    """Return where a chunk lies, as casync and desync look for it."""
    text = name.hex()
    return f"{CHUNKS}{text[:4]}/{text}{CHUNK_SUFFIX}"


def aside_key(name: bytes) -> str:
    """Return where the bytes lie that were found under a chunk's name and are no such chunk."""
    return f"{DAMAGED}{name.hex()}{CHUNK_SUFFIX}"


def chunk_name(key: str) -> bytes | None:
    """Return the name of the chunk under `key`, or None when that is no chunk's key."""
    directory, _slash, file = key.removeprefix(CHUNKS).partition("/")
    text = file.removesuffix(CHUNK_SUFFIX)
    try:
        name = bytes.fromhex(text)
    except ValueError:
        return None
    return name if len(name) == 32 and chunk_key(name) == key and directory == text[:4] else None


def record_key(guest: str, number: int) -> str:
    """Return where a guest's record lies."""
    return f"{GUESTS}{guest}/{number:08d}{RECORD_SUFFIX}"


def index_key(guest: str, number: int) -> str:
    """Return where the index of a checkpoint lies."""
    return f"{GUESTS}{guest}/{number:08d}{INDEX_SUFFIX}"


def base_key(guest: str, drive: str) -> str:
    """Return where the index lies that a drive's backing file is known to equal."""
    return f"{GUESTS}{guest}/base-{drive}{INDEX_SUFFIX}"
