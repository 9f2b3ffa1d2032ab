"""How checkpoints stand after their guest's history: each record changes what is known of its subjects.

    record       changes of its subjects
    protect      protected
    unprotect    not protected
    tag, untag   with or without the tag `detail`
    verify       verified when and how; damage, if any was found
    drill        drilled when and how; the failure, if it did not pass
    delete       deleted, from the first such record on

Damage once found stands until a verification of everything finds none: a sample that happens to miss it proves nothing.
A drill that failed says nothing of damage: the checkpoint may hold just what the guest had, and the guest be at fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import WHOLE, Kind, Record, split_drilling, split_verification


def begun(record: Record) -> Checkpoint:
    """Return a checkpoint as it stands right after its own record, which must be of kind CHECKPOINT."""
    assert record.taken is not None
    return Checkpoint(record, record.taken, tags=tuple(dict.fromkeys(record.taken.tags)))


def after(checkpoint: Checkpoint, record: Record) -> Checkpoint:
    """Return how `checkpoint`, which is among the record's subjects, stands after it."""
    match record.kind:
        case Kind.PROTECT | Kind.UNPROTECT:
            return replace(checkpoint, protected=record.kind is Kind.PROTECT)
        case Kind.TAG | Kind.UNTAG:
            others = (tag for tag in checkpoint.tags if tag != record.detail or record.kind is Kind.TAG)
            added = [record.detail] if record.kind is Kind.TAG else []
            return replace(checkpoint, tags=tuple(dict.fromkeys([*others, *added])))
        case Kind.VERIFY:
            how, damage = split_verification(record.detail)
            stands = damage or ("" if how == WHOLE else checkpoint.damage)
            return replace(checkpoint, verified_at=record.time, verified_how=how, damage=stands)
        case Kind.DRILL:
            how, failure = split_drilling(record.detail)
            return replace(checkpoint, drilled_at=record.time, drilled_how=how, drill_failure=failure)
        case Kind.DELETE:
            return replace(checkpoint, deleted_at=checkpoint.deleted_at or record.time)
        case Kind.CHECKPOINT:
            return checkpoint


def standing(records: Iterable[Record]) -> dict[int, Checkpoint]:
    """Return every checkpoint of one guest's history by its number, oldest first, the deleted ones included."""
    found: dict[int, Checkpoint] = {}
    for record in records:
        if record.taken is not None:
            found[record.number] = begun(record)
        for number in record.subjects:
            if number in found:
                found[number] = after(found[number], record)
    return found
