"""What is wanted of a take, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from umldisk.checkpoint.record import Consistency, Taken
from umldisk.checkpoint.recording import Why
from umldisk.cow.inplace import SiblingPolicy

LONGEST_PAUSE_SECONDS = 30.0
"""How long a running guest stands still at most unless told otherwise."""


@dataclass(frozen=True, slots=True)
class TakeOptions:
    """How a checkpoint is taken.

    `merge` folds each COW file into its backing file afterwards and leaves an empty one; `siblings` says what then
    happens to other COW files on that backing. `lock_wait_seconds` is how long another writer of the store is waited
    for. Of a guest that runs, `freeze` wants the file systems frozen also where a journal would do, and
    `longest_pause_seconds` is how long it may stand still. `dry_run` says what would be read, and writes nothing.
    """

    merge: bool = False
    siblings: SiblingPolicy = SiblingPolicy.REFUSE
    reason: str = ""
    tags: tuple[str, ...] = ()
    lock_wait_seconds: float = 0
    freeze: bool = False
    longest_pause_seconds: float = LONGEST_PAUSE_SECONDS
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class TakenDrive:
    """One drive of a report; `number` is the checkpoint's, None when nothing was recorded.

    `read_whole` says that all data was read, `why` what was known of the backing file. `changed_bytes` counts what
    differs from the `parent` checkpoint, `stored_bytes` what the store grew by.
    """

    drive: str
    number: int | None
    parent: int | None
    size_bytes: int
    index_sha256: str | None
    changed_bytes: int | None
    stored_bytes: int
    read_bytes: int
    read_whole: bool
    why: Why
    merged: bool
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class TakeReport:
    """What was taken, into which store; `pause_seconds` is how long a guest that runs stood still, else None."""

    guest: str
    store: str
    consistency: Consistency
    pause_seconds: float | None
    drives: tuple[TakenDrive, ...]
    dry_run: bool


def described(taken: Taken, number: int | None, why: Why, seconds: float) -> TakenDrive:
    """Return what a report says of a drive that was taken."""
    return TakenDrive(
        drive=taken.drive,
        number=number,
        parent=taken.parent,
        size_bytes=taken.size_bytes,
        index_sha256=taken.index_sha256,
        changed_bytes=taken.changed_bytes,
        stored_bytes=taken.stored_bytes,
        read_bytes=taken.read_bytes,
        read_whole=taken.read_whole,
        why=why,
        merged=taken.merged,
        duration_seconds=round(seconds, 3),
    )
