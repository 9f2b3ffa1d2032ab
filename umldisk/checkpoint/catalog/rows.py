"""Rows and what they stand for; 10,000 of them are a list that nobody should wait for, hence no generic mapping."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Consistency, Kind, Record, Taken

Row = tuple[Any, ...]

_KINDS = {kind.value: kind for kind in Kind}
_CONSISTENCIES = {consistency.value: consistency for consistency in Consistency}

RECORD_COLUMNS = "guest, number, digest, previous, time, kind, host, version, detail, extra"
TAKEN_COLUMNS = (
    "drive, size_bytes, index_sha256, parent, base_index_sha256, changed_bytes, stored_bytes, read_bytes, read_whole,"
    " consistency, merged, duration_seconds, reason, given_tags"
)
STANDING_COLUMNS = (
    "tags, protected, verified_at, verified_how, damage, deleted_at, drilled_at, drilled_how, drill_failure"
)
CHECKPOINT_COLUMNS = f"guest, number, {TAKEN_COLUMNS}, {STANDING_COLUMNS}"

_TAKEN_WIDTH = TAKEN_COLUMNS.count(",") + 1
_RECORD_WIDTH = RECORD_COLUMNS.count(",") + 1


def placeholders(columns: str) -> str:
    """Return as many question marks as there are columns."""
    return ", ".join("?" * (columns.count(",") + 1))


# -- to rows ----------------------------------------------------------------------------------------------------------


def record_row(record: Record, digest: str) -> Row:
    """Return RECORD_COLUMNS of a record."""
    return (
        record.guest,
        record.number,
        digest,
        record.previous,
        _time_text(record.time),
        record.kind.value,
        record.host,
        record.version,
        record.detail,
        json.dumps(dict(record.extra), sort_keys=True),
    )


def checkpoint_row(checkpoint: Checkpoint) -> Row:
    """Return CHECKPOINT_COLUMNS of a checkpoint."""
    taken = checkpoint.taken
    return (
        checkpoint.guest,
        checkpoint.number,
        taken.drive,
        taken.size_bytes,
        taken.index_sha256,
        taken.parent,
        taken.base_index_sha256,
        taken.changed_bytes,
        taken.stored_bytes,
        taken.read_bytes,
        int(taken.read_whole),
        taken.consistency.value,
        int(taken.merged),
        taken.duration_seconds,
        taken.reason,
        json.dumps(taken.tags),
        *standing_row(checkpoint),
    )


def standing_row(checkpoint: Checkpoint) -> Row:
    """Return STANDING_COLUMNS of a checkpoint."""
    return (
        json.dumps(checkpoint.tags),
        int(checkpoint.protected),
        checkpoint.verified_at and _time_text(checkpoint.verified_at),
        checkpoint.verified_how,
        checkpoint.damage,
        checkpoint.deleted_at and _time_text(checkpoint.deleted_at),
        checkpoint.drilled_at and _time_text(checkpoint.drilled_at),
        checkpoint.drilled_how,
        checkpoint.drill_failure,
    )


def base_state_row(state: BaseState) -> Row:
    """Return the columns of `base_states`."""
    seen = state.identity
    texts = (str(seen.mtime_ns), str(seen.inode), str(seen.ctime_ns), str(seen.device))
    return (state.guest, state.drive, state.index_sha256, seen.size_bytes, *texts)


def _time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")


# -- from rows --------------------------------------------------------------------------------------------------------


def record_of(row: Row, taken: Taken | None, subjects: tuple[int, ...]) -> Record:
    """Return the record that RECORD_COLUMNS stand for."""
    guest, number, _digest, previous, time, kind, host, version, detail, extra = row
    return Record(
        guest,
        number,
        datetime.fromisoformat(time),
        _KINDS[kind],
        previous,
        host,
        version,
        taken,
        subjects,
        detail,
        _extra(extra),
    )


def taken_of(row: Row) -> Taken:
    """Return what TAKEN_COLUMNS say."""
    drive, size, index, parent, base, changed, stored, read, whole, consistency, merged, duration, reason, tags = row
    return Taken(
        drive,
        size,
        index,
        parent,
        base,
        changed,
        stored,
        read,
        bool(whole),
        _CONSISTENCIES[consistency],
        bool(merged),
        duration,
        reason,
        _tags(tags),
    )


def checkpoint_of(row: Row) -> Checkpoint:
    """Return the checkpoint that RECORD_COLUMNS, TAKEN_COLUMNS and STANDING_COLUMNS stand for."""
    taken = taken_of(row[_RECORD_WIDTH : _RECORD_WIDTH + _TAKEN_WIDTH])
    standing = row[_RECORD_WIDTH + _TAKEN_WIDTH :]
    tags, protected, verified_at, verified_how, damage, deleted_at, drilled_at, drilled_how, drill_failure = standing
    return Checkpoint(
        record_of(row[:_RECORD_WIDTH], taken, ()),
        taken,
        bool(protected),
        _tags(tags),
        verified_at and datetime.fromisoformat(verified_at),
        verified_how,
        damage,
        deleted_at and datetime.fromisoformat(deleted_at),
        drilled_at and datetime.fromisoformat(drilled_at),
        drilled_how,
        drill_failure,
    )


def base_state_of(row: Row) -> BaseState:
    """Return what the columns of `base_states` say."""
    guest, drive, index, size, mtime, inode, ctime, device = row
    return BaseState(guest, drive, index, BackingIdentity(size, int(mtime), int(inode), int(ctime), int(device)))


@lru_cache(maxsize=256)  # most nights have the tags of the night before
def _tags(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _extra(text: str) -> dict[str, Any]:
    return {} if text == "{}" else dict(json.loads(text))
