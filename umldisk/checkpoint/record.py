"""A guest's history: one record after the other, each with the digest of the one before.

    00000001.json   take var          previous ""
    00000002.json   take var          previous sha256(00000001.json)
    00000003.json   protect 2         previous sha256(00000002.json)
    00000004.json   delete 1          previous sha256(00000003.json)

The digest is of the file's bytes, so that whoever removes, alters or reorders a record breaks every later one, and the
last digest alone, kept elsewhere (`checkpoint anchor`), proves the whole history before it. Nothing is ever taken back:
what protects, tags, verifies, drills or deletes a checkpoint is a record of its own. So catalog.db can be made anew
from the store, and is a cache of it.

A record is JSON with sorted keys, for people and for other programs. Unknown keys of a later version are kept in
`extra` (those inside `taken` are passed over) and go into the digest like all bytes, so that an older umldisk verifies
what a newer one wrote. A file need not be spelled as `build` spells it, but what it says must be unambiguous: UTF-8, no
key twice, no number that another program would round, every value of its own type. Who may write to a store can put
anything there, and what is read from it goes into a database and onto a terminal.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from umldisk.errors import DataError

FORMAT = 1
MOST_BYTES = 4 << 20
"""More than any record needs: a deletion that names 100,000 checkpoints has 1 MiB."""
WHOLE = "all"
"""How a verification was done that read everything a checkpoint needs."""

_MOST_NUMBER = (1 << 63) - 1
_MOST_LEVELS = 16
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Kind(Enum):
    """What a record says."""

    CHECKPOINT = "checkpoint"
    PROTECT = "protect"
    UNPROTECT = "unprotect"
    TAG = "tag"
    UNTAG = "untag"
    VERIFY = "verify"
    DRILL = "drill"
    DELETE = "delete"


class Consistency(Enum):
    """How sure it is that a recorded drive is a state that its guest would have written out."""

    OFF = "off"
    FROZEN = "frozen"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a CHECKPOINT record says of the drive; sizes in bytes, digests in hexadecimal.

    `index_sha256` is of the index as a file. `parent` is the number of the checkpoint of the same drive before it, or
    None. `base_index_sha256` is the index that the backing file equalled, None when it was not known. `changed_bytes`
    counts chunks that differ from the parent's, `stored_bytes` what the store grew by. `read_whole` says that the
    bitmap could not be relied on.
    """

    drive: str
    size_bytes: int
    index_sha256: str
    parent: int | None
    base_index_sha256: str | None
    changed_bytes: int
    stored_bytes: int
    read_bytes: int
    read_whole: bool
    consistency: Consistency
    merged: bool
    duration_seconds: float
    reason: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One record; `subjects` are the numbers of the checkpoints that a record of another kind is about, ascending.

    `time` is in UTC. `detail` is a tag, or how a verification or a drill was done and ended. `previous` is the digest
    of the record before it, "" for the first.
    """

    guest: str
    number: int
    time: datetime
    kind: Kind
    previous: str
    host: str
    version: str
    taken: Taken | None = None
    subjects: tuple[int, ...] = ()
    detail: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> bytes:
        """Return the record as a file."""
        row: dict[str, Any] = dict(self.extra)
        row |= {
            "format": FORMAT,
            "guest": self.guest,
            "number": self.number,
            "time": self.time.isoformat(),
            "kind": self.kind.value,
            "previous": self.previous,
            "host": self.host,
            "version": self.version,
        }
        if self.taken:
            row["taken"] = _plain(self.taken)
        if self.subjects:
            row["subjects"] = list(self.subjects)
        if self.detail:
            row["detail"] = self.detail
        return json.dumps(row, sort_keys=True, indent=1).encode() + b"\n"


def digest_of(data: bytes) -> str:
    """Return the digest of a record's file, which the next record holds."""
    return hashlib.sha256(data).hexdigest()


def _plain(taken: Taken) -> dict[str, Any]:
    names = Taken.__dataclass_fields__
    row = {name: getattr(taken, name) for name in names}
    return row | {"consistency": taken.consistency.value, "tags": list(taken.tags)}


# -- what a verification and a drill say ------------------------------------------------------------------------------


def verification(how: str, damage: str = "") -> str:
    """Return the `detail` of a VERIFY record: how it was done (WHOLE, "10%", ...) and what it found, "" for nothing."""
    return f"{how}: {damage}" if damage else how


def split_verification(detail: str) -> tuple[str, str]:
    """Return how a verification was done and what it found, "" for nothing."""
    how, _colon, damage = detail.partition(": ")
    return how, damage


def drilling(how: str, failure: str = "") -> str:
    """Return the `detail` of a DRILL record: how far it came, without a colon, and why it failed, "" for passed."""
    return verification(how, failure)


def split_drilling(detail: str) -> tuple[str, str]:
    """Return how far a drill came and why it failed, "" when it passed."""
    return split_verification(detail)


