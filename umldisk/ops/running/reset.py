"""Giving drives of a guest a new start: what the guest changed on them is gone.

A reset is a restore without checkpoints, done by the same machinery (`umldisk.ops.restoring`): everything new is made
and checked first, one rename decides, and a reset that was cut off after it is finished by the next reset, restore or
start. `umldisk.ops.restoring.resetting` says which drives come back how.

The bases that stay are read and compared with what was built or recorded, because a fresh COW file shows them and
nothing else; `glance` looks at their size and mtime alone, and so does a start that rebuilds drives.
"""

from __future__ import annotations

from collections.abc import Sequence

from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.ops.checkpoints.naming import utc_now
from umldisk.ops.restoring.holding import RestoreOptions
from umldisk.ops.restoring.planning import Purpose, Wish
from umldisk.ops.restoring.reporting import RestoreReport
from umldisk.ops.restoring.restore import Clock, bring_back
from umldisk.progress import SILENT, Progress

_DEFAULTS = RestoreOptions()


def reset_guest(
    site: Site,
    name: str,
    drives: Sequence[str] = (),
    *,
    now: bool = False,
    store: Store | None = None,
    options: RestoreOptions = _DEFAULTS,
    clock: Clock = utc_now,
    progress: Progress = SILENT,
) -> RestoreReport:
    """Reset these drives of the guest called `name`, by default all but those that are recorded.

    The old files are kept as evidence, or with `now` removed. `store` is where the guest's history is, by default the
    guest's. Raises UsageError for drives or a guest that cannot be, NoInputError when the guest or a base is missing,
    DataError when a base was changed, HistoryError when the recorded history is not whole, BusyError while the guest
    runs or somebody builds, restores or records it, CannotCreateError and StorageError when the disks cannot be
    written. In all these cases the guest is as it was.
    """
    wish = _wish(drives, now=now)
    return bring_back(site, site.guest(name), wish, store=store, options=options, clock=clock, progress=progress)


def rebuild(site: Site, guest: Guest, drives: Sequence[str], *, progress: Progress = SILENT) -> RestoreReport:
    """Reset drives of a guest that is about to start, its run being claimed: nothing is kept, no base is read.

    Needs no store. Raises what `reset_guest` raises.
    """
    options = RestoreOptions(glance=True, is_claimed=True)
    return bring_back(site, guest, _wish(drives, now=True), options=options, progress=progress)


def _wish(drives: Sequence[str], *, now: bool) -> Wish:
    return Wish(drives=tuple(dict.fromkeys(drives)), purpose=Purpose.RESET, keeps_evidence=not now)
