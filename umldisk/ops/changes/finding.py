"""Saying which files an intruder changed: what the guest saw, held against what it should have been.

    sources      what the guest saw, drive for drive     ┐
                                                         ├──▶ rows ──▶ differences ──▶ ranking: worst first
    references   what it should have been                ┘

Only disks and checkpoints are read, never mounted, and nothing that runs in the guest is asked. A drive that cannot be
read is said to be, and does not keep the others from being compared. Where the disks were read of a guest that was
already broken into when its newest checkpoint was taken, --since an older one tells more.

Left out: what is in memory, in swap, and in blocks that no file has any more. The evidence keeps the latter two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.cow.layers import Layer
from umldisk.errors import BusyError, DataError, NoInputError, StorageError, UmldiskError, UsageError
from umldisk.image.drives import Content, Drive
from umldisk.ops.changes.ranking import Concern, Mark, concern_of, marks_of, rank
from umldisk.ops.changes.reading import rows_of_layer
from umldisk.ops.changes.references import Reference, References
from umldisk.ops.changes.rows import TIME_ALONE, ChangeKind, Difference, differences
from umldisk.ops.changes.sources import Evidence, Seen, find_evidence, open_evidence, open_guest
from umldisk.ops.checkpoints.naming import Name
from umldisk.ops.checkpoints.storage import reading_catalog, store_of
from umldisk.ops.restoring.planning import is_scratch
from umldisk.progress import SILENT, Progress


class State(Enum):
    """What came of a drive; BASE_CHANGED: the disk below the COW file is not what it was."""

    SAME = "same"
    CHANGED = "changed"
    BASE_CHANGED = "base changed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ComparedDrive:
    """One drive and how many of its files differ; `checkpoint` None is the build, `reason` explains a bad state."""

    name: str
    state: State
    checkpoint: int | None = None
    taken_at: datetime | None = None
    changes: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is not as it should be; `before` and `after` are its rows as in a manifest, None where it was not."""

    path: str
    drive: str
    kind: ChangeKind
    concern: Concern
    marks: tuple[Mark, ...]
    fields: tuple[str, ...]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ChangesReport:
    """All that differs, worst first; `directory` holds the disks, `pause_seconds` is of a guest that runs."""

    guest: str
    directory: str
    is_evidence: bool
    pause_seconds: float | None
    same: bool
    drives: tuple[ComparedDrive, ...]
    changes: tuple[Change, ...]


def find_changes(
    site: Site,
    target: str,
    drives: Sequence[str] = (),
    *,
    since: Name | None = None,
    progress: Progress = SILENT,
) -> ChangesReport:
    """Compare the files of a guest, or of a directory of evidence, with what they should be.

    `drives` () are all that have files. Raises UsageError for a drive that there is not, NoInputError when there is no
    such guest, evidence or checkpoint, DataError when the evidence says nothing of itself or a running guest's disks
    cannot be had, BusyError when others use the disks, StorageError when reading fails.
    """
    kept = find_evidence(site, target)
    guest = site.guest(kept.guest if kept else target)
    if kept is None and not os.path.isdir(guest.directory):
        raise NoInputError("there is no such guest, nor evidence of that name", where=target)
    wanted = _wanted(guest, drives, kept)
    with ExitStack() as resources:
        catalog = resources.enter_context(reading_catalog(site))
        store = store_of(site, guest) if catalog else None
        references = References(site, guest, kept, since, store, catalog, progress)
        references.require_named()
        chosen = {drive.name: _chosen(references, drive) for drive in wanted}
        if kept is not None:
            seen, pause_seconds = open_evidence(kept, wanted, resources), None
        else:
            seen, pause_seconds = open_guest(site, guest, wanted, resources)
        comparison = _Comparison(site, references, chosen, seen)
        found = [comparison.compare(drive) for drive in wanted]
    compared = tuple(drive for drive, _changes in found)
    return ChangesReport(
        guest=guest.name,
        directory=kept.directory if kept else guest.directory,
        is_evidence=kept is not None,
        pause_seconds=pause_seconds,
        same=all(drive.state is State.SAME for drive in compared),
        drives=compared,
        changes=_worst_first([change for _drive, changes in found for change in changes]),
    )


def _wanted(guest: Guest, names: Sequence[str], kept: Evidence | None) -> list[Drive]:
    with_files = [drive for drive in guest.drives if drive.content is not Content.SWAP]
    known = [drive.name for drive in with_files]
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise UsageError("the guest has no such drive with files", expected=", ".join(known), found=unknown)
    chosen = [drive for drive in with_files if not names or drive.name in names]
    if kept is None or names:
        return chosen
    return [drive for drive in chosen if kept.has(drive)]


def _chosen(references: References, drive: Drive) -> Reference | UmldiskError:
    try:
        return references.choose(drive)
    except (NoInputError, DataError) as error:
        return error


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The drives of one guest, open, with what they are held against."""

    site: Site
    references: References
    chosen: Mapping[str, Reference | UmldiskError]
    seen: Seen

    def compare(self, drive: Drive) -> tuple[ComparedDrive, list[Change]]:
        """Compare one drive; one that cannot be is told with the reason."""
        reference, layer = self.chosen[drive.name], self.seen[drive.name]
        for one in (reference, layer):
            if isinstance(one, UmldiskError):
                return _unreadable(drive, one)
        assert isinstance(reference, Reference)
        assert isinstance(layer, Layer)
        try:
            changes = self._changes(drive, layer, reference)
        except (BusyError, StorageError):
            raise
        except UmldiskError as error:
            return _unreadable(drive, error)
        state = State.CHANGED if changes else State.SAME
        compared = ComparedDrive(drive.name, state, reference.checkpoint, reference.time, len(changes), reference.note)
        return (replace(compared, state=State.BASE_CHANGED) if reference.note else compared), changes

    def _changes(self, drive: Drive, layer: Layer, reference: Reference) -> list[Change]:
        with self.references.progress.task(f"compare {drive.name}"):
            before = self.references.read(drive, reference)
            after = rows_of_layer(layer, drive.mount_point or "/", scratch=self.site.directory)
            found = differences(before, after.items())
            return [_change(one, drive.name) for one in found if not _is_of_making(one, drive)]


def _is_of_making(found: Difference, drive: Drive) -> bool:
    """Whether it is the time of a disk that every restore and reset makes anew."""
    return is_scratch(drive) and found.path == drive.mount_point and found.fields == TIME_ALONE


def _unreadable(drive: Drive, error: UmldiskError) -> tuple[ComparedDrive, list[Change]]:
    return ComparedDrive(drive.name, State.UNREADABLE, reason=error.line()), []


def _change(found: Difference, drive: str) -> Change:
    return Change(
        path=found.path,
        drive=drive,
        kind=found.kind,
        concern=concern_of(found),
        marks=marks_of(found),
        fields=found.fields,
        before=found.before,
        after=found.after,
    )


def _worst_first(changes: Sequence[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda change: rank(change.concern)))
