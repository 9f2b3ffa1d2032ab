"""What there is: the checkpoints of a guest or of all, and everything that is known of one; from the catalog alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.record import Consistency, Kind
from umldisk.config.guest import require_guest_name
from umldisk.config.site import Site
from umldisk.ops.checkpoints.naming import find_checkpoint, utc_now
from umldisk.ops.checkpoints.storage import reading_catalog, required_catalog, store_location


@dataclass(frozen=True, slots=True)
class Selection:
    """Which checkpoints are meant: of one drive, with one of the tags; with `deleted` also those marked for removal."""

    drive: str | None = None
    tags: tuple[str, ...] = ()
    deleted: bool = False

    def has(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is meant."""
        is_tagged = not self.tags or any(tag in checkpoint.tags for tag in self.tags)
        return is_tagged and (self.deleted or checkpoint.deleted_at is None)


@dataclass(frozen=True, slots=True)
class Listed:
    """One checkpoint of a list; times in UTC."""

    guest: str
    number: int
    drive: str
    time: datetime
    size_bytes: int
    changed_bytes: int
    stored_bytes: int
    consistency: Consistency
    merged: bool
    reason: str
    tags: tuple[str, ...]
    protected: bool
    verified_at: datetime | None
    damage: str
    deleted_at: datetime | None
    drilled_at: datetime | None
    drill_failure: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Checkpoints by guest and then oldest first; `now` is what ages count from."""

    site: str
    guest: str | None
    now: datetime
    checkpoints: tuple[Listed, ...]


def list_checkpoints(
    site: Site, guest: str | None = None, selection: Selection | None = None, *, clock: Callable[[], datetime] = utc_now
) -> Listing:
    """Return the checkpoints of a guest, or of all guests of the site.

    Raises UsageError for what is no guest's name, NoInputError when there is a store but no catalog, and what reading
    the catalog raises.
    """
    chosen = selection or Selection()
    name = None if guest is None else require_guest_name(guest)
    found: Sequence[Checkpoint] = ()
    with reading_catalog(site) as catalog:
        if catalog is not None:
            found = catalog.checkpoints(name, drive=chosen.drive, deleted=chosen.deleted)
    return Listing(site.directory, name, clock(), tuple(_listed(one) for one in found if chosen.has(one)))


def _listed(checkpoint: Checkpoint) -> Listed:
    record, taken = checkpoint.record, checkpoint.taken
    return Listed(
        record.guest,
        record.number,
        taken.drive,
        record.time,
        taken.size_bytes,
        taken.changed_bytes,
        taken.stored_bytes,
        taken.consistency,
        taken.merged,
        taken.reason,
        checkpoint.tags,
        checkpoint.protected,
        checkpoint.verified_at,
        checkpoint.damage,
        checkpoint.deleted_at,
        checkpoint.drilled_at,
        checkpoint.drill_failure,
    )


# -- one --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """What a later record of the history says of a checkpoint."""

    number: int
    time: datetime
    kind: Kind
    detail: str
    host: str


@dataclass(frozen=True, slots=True)
class Shown:
    """All that is known of a checkpoint; the names are those of umldisk.checkpoint's Record, Taken and Checkpoint."""

    guest: str
    number: int
    drive: str
    time: datetime
    store: str
    index_sha256: str
    base_index_sha256: str | None
    parent: int | None
    size_bytes: int
    changed_bytes: int
    stored_bytes: int
    read_bytes: int
    read_whole: bool
    consistency: Consistency
    merged: bool
    duration_seconds: float
    reason: str
    tags: tuple[str, ...]
    protected: bool
    verified_at: datetime | None
    verified_how: str
    damage: str
    deleted_at: datetime | None
    drilled_at: datetime | None
    drilled_how: str
    drill_failure: str
    host: str
    version: str
    previous: str
    digest: str
    later: tuple[Said, ...]


def show_checkpoint(site: Site, guest: str, name: str, *, drive: str | None = None) -> Shown:
    """Return what is known of the checkpoint that `name` names.

    Raises UsageError for what is no name, NoInputError when there is no such checkpoint, and what reading the catalog
    raises.
    """
    location = store_location(site, guest)
    with required_catalog(site, guest) as catalog:
        checkpoint = find_checkpoint(catalog, guest, name, drive=drive)
        records = catalog.records(guest)
    digest = next(digest for record, digest in records if record.number == checkpoint.number)
    later = tuple(
        Said(record.number, record.time, record.kind, record.detail, record.host)
        for record, _digest in records
        if checkpoint.number in record.subjects
    )
    return _shown(checkpoint, location, digest, later)


def _shown(checkpoint: Checkpoint, store: str, digest: str, later: tuple[Said, ...]) -> Shown:
    record, taken = checkpoint.record, checkpoint.taken
    return Shown(
        guest=record.guest,
        number=record.number,
        drive=taken.drive,
        time=record.time,
        store=store,
        index_sha256=taken.index_sha256,
        base_index_sha256=taken.base_index_sha256,
        parent=taken.parent,
        size_bytes=taken.size_bytes,
        changed_bytes=taken.changed_bytes,
        stored_bytes=taken.stored_bytes,
        read_bytes=taken.read_bytes,
        read_whole=taken.read_whole,
        consistency=taken.consistency,
        merged=taken.merged,
        duration_seconds=taken.duration_seconds,
        reason=taken.reason,
        tags=checkpoint.tags,
        protected=checkpoint.protected,
        verified_at=checkpoint.verified_at,
        verified_how=checkpoint.verified_how,
        damage=checkpoint.damage,
        deleted_at=checkpoint.deleted_at,
        drilled_at=checkpoint.drilled_at,
        drilled_how=checkpoint.drilled_how,
        drill_failure=checkpoint.drill_failure,
        host=record.host,
        version=record.version,
        previous=record.previous,
        digest=digest,
        later=later,
    )
