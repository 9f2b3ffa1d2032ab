"""Which index each base equals when a restore is done, so that the next checkpoint reads only what changed.

    noted      of a base that stays, when the catalog or reading all of it said so; in plan.json
               of a base from a checkpoint, when it was made and had its owner and mode; in made.json
    before     a run that puts things in place first looks at each base where it lies: it must look as noted
    after      and when it is in place, it must look so still, but for the ctime that moving it changed
    written    that very look goes into the catalog, once no later write can look the same

ctime is what cannot be set back, and each rename gives a new one. So a base that an earlier run moved before it was cut
off is not known, whatever its mtime says: somebody may have written to it since. If that run came as far as to write
down what it knew, the catalog has it, and is believed as long as the base looks so.

Moving takes a moment, in which nothing but mtime and the locks tell of a writer. Nothing else can be had: the time that
a rename gives is known only from looking.

None of this is needed to use the guest. Whatever fails here is told, costs the next checkpoint a whole reading, and
does not hold up the restore, whose disks are all in place by then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from umldisk.checkpoint.basestate import BackingIdentity, BaseState
from umldisk.checkpoint.recording import settled
from umldisk.checkpoint.store import Store, base_key, index_key
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.errors import UmldiskError
from umldisk.ops.restoring import stages
from umldisk.ops.restoring.holding import catalog_to_write, opened_catalog
from umldisk.ops.restoring.planning import DrivePlan, RestorePlan, Way
from umldisk.ops.restoring.reporting import Outcome
from umldisk.system.files import open_disk


def known_before(site: Site, guest: Guest, plan: RestorePlan, outcome: Outcome) -> dict[str, BaseState]:
    """Return, by drive, what was noted and still holds, before anything of a committed restore is moved by this run."""
    files = {drive.name: drive.file_name for drive in guest.drives}
    notes = {name: note for name, note in _notes(plan, outcome).items() if note.guest == guest.name and name in files}
    places = stages.places(guest.directory, [files[name] for name in notes])
    known = {}
    for name, note in notes.items():
        with contextlib.suppress(OSError, UmldiskError):  # then nothing is known of it
            status = os.stat(places[files[name]])
            if note.holds_for(status) or _is_written(site, note, status):
                identity = BackingIdentity.of(status)
                assert identity is not None
                known[name] = replace(note, identity=identity)
    return known


def _notes(plan: RestorePlan, outcome: Outcome) -> dict[str, BaseState]:
    """Return what was noted of the bases as they will be, not of those that leave."""
    replaced = {drive.drive for drive in plan.drives if drive.way in (Way.CHECKPOINT, Way.NEW)}
    staying = {name: note for name, note in plan.known.items() if name not in replaced}
    return staying | {name: made.known for name, made in outcome.made.items() if made.known and name in replaced}


def _is_written(site: Site, note: BaseState, status: os.stat_result) -> bool:
    """Whether the catalog says the same of the file as it looks now."""
    with opened_catalog(site) as catalog:
        state = catalog.base_state(note.guest, note.drive) if catalog else None
        return state is not None and state.index_sha256 == note.index_sha256 and state.holds_for(status)


@dataclass(frozen=True, slots=True)
class Remembering:
    """What is written down when everything is in place; `before` is what `known_before` gave.

    `store` is held for writing; where it cannot be used, `store_failure` says why.
    """

    site: Site
    guest: Guest
    plan: RestorePlan
    before: Mapping[str, BaseState]
    store: Store | None
    store_failure: UmldiskError | None = None

    def remember(self) -> tuple[str, ...]:
        """Write down what is known, and return in words, a drive a line, what is not and why."""
        made = {drive.drive: drive for drive in self.plan.drives if drive.way is Way.CHECKPOINT}
        staying = [drive.name for drive in self.guest.drives if drive.name in self.plan.known.keys() - made.keys()]
        notes = []
        for name in (*made, *staying):
            try:
                reason = self._set_base(made[name]) if name in made else self._set_state(name, is_made=False)
            except UmldiskError as error:
                reason = error.line()
            if reason:
                notes.append(f"{name}: the next checkpoint reads all of it: {reason}")
        return tuple(notes)

    def _set_base(self, drive: DrivePlan) -> str:
        """Let the index of a checkpoint be the one that the drive's base equals; return why not, or ""."""
        guest, name = self.guest.name, drive.drive
        with catalog_to_write(self.site, is_made=False) as catalog:
            if catalog is not None:
                catalog.forget_base_state(guest, name)
        if name not in self.before:
            return _unsure(drive.base)
        if self.store_failure is not None:
            raise self.store_failure
        assert self.store is not None
        assert drive.checkpoint is not None
        self.store.put(base_key(guest, name), self.store.get(index_key(guest, drive.checkpoint)))
        return self._set_state(name, is_made=True)

    def _set_state(self, name: str, *, is_made: bool) -> str:
        """Write down what is known of the drive's base; return why not, or ""."""
        base = next(drive for drive in self.guest.drives if drive.name == name)
        before = self.before.get(name)
        if before is None:
            return _unsure(base.file_name)
        with open_disk(self.guest.base_path(base)) as disk:
            look = settled(disk)
        if look is None or not self._is_same(name, before.identity, look):
            return _unsure(base.file_name)
        with catalog_to_write(self.site, is_made=is_made) as catalog:
            if catalog is None:
                return "there is no catalog"
            catalog.set_base_state(replace(before, identity=look))
        return ""

    def _is_same(self, name: str, before: BackingIdentity, now: BackingIdentity) -> bool:
        moved = {drive.drive for drive in self.plan.drives if drive.way is Way.CHECKPOINT}
        moved |= {drive.name for drive in self.guest.drives if drive.file_name == self.plan.guard}
        return now == (replace(before, ctime_ns=now.ctime_ns) if name in moved else before)


def _unsure(file_name: str) -> str:
    return f"nothing tells that {file_name} was not changed meanwhile"
