"""Old and new disks of a guest change places, or nothing has happened.

    GUEST/.restoring/   plan.json, made.json, new/ (what comes in), evidence/ (texts): cleared by the next restore
    GUEST/.restored/    the same, all made, checked and synced; the old files are leaving for .restored/evidence/
    SITE/evidence/…     the old files, read-only: they have left
    GUEST/.returning/   what .restored was; the new files are coming in

A reset that keeps no evidence leaves the old files in the directory until that is removed at the very end.

Many renames are not one, but renaming .restoring to .restored is: before it the guest is as it was, after it the new
state is whole and will be put in place. Which of the directories is there says how far that came, so that it can be
cut off anywhere and be taken up by the next restore, which ends the same.

Between the first and the last of these renames the root drive's base is away, in .restored/new. It leaves first and
comes back last, whether it changes or not: no guest can start from old and new disks together, and what lies under a
name that is still to come in is nobody's work.

Nothing is copied or removed but what was made here. Files keep their times.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from umldisk.config.guest import Guest
from umldisk.errors import BusyError, StorageError, UmldiskError
from umldisk.ops.restoring import evidence, planning
from umldisk.ops.restoring.planning import RestorePlan, Wish
from umldisk.ops.restoring.resetting import command
from umldisk.system.files import open_disk
from umldisk.system.staging import write_file
from umldisk.system.swapping import Directory, open_directory

RESTORING = ".restoring"
_RESTORED = ".restored"
_RETURNING = ".returning"
NEW, EVIDENCE, SCRATCH = "new", "evidence", "scratch"
_PLAN, _MADE = "plan.json", "made.json"


def is_unfinished(directory: str) -> bool:
    """Whether a whole new state waits to be put in place in the guest's `directory`."""
    return _waiting(directory) is not None


def require_finished(guest: Guest) -> None:
    """Raise BusyError when a new state of the guest waits to be put in place: its disks are being exchanged."""
    if os.path.isdir(guest.directory) and is_unfinished(guest.directory):
        wish = _unfinished_wish(guest.directory)
        raise BusyError(
            f"a {wish.purpose.value} of this guest was not finished",
            where=guest.directory,
            hint=f"finish it with {command(guest.name, wish)}",
        )


def _unfinished_wish(directory: str) -> Wish:
    try:
        return read(directory)[0].wish
    except UmldiskError:
        return Wish()


def _waiting(directory: str) -> str | None:
    with open_directory(directory) as guest:
        return next((name for name in (_RETURNING, _RESTORED) if _is_ours(guest, name)), None)


def _is_ours(guest: Directory, name: str) -> bool:
    """Whether `name` is a directory that we made, and not the guest's user, to be moved about by us."""
    if not guest.has_directory(name):
        return False
    with guest.open(name) as stage:
        return stage.standing.uid == os.geteuid()


def begin(directory: str, plan: RestorePlan) -> str:
    """Clear what an interrupted restore left, write down the plan and return the directory to work in.

    Nothing must be unfinished. The directory has NEW, EVIDENCE and SCRATCH in it. Raises CannotCreateError and
    StorageError.
    """
    with open_directory(directory) as guest:
        for name in (RESTORING, _RESTORED, _RETURNING):
            guest.clear(name)
        with guest.make(RESTORING) as stage:
            write_file(stage.inside(_PLAN), plan.build())
            for name in (NEW, EVIDENCE, SCRATCH):
                with stage.make(name):
                    pass
            return stage.path


def abandon(directory: str) -> None:
    """Remove what `begin` made, unless it was committed."""
    with open_directory(directory) as guest:
        guest.clear(RESTORING)


def commit(directory: str, made: bytes) -> None:
    """Declare the new state whole; `made` tells what was made, for the report. All files in it must be synced."""
    with open_directory(directory) as guest:
        with guest.open(RESTORING) as stage:
            stage.clear(SCRATCH)
            write_file(stage.inside(_MADE), made)
            for name in (NEW, EVIDENCE):
                with stage.open(name) as inner:
                    inner.sync()
            stage.sync()
        guest.move(RESTORING, guest, _RESTORED)
        guest.sync()


