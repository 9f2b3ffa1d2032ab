"""What a restore noted of a base, read back from its files by whoever finishes it.

A note only saves the next checkpoint some reading. One that is missing, of an earlier version, or makes no sense is
therefore no error: nothing is known of that base then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

from umldisk.checkpoint.basestate import BackingIdentity, BaseState

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBERS = tuple(field.name for field in fields(BackingIdentity))


def parse_notes(rows: object) -> dict[str, BaseState]:
    """Read notes by drive, as `dataclasses.asdict` gives them, without those that are none."""
    if not isinstance(rows, Mapping):
        return {}
    found = {drive: parse_note(row) for drive, row in rows.items()}
    return {drive: note for drive, note in found.items() if note is not None and note.drive == drive}


def parse_note(row: object) -> BaseState | None:
    """Read one note, or return None when it is none."""
    if not isinstance(row, Mapping) or not isinstance(identity := row.get("identity"), Mapping):
        return None
    guest, drive, index_sha256 = (row.get(name) for name in ("guest", "drive", "index_sha256"))
    numbers = {name: number for name in _NUMBERS if type(number := identity.get(name)) is int}
    if not (isinstance(guest, str) and isinstance(drive, str) and len(numbers) == len(_NUMBERS)):
        return None
    if not (isinstance(index_sha256, str) and _SHA256.fullmatch(index_sha256)):
        return None
    return BaseState(guest, drive, index_sha256, BackingIdentity(**numbers))
