"""Which drives a reset gives a new start, and how.

    drive                     by default      comes back as
    with a COW file           reset           an empty COW file over its base
    var, recorded each night  kept            the same, when it is named
    tmp, swap                 reset           a new, empty disk
    any other without one     kept            the same, when it is named

By default nothing is reset whose contents exist nowhere else: var is what checkpoints are for, and a disk that the
guest writes on itself, other than tmp and swap, may hold what was built on it.
"""

from __future__ import annotations

import shlex

from umldisk.config.guest import Guest
from umldisk.errors import UsageError
from umldisk.image.drives import Drive
from umldisk.ops.restoring.planning import RECORDED_MOUNT, Purpose, Way, Wish, is_scratch, selected_drives


def reset_ways(guest: Guest, wish: Wish) -> dict[Drive, tuple[Way, None]]:
    """Decide how every drive that is asked for comes back: see the table above.

    Raises UsageError for drives that there are not, and when there is none that is reset by default.
    """
    drives = selected_drives(guest, wish)
    chosen = drives if wish.drives else [drive for drive in drives if _is_default(drive)]
    if not chosen:
        hint = f"name the drives: {', '.join(drive.name for drive in drives)}"
        raise UsageError("no drive of this guest is reset by default", where=guest.name, hint=hint)
    return {drive: (Way.EMPTY_COW if drive.copy_on_write else Way.NEW, None) for drive in chosen}


def _is_default(drive: Drive) -> bool:
    from umldisk.ops.checkpoints.naming import DEFAULT_DRIVES  # the catalog, which a build has no use for

    is_recorded = drive.name in DEFAULT_DRIVES or drive.mount_point == RECORDED_MOUNT
    return not is_recorded if drive.copy_on_write else is_scratch(drive)


def command(guest: str, wish: Wish) -> str:
    """Return the command that asks for this, which also finishes it when it was cut off."""
    words = ["umldisk", wish.purpose.value]
    if wish.purpose is Purpose.RESET:
        words += [*([] if wish.keeps_evidence else ["--now"]), guest, *wish.drives]
    else:
        words += ["--at", wish.at.isoformat()] if wish.at else []
        words += [word for drive in wish.drives for word in ("--drive", drive)]
        words += [guest, *([str(wish.number)] if wish.number else [])]
    return shlex.join(words)
