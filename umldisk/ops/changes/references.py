"""What a guest's files should be.

    mounted on /var     as the newest good checkpoint has them, if there is one
    any other           as built, or where a checkpoint was merged into the base, as that checkpoint has them
    with --since        as the checkpoint that is named; other drives as their newest good one that is not younger
    of evidence         what the drive came back as, by the restore that kept the evidence

A base that nothing vouches for was changed under its COW file. That is said, and the files are held against the
manifest all the same: what was written into the base is found, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from umldisk.build import manifest
from umldisk.build.manifest import Manifest
from umldisk.checkpoint.assemble import assemble, load_index
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.errors import DataError, NoInputError
from umldisk.image.drives import Drive
from umldisk.ops.changes.reading import rows_of_copy
from umldisk.ops.changes.rows import Row
from umldisk.ops.changes.sources import Evidence, checkpoint_number
from umldisk.ops.check_build import rows_of
from umldisk.ops.checkpoints.naming import Name
from umldisk.ops.restoring.bases import check_bases
from umldisk.ops.restoring.planning import RECORDED_MOUNT
from umldisk.progress import SILENT, Progress
from umldisk.system.staging import nameless


@dataclass(frozen=True, slots=True)
class Reference:
    """What a drive is held against; `checkpoint` None stands for the build. `note` is of a base that was changed."""

    checkpoint: int | None = None
    time: datetime | None = None
    note: str = ""


@dataclass(frozen=True)
class References:
    """Finds and reads them; `store` and `catalog` are None where nothing was ever recorded."""

    site: Site
    guest: Guest
    kept: Evidence | None
    since: Name | None
    store: Store | None
    catalog: Catalog | None
    progress: Progress = SILENT

    @cached_property
    def checkpoints(self) -> Sequence[Checkpoint]:
        """The guest's checkpoints, oldest first."""
        return self.catalog.checkpoints(self.guest.name) if self.catalog else []

    @cached_property
    def _built(self) -> Manifest:
        return manifest.read(self.guest.directory)

    def require_named(self) -> None:
        """Raise NoInputError or DataError when the checkpoint that was asked for cannot be used."""
        if self.since is not None:
            if self.since.number is not None:
                self._numbered(self.since.number)
            elif not any(checkpoint.is_good for checkpoint in self.checkpoints):
                raise NoInputError("there is no good checkpoint", where=self.guest.name)

    def choose(self, drive: Drive) -> Reference:
        """Decide what a drive is held against; see the table above.

        Raises NoInputError when a checkpoint that is needed is not known, DataError when it is damaged.
        """
        if self.since is not None:
            return _of(self._since(drive, self.since))
        if self.kept is not None:
            return _of(self._restored(drive, self.kept))
        if drive.mount_point == RECORDED_MOUNT:
            return _of(self._newest(drive, None))
        return self._vouched(drive) if drive.copy_on_write else Reference()

    def read(self, drive: Drive, reference: Reference) -> Mapping[str, Row]:
        """Return the files that a drive should have, by their paths.

        Raises NoInputError when there is no manifest or a chunk is missing, DataError when one is damaged.
        """
        if reference.checkpoint is None:
            return rows_of(self._built, drive.name)
        assert self.store is not None
        checkpoint = self._numbered(reference.checkpoint)
        name = f"checkpoint {checkpoint.number}"
        with nameless(self.site.directory, called=name) as copy:
            assemble(self.store, load_index(self.store, checkpoint), copy, progress=self.progress)
            return rows_of_copy(copy, drive.mount_point or "/")

    def _numbered(self, number: int) -> Checkpoint:
        found = next((checkpoint for checkpoint in self.checkpoints if checkpoint.number == number), None)
        if found is None:
            raise NoInputError(f"there is no checkpoint {number}", hint=f"umldisk checkpoint list {self.guest.name}")
        if not found.is_good:
            state = found.damage or "it was deleted"
            raise DataError(f"checkpoint {number} cannot be used", found=state, hint="name another one with --since")
        return found

    def _since(self, drive: Drive, since: Name) -> Checkpoint | None:
        if since.number is None:
            return self._newest(drive, since.at)
        named = self._numbered(since.number)
        return named if named.drive == drive.name else self._newest(drive, named.time)

    def _restored(self, drive: Drive, kept: Evidence) -> Checkpoint | None:
        if (number := kept.checkpoints.get(drive.name)) is not None:
            return self._numbered(number)
        guesses = not kept.names_checkpoints and drive.mount_point == RECORDED_MOUNT
        return self._newest(drive, kept.time) if guesses else None

    def _newest(self, drive: Drive, moment: datetime | None) -> Checkpoint | None:
        good = [one for one in self.checkpoints if one.is_good and one.drive == drive.name]
        wanted = [one for one in good if moment is None or one.time <= moment]
        return max(wanted, key=lambda one: (one.time, one.number), default=None)

    def _vouched(self, drive: Drive) -> Reference:
        """Find out what the base is that the drive's COW file stands on."""
        try:
            facts = check_bases(self.guest, [drive], self.checkpoints, store=self.store, catalog=self.catalog)
        except DataError as error:
            return Reference(note=error.line())
        number = checkpoint_number(facts[drive.name].reference)
        return Reference() if number is None else _of(self._numbered(number))


def _of(checkpoint: Checkpoint | None) -> Reference:
    return Reference() if checkpoint is None else Reference(checkpoint.number, checkpoint.time)
