"""The drives of a guest, open for as long as a take lasts, as they stood at one moment.

How that comes about is an `Opener`'s business. `stopped` locks the disks of a guest that is off: all as for reading,
because a guest that runs has its COW file locked for writing and is in the way, and other readers are not. For a merge
COW and backing file are locked for writing from the start, so that nobody comes between recording and merging; the
merge itself then takes no locks. `umldisk.ops.checkpoints.live` makes a running guest stand still for a moment.

What a take gets is `Still`: the drives, and how good the moment was.

    OFF        nobody ran
    FROZEN     the guest ran; its file systems had written everything and were frozen
    JOURNAL    the guest ran; its disks stood still, and its file systems have a journal to recover by
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Protocol

from umldisk.checkpoint.basestate import BackingIdentity
from umldisk.checkpoint.record import Consistency
from umldisk.checkpoint.recording import settled
from umldisk.config.guest import Guest
from umldisk.cow.file import Access, CowFile
from umldisk.cow.inplace import InPlaceOptions, SiblingPolicy, merge_into_backing
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.errors import DataError, NoInputError, from_os_error
from umldisk.image.drives import Drive
from umldisk.progress import SILENT, Progress
from umldisk.system import files, locks
from umldisk.system.files import DiskFile


@dataclass(frozen=True, slots=True)
class OpenDrive:
    """A drive with its files open; `bottom` is what the COW file stands on, or the drive itself when it has none.

    Where the file at the top is a frozen copy, `copied_from` is the one that it is a copy of.
    """

    drive: Drive
    view: Layer
    cow: CowFile | None
    bottom: Layer
    copied_from: DiskFile | None = None

    @property
    def files(self) -> list[DiskFile]:
        """Every file that the drive is read from, the top first."""
        layer, found = self.view, [self.view.disk]
        while isinstance(layer, CowLayer):
            layer = layer.below
            found.append(layer.disk)
        return found

    def sync(self) -> None:
        """Make the drive's own files durable, which UML never does."""
        top, *others = self.files
        for file in (self.copied_from or top, *others):
            file.sync()

    def looks(self) -> list[BackingIdentity | None]:
        """Return how all of them look now; whoever writes to one changes that."""
        return [BackingIdentity.of(file.status) for file in self.files]

    def bottom_look(self) -> BackingIdentity | None:
        """Return how the file at the bottom looks, once every later write makes it look different.

        None when that is a copy, which nobody will meet again, or does not tell whether it was changed.
        """
        is_copy = self.copied_from is not None and self.cow is None
        return None if is_copy else settled(self.bottom.disk)

    def merge(self, siblings: SiblingPolicy, *, dry_run: bool = False, progress: Progress = SILENT) -> None:
        """Fold the COW file into its backing file and leave an empty one, under the locks that are held already.

        Raises what merge_into_backing raises, and StorageError; with `dry_run` it only tells what would be raised.
        """
        assert self.cow is not None
        options = InPlaceOptions(reset=True, siblings=siblings, dry_run=dry_run)
        access = Access(backing=self.bottom.disk.path, lock=False)
        try:
            merge_into_backing(self.cow.path, access=access, options=options, progress=progress)
        except OSError as error:
            raise from_os_error(error, "merge into", self.bottom.disk.path) from error


@dataclass(frozen=True, slots=True)
class Still:
    """Drives as they stood at one moment, how sure their guest's state is, and how long it was paused if it ran."""

    drives: tuple[OpenDrive, ...]
    consistency: Consistency = Consistency.OFF
    pause_seconds: float | None = None


class Opener(Protocol):
    """Opens a guest's drives as they stand at one moment."""

    def __call__(
        self, guest: Guest, drives: Sequence[Drive], /, *, to_merge: bool, rehearsing: bool
    ) -> AbstractContextManager[Still]:
        """Give the drives for a block. When `rehearsing` they are only looked at, and the guest is not disturbed.

        Raises what opening raises, and BusyError when they cannot be had at one moment.
        """


@contextlib.contextmanager
def stopped(guest: Guest, drives: Sequence[Drive], /, *, to_merge: bool, rehearsing: bool) -> Iterator[Still]:
    """Open the drives of a guest that is off; its locks tell when it is not."""
    with ExitStack() as resources:
        merging = to_merge and not rehearsing
        yield Still(tuple(_open_drive(guest, drive, resources, to_merge=merging) for drive in drives))


def _open_drive(guest: Guest, drive: Drive, resources: ExitStack, *, to_merge: bool) -> OpenDrive:
    """Open and lock a drive's files, which `resources` closes.

    Raises what CowFile.open raises; NoInputError when the drive was never built, BusyError when it is in use.
    """
    cow_path, base_path = guest.cow_path(drive), guest.base_path(drive)
    if cow_path is not None and os.path.lexists(cow_path):
        access = Access(change_cow=to_merge, change_backing=to_merge)
        cow = resources.enter_context(_open_cow(cow_path, base_path, access))
        return OpenDrive(drive, cow.layer, cow, cow.backing)
    disk = resources.enter_context(files.open_disk(base_path))
    locks.lock(disk.fd, disk.path, exclusive=False)
    layer = RawLayer(disk)
    return OpenDrive(drive, layer, None, layer)


def _open_cow(cow_path: str, base_path: str, access: Access) -> CowFile:
    """Open a COW file as UML does: over the guest's own backing file, or if that does not fit, the one it names."""
    try:
        return CowFile.open(cow_path, base_path, access=access)
    except (DataError, NoInputError) as error:
        try:
            return CowFile.open(cow_path, access=access)
        except (DataError, NoInputError):
            raise error from None
