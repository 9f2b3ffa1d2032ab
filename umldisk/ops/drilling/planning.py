"""What a drill brings back, decided as a restore would decide it, with nothing of the guest touched or held for long.

The guest may be running: its COW files, tmp and swap are not looked at. The histories are proven, a checkpoint of each
recorded drive is chosen by the rules of `umldisk restore`, and the bases that stay are read as a whole and vouched for.
A drive that a restore would leave as it is (no COW file, never recorded) is new and empty in a drill.

The bases that stay are read-locked until the drill is over, as a running guest locks them: nothing merges into them or
replaces them meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from umldisk.build import publish
from umldisk.checkpoint.assemble import load_index
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.history import verify_chain
from umldisk.checkpoint.index import Index
from umldisk.checkpoint.standing import standing
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.errors import DataError
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.storage import reading_catalog
from umldisk.ops.restoring import planning
from umldisk.ops.restoring.bases import check_bases
from umldisk.ops.restoring.planning import DrivePlan, RestorePlan, Way, Wish
from umldisk.ops.restoring.stages import require_finished
from umldisk.progress import SILENT, Progress
from umldisk.system import locks
from umldisk.system.files import open_disk


@dataclass(frozen=True, slots=True)
class DrillPlan:
    """What a drill brings back: the `restore` that it does elsewhere, and the checkpoints by drive."""

    guest: Guest
    restore: RestorePlan
    checkpoints: Mapping[str, Checkpoint]

    @property
    def making(self) -> RestorePlan:
        """The restore without COW files, which the start of the drill's guest makes."""
        drives = tuple(dataclasses.replace(drive, cow=None) for drive in self.restore.drives)
        return dataclasses.replace(self.restore, drives=drives)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the checkpoints, ascending."""
        return tuple(sorted(checkpoint.number for checkpoint in self.checkpoints.values()))

    def indexes(self, store: Store) -> dict[str, Index]:
        """Read the checkpoints' indexes; raises NoInputError and DataError."""
        return {drive: load_index(store, checkpoint) for drive, checkpoint in self.checkpoints.items()}


@contextlib.contextmanager
def held_plan(
    site: Site, guest: Guest, wish: Wish, *, store: Store, now: datetime, progress: Progress = SILENT
) -> Iterator[DrillPlan]:
    """Decide what comes back, and hold the bases that stay.

    Raises NoInputError when a checkpoint or base is missing, DataError when one is damaged or was changed, HistoryError
    when the history is not whole, BusyError while somebody writes to a base or a restore waits to be finished.
    """
    require_finished(guest)
    _refuse_unfinished_build(guest)
    with contextlib.ExitStack() as holding:
        with reading_catalog(site) as catalog:
            history = verify_chain(store, catalog, guest.name)
            checkpoints = list(standing(record for record, _digest in history).values())
            chosen = planning.ways(guest, checkpoints, wish)
            staying = [drive for drive, (way, _checkpoint) in chosen.items() if way is Way.EMPTY_COW]
            for drive in staying:
                disk = holding.enter_context(open_disk(guest.base_path(drive)))
                locks.lock(disk.fd, disk.path, exclusive=False)
            bases = check_bases(guest, staying, checkpoints, store=store, catalog=catalog, progress=progress)
        restore = planning.plan_restore(
            guest, chosen, wish=wish, bases=bases, present=(), time=now, evidence="", known={}
        )
        drives = tuple(_never_kept(drive) for drive in restore.drives)
        recorded = {drive.name: checkpoint for drive, (_way, checkpoint) in chosen.items() if checkpoint}
        yield DrillPlan(guest, dataclasses.replace(restore, drives=drives), recorded)


def _refuse_unfinished_build(guest: Guest) -> None:
    if publish.is_unfinished(guest):
        hint = f"finish it first: umldisk build {guest.name}"
        raise DataError("a build of the guest was cut off", where=guest.directory, hint=hint)


def _never_kept(drive: DrivePlan) -> DrivePlan:
    return dataclasses.replace(drive, way=Way.NEW) if drive.way is Way.KEPT else drive


def ext_drives(plan: DrillPlan) -> Sequence[Drive]:
    """Return the drives whose file systems come back and are worth a look: those that are not new."""
    back = {drive.drive for drive in plan.restore.drives if drive.way is not Way.NEW}
    return [drive for drive in plan.guest.drives if drive.name in back]
