"""The files of a drive, open and locked for as long as a take lasts.

Without a merge all are locked as for reading: a guest that runs has its COW file locked for writing and is in the way,
other readers are not. For a merge COW and backing file are locked for writing from the start, so that nobody comes
between recording and merging; the merge itself then takes no locks.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from umldisk.checkpoint.basestate import BackingIdentity
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
    """A drive with its files open; `bottom` is what the COW file stands on, or the drive itself when it has none."""

    drive: Drive
    view: Layer
    cow: CowFile | None
    bottom: Layer

    @property
    def files(self) -> list[DiskFile]:
        """Every file that the drive stands on, the top first."""
        layer, found = self.view, [self.view.disk]
        while isinstance(layer, CowLayer):
            layer = layer.below
            found.append(layer.disk)
        return found

    def looks(self) -> list[BackingIdentity | None]:
        """Return how all of them look now; whoever writes to one changes that."""
        return [BackingIdentity.of(file.status) for file in self.files]

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


def open_drive(guest: Guest, drive: Drive, resources: ExitStack, *, lock: bool, to_merge: bool = False) -> OpenDrive:
    """Open a drive's files, which `resources` closes.

    Raises what CowFile.open raises; NoInputError when the drive was never built, BusyError when it is in use.
    """
    cow_path, base_path = guest.cow_path(drive), guest.base_path(drive)
    if cow_path is not None and os.path.lexists(cow_path):
        access = Access(change_cow=to_merge, change_backing=to_merge, lock=lock)
        cow = resources.enter_context(_open_cow(cow_path, base_path, access))
        return OpenDrive(drive, cow.layer, cow, cow.backing)
    disk = resources.enter_context(files.open_disk(base_path))
    if lock:
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
