"""Moving chunks that cannot be used any more out of the way, so that they are stored again.

    chunks/3fa1/3fa1….cacnk     damaged: a take that needs these contents would find them there and store nothing
      │  store held alone, chunk read again
      ▼
    damaged/3fa1….cacnk         the bytes as they were found; nothing names them, nothing removes them
    chunks/3fa1/                free for the next take whose disk has these contents, which helps all who need them

What was known of a backing file that needs a chunk which is not there now is forgotten in the same moment: else the
next take would name it again without reading the disk.

It is done while nobody adds to the store, for a writer that has just seen a chunk will name it. What is sound when it
is read again stays. What cannot be read is moved as well, when it can be: a disk's bad sectors do not heal, and a store
that fails as a whole moves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from umldisk.checkpoint.chunks import unpack
from umldisk.checkpoint.store import Store, base_key, chunk_key, chunk_name
from umldisk.checkpoint.verifying import MOST_CHUNK_BYTES, Condition, Damage
from umldisk.errors import DataError, NoInputError, StorageError


@dataclass(frozen=True, slots=True)
class Aside:
    """The keys where damaged chunks lie now, and why others are still in their place, a line each."""

    keys: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def set_aside(store: Store, damages: Iterable[Damage], *, wait_seconds: float = 0) -> Aside:
    """Move the damaged chunks, and forget what was known of backing files that need them or one that is missing.

    Raises BusyError while anybody adds to the store, StorageError when it cannot be written to.
    """
    found = list(damages)
    if not found:
        return Aside()
    keys: list[str] = []
    failures: list[str] = []
    with store.collecting(wait_seconds=wait_seconds):
        for damage in found:
            try:
                keys += _moved(store, damage)
            except StorageError as error:
                failures.append(error.line())
            else:
                store.delete(
                    base_key(hurt.guest, hurt.drive) for hurt in damage.hurt if hurt.number is None and hurt.drive
                )
    return Aside(tuple(keys), tuple(failures))


def _moved(store: Store, damage: Damage) -> list[str]:
    """Move the chunk that is damaged, if it still is; return its new key."""
    name = chunk_name(damage.key)
    if name is None or damage.condition is Condition.MISSING or _is_sound(store, name):
        return []
    with contextlib.suppress(NoInputError):
        return [store.set_aside(name)]
    return []


def _is_sound(store: Store, name: bytes) -> bool:
    key = chunk_key(name)
    try:
        unpack(store.get(key), name, most_bytes=MOST_CHUNK_BYTES, where=key)
    except StorageError as error:
        if isinstance(error.__cause__, PermissionError):
            raise  # that is no damage
        return False
    except (DataError, NoInputError):
        return False
    return True