def read(directory: str) -> tuple[RestorePlan, bytes]:
    """Return the plan of a committed restore, and what was made; raises StorageError and DataError."""
    name = _waiting(directory)
    if name is None:
        raise _nothing_waits(directory)
    with open_directory(directory) as guest, guest.open(name) as stage:
        plan, made = (_read(stage, file) for file in (_PLAN, _MADE))
        return planning.parse(plan, where=stage.inside(_PLAN)), made


def places(directory: str, names: Iterable[str]) -> dict[str, str]:
    """Map names of files to where they lie in a committed restore: still among the new ones, or in `directory`."""
    waiting = _waiting(directory)
    if waiting is None:
        raise _nothing_waits(directory)
    with open_directory(directory) as guest, guest.open(waiting) as stage, stage.open(NEW) as new:
        coming = new.names()
        return {name: (new if name in coming else guest).inside(name) for name in names}


def _nothing_waits(directory: str) -> StorageError:
    return StorageError("no restore waits to be finished", where=directory)


def _read(stage: Directory, name: str) -> bytes:
    with open_disk(stage.inside(name)) as file:
        return file.read_at(0, file.size_bytes)


def exchange(directory: str, site_directory: str, plan: RestorePlan) -> None:
    """Let old and new files change places, from wherever that came to before; `settle` is to follow."""
    with open_directory(directory) as guest:
        if _is_ours(guest, _RESTORED):
            with guest.open(_RESTORED) as stage:
                _move_out(guest, stage, site_directory, plan)
            guest.move(_RESTORED, guest, _RETURNING)
            guest.sync()
        with guest.open(_RETURNING) as stage, stage.open(NEW) as new:
            _move_in(new, guest, last=_root_file(plan))


def settle(directory: str) -> None:
    """Forget a restore that is complete: at once, though its directory is not removed in one step."""
    with open_directory(directory) as guest:
        guest.clear(RESTORING)
        guest.move(_RETURNING, guest, RESTORING)
        guest.sync()
        guest.clear(RESTORING)


def _root_file(plan: RestorePlan) -> str | None:
    return plan.guard or plan.root


def _move_out(guest: Directory, stage: Directory, site_directory: str, plan: RestorePlan) -> None:
    """Move the old files into the evidence, and that to its place; do nothing that was done already."""
    if plan.guard and guest.mode_of(plan.guard) is not None:
        with stage.open(NEW) as new:
            guest.move(plan.guard, new)
            new.sync()
        guest.sync()
    if not plan.evidence:
        _set_aside(guest, stage, plan)
        return
    place = evidence.make_place(site_directory)
    with open_directory(place) as above:
        if stage.has_directory(EVIDENCE):
            _fill_evidence(guest, stage, _root_first(plan.leaving, plan.root))
            stage.move(EVIDENCE, above, plan.evidence)
            above.sync()
            stage.sync()
        evidence.close_directory(above, plan.evidence)


def _set_aside(guest: Directory, stage: Directory, plan: RestorePlan) -> None:
    """Move the old files to where `settle` removes them."""
    with stage.open(EVIDENCE) as gone:
        _leave(guest, gone, _root_first(plan.leaving, plan.root))


def _root_first(names: Sequence[str], root: str | None) -> list[str]:
    return sorted(names, key=lambda name: name != root)


def _fill_evidence(guest: Directory, stage: Directory, names: Sequence[str]) -> None:
    with stage.open(EVIDENCE) as kept:
        _leave(guest, kept, names)
        evidence.close_files(kept)


def _leave(guest: Directory, kept: Directory, names: Sequence[str]) -> None:
    for name in names:
        if kept.mode_of(name) is None and guest.mode_of(name) is not None:
            guest.move(name, kept)
    kept.sync()
    guest.sync()


def _move_in(new: Directory, guest: Directory, *, last: str | None) -> None:
    for name in sorted(new.names(), key=lambda name: name == last):
        new.move(name, guest)
    new.sync()
    guest.sync()
