"""Where the disks are that a guest last saw.

    a guest that is off      its COW files over their bases, locked as for reading
    a guest that runs        frozen copies, for which it stands still for a moment, as for a checkpoint
    a directory of evidence  the COW files that were kept, over the bases kept with them or over those that stayed

A base that stayed must still be the one of the evidence, and every file that was kept must be as it was kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.cow.file import CowFile
from umldisk.cow.layers import Layer, RawLayer
from umldisk.errors import BusyError, DataError, NoInputError, StorageError, UmldiskError
from umldisk.guest.state import running
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.drives import stopped
from umldisk.ops.restoring import evidence
from umldisk.ops.restoring.stages import require_finished
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import DiskFile, open_disk

CHECKPOINT_PREFIX = "checkpoint "

Seen = dict[str, Layer | UmldiskError]
"""By the drive's name what its guest sees, or why that cannot be read."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A directory of evidence: the digests of its files, the bases that stayed with theirs, both by the file's name.

    `checkpoints` are the numbers of those that drives came back as, by drive; the others came back as built. With
    `names_checkpoints` false, as of older versions, the evidence does not say so.
    """

    directory: str
    guest: str
    guest_directory: str
    time: datetime
    kept: Mapping[str, str]
    stayed: Mapping[str, str]
    checkpoints: Mapping[str, int]
    names_checkpoints: bool

    def base_path(self, drive: Drive) -> str:
        """Where the drive's base lies."""
        directory = self.directory if drive.file_name in self.kept else self.guest_directory
        return os.path.join(directory, drive.file_name)

    def has(self, drive: Drive) -> bool:
        """Whether anything of the drive was kept."""
        return drive.cow_name in self.kept or drive.file_name in self.kept


def find_evidence(site: Site, target: str) -> Evidence | None:
    """Return the evidence that `target` names, by its path or its name in the site's directory; None for a guest."""
    if os.sep in target or target in (os.curdir, os.pardir):
        return read_evidence(os.path.abspath(target))
    kept = os.path.join(evidence.directory_of(site.directory), target)
    if os.path.isdir(kept) and not os.path.isdir(site.guest(target).directory):
        return read_evidence(kept)
    return None


def read_evidence(directory: str) -> Evidence:
    """Read what a directory of evidence says of itself; raises NoInputError and DataError."""
    path = os.path.join(directory, evidence.FACTS)
    if not os.path.isdir(directory):
        raise NoInputError("there is no such directory of evidence", where=directory)
    try:
        with open_disk(path) as file:
            row = json.loads(file.read_at(0, file.size_bytes))
        if row["format"] != evidence.FORMAT:
            raise ValueError("another format")
        return Evidence(
            directory=directory,
            guest=row["guest"],
            guest_directory=row["directory"],
            time=datetime.fromisoformat(row["time"]),
            kept={file["name"]: file["digest"] for file in row["files"]},
            stayed={base["file"]: base["digest"] for base in row["backing"]},
            checkpoints=_checkpoints(row),
            names_checkpoints="checkpoints" in row,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("the evidence does not say what it is", where=path, found=str(error)) from error


def _checkpoints(row: Mapping[str, Any]) -> dict[str, int]:
    """Return the checkpoints that drives came back as, also those that a base which stayed equalled."""
    found = {str(name): int(number) for name, number in row.get("checkpoints", {}).items()}
    for base in row["backing"]:
        number = checkpoint_number(str(base["as"]))
        if number is not None:
            found[str(base["drive"])] = number
    return found


def checkpoint_number(reference: str) -> int | None:
    """Return the checkpoint that vouches for a base, from what `umldisk.ops.restoring.bases` says of it."""
    number = reference.removeprefix(CHECKPOINT_PREFIX)
    return int(number) if number != reference and number.isdecimal() else None


# -- opening ----------------------------------------------------------------------------------------------------------


def open_guest(site: Site, guest: Guest, drives: Sequence[Drive], resources: ExitStack) -> tuple[Seen, float | None]:
    """Open what the guest sees; return it and how long the guest was paused, None when it is off.

    Raises BusyError when somebody else runs it or a restore is unfinished, DataError when one of the drives of a guest
    that runs cannot be had.
    """
    require_finished(guest)
    run, run_directory = running(site.run_directory(guest.name)), site.run_directory(guest.name)
    if run is None:
        return {drive.name: _open_stopped(guest, drive, resources) for drive in drives}, None
    from umldisk.ops.checkpoints.live import Live

    still = resources.enter_context(Live(run, run_directory)(guest, drives, to_merge=False, rehearsing=False))
    return {disk.drive.name: disk.view for disk in still.drives}, still.pause_seconds


def _open_stopped(guest: Guest, drive: Drive, resources: ExitStack) -> Layer | UmldiskError:
    try:
        (disk,) = resources.enter_context(stopped(guest, [drive], to_merge=False, rehearsing=True)).drives
    except BusyError:
        raise
    except UmldiskError as error:
        return error
    return disk.view


def open_evidence(kept: Evidence, drives: Sequence[Drive], resources: ExitStack) -> Seen:
    """Open what the guest last saw, by what was kept of it."""
    return {drive.name: _open_kept(kept, drive, resources) for drive in drives}


def _open_kept(kept: Evidence, drive: Drive, resources: ExitStack) -> Layer | UmldiskError:
    try:
        base = kept.base_path(drive)
        if drive.cow_name is None or drive.cow_name not in kept.kept:
            disk = resources.enter_context(open_disk(base))
            _require_digest(disk, kept.kept.get(drive.file_name))
            return RawLayer(disk)
        cow = resources.enter_context(CowFile.open(os.path.join(kept.directory, drive.cow_name), base))
        _require_digest(cow.layer.disk, kept.kept[drive.cow_name])
        _require_digest(cow.backing.disk, kept.kept.get(drive.file_name) or kept.stayed.get(drive.file_name))
    except StorageError:
        raise
    except UmldiskError as error:
        return error
    return cow.layer


def _require_digest(disk: DiskFile, expected: str | None) -> None:
    found = sparse_sha256(disk)
    if found != expected:
        raise DataError("not the file that it was when the evidence was kept", where=disk.path, found=found)