# -- reading ----------------------------------------------------------------------------------------------------------


def parse(data: bytes, *, where: str = "") -> Record:
    """Read a record; raises DataError when it is none, is ambiguous or is of a later format."""
    try:
        row = _json_object(data)
        if (found := row.pop("format")) != FORMAT or isinstance(found, bool):
            raise DataError("a record of another format", where=where or None, expected=FORMAT, found=repr(found)[:40])
        return _record(row)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        raise DataError("a record cannot be read", where=where or None, found=found) from error


def _json_object(data: bytes) -> dict[str, Any]:
    if len(data) > MOST_BYTES:
        raise ValueError(f"{len(data)} bytes")
    text = data.decode("utf-8")  # json would also take UTF-16 and UTF-32
    row = json.loads(text, object_pairs_hook=_unambiguous)
    if not isinstance(row, dict):
        raise TypeError("not an object")
    return row


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a key twice")
    return row


def _record(row: dict[str, Any]) -> Record:
    taken = row.pop("taken", None)
    record = Record(
        guest=_name(row.pop("guest")),
        number=_count(row.pop("number"), least=1),
        time=_time(row.pop("time")),
        kind=Kind(_text(row.pop("kind"))),
        previous=_previous(row.pop("previous")),
        host=_text(row.pop("host")),
        version=_text(row.pop("version")),
        taken=None if taken is None else _taken(taken),
        subjects=tuple(_count(number, least=1) for number in _list(row.pop("subjects", []))),
        detail=_text(row.pop("detail", "")),
        extra=row,
    )
    _require_plain(record.extra, _MOST_LEVELS)
    _require_sense(record)
    return record


def _require_sense(record: Record) -> None:
    """Refuse what no record can say, whatever the others say."""
    if (record.kind is Kind.CHECKPOINT) != (record.taken is not None):
        raise ValueError(
            f"a record of kind {record.kind.value} {'without' if record.taken is None else 'with'} a drive"
        )
    if record.taken is not None and record.subjects:
        raise ValueError("a checkpoint that is about others")
    if list(record.subjects) != sorted(set(record.subjects)):
        raise ValueError("subjects that do not ascend")
    earlier = (*record.subjects, *([record.taken.parent] if record.taken and record.taken.parent else []))
    if any(number >= record.number for number in earlier):
        raise ValueError("a record about a later one")
    if (record.previous == "") != (record.number == 1):
        raise ValueError("the first record and no other follows none")
    if record.kind in (Kind.TAG, Kind.UNTAG) and not record.detail:
        raise ValueError("a tag without a name")


def _taken(row: Any) -> Taken:
    if not isinstance(row, dict):
        raise TypeError("taken is not an object")
    parent, base = row["parent"], row["base_index_sha256"]
    _require_plain(row, _MOST_LEVELS)
    return Taken(
        drive=_name(row["drive"]),
        size_bytes=_count(row["size_bytes"]),
        index_sha256=_digest(row["index_sha256"]),
        parent=None if parent is None else _count(parent, least=1),
        base_index_sha256=None if base is None else _digest(base),
        changed_bytes=_count(row["changed_bytes"]),
        stored_bytes=_count(row["stored_bytes"]),
        read_bytes=_count(row["read_bytes"]),
        read_whole=_flag(row["read_whole"]),
        consistency=Consistency(_text(row["consistency"])),
        merged=_flag(row["merged"]),
        duration_seconds=_seconds(row["duration_seconds"]),
        reason=_text(row["reason"]),
        tags=tuple(_text(tag) for tag in _list(row["tags"])),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text must be")
    value.encode("utf-8")  # JSON can spell half a character, which nothing else can hold
    return value


def _name(value: Any) -> str:
    """Return a guest's or a drive's name, which becomes part of keys and paths."""
    if not _NAME.fullmatch(text := _text(value)):
        raise ValueError("not a name")
    return text


def _digest(value: Any) -> str:
    if not _DIGEST.fullmatch(text := _text(value)):
        raise ValueError("not a digest")
    return text


def _previous(value: Any) -> str:
    return "" if value == "" else _digest(value)


def _count(value: Any, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where a whole number must be")
    if not least <= value <= _MOST_NUMBER:
        raise ValueError("a number out of range")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} where a number must be")
    if not (math.isfinite(value) and 0 <= value <= _MOST_NUMBER):
        raise ValueError("a duration out of range")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{type(value).__name__} where true or false must be")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list must be")
    return value


def _time(value: Any) -> datetime:
    time = datetime.fromisoformat(_text(value))
    if time.utcoffset() is None:
        raise ValueError("a time without a zone")
    return time.astimezone(UTC)


def _require_plain(value: Any, levels: int) -> None:
    """Refuse what a later version cannot have meant: nesting that exhausts the stack, NaN and infinity."""
    if levels == 0:
        raise ValueError("nested too deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number out of range")
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for part in inner:
        _require_plain(part, levels - 1)
