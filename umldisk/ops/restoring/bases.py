"""Whether a base that stays is still what it was, and who says so.

A fresh COW file over a base shows a guest that base and nothing else. So the base is read as a whole, and must be

    as built      its digest is the one in manifest.json, or
    as recorded   it equals an index that the catalog names as its own, chunk for chunk, and a checkpoint of the drive
                  has just that index: `checkpoint take --merge` or an earlier restore made the base so

An index that is only known from reading the base once does not count: who had changed the base by then would have
vouched for it.

A guest whose policy rebuilds a drive at every start cannot wait for that each time. There the base is only glanced at:
it must have the size and mtime that the COW file which goes has in its header, as the kernel demands of the two. That
finds a base that was replaced or written to since, not one whose changer put its mtime back.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from umldisk.build import manifest
from umldisk.checkpoint.assemble import first_difference
from umldisk.checkpoint.basestate import BaseState
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.index import Index, parse
from umldisk.checkpoint.recording import settled
from umldisk.checkpoint.store import Store, base_key
from umldisk.config.guest import Guest
from umldisk.cow import header as headers
from umldisk.cow.file import read_header
from umldisk.cow.journal import refuse_unfinished_merge
from umldisk.errors import DataError, NoInputError
from umldisk.image.drives import Drive
from umldisk.ops.restoring.planning import BaseFacts
from umldisk.progress import SILENT, Progress
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.swapping import explained

if TYPE_CHECKING:
    from umldisk.checkpoint.catalog import Catalog


def check_bases(
    guest: Guest,
    drives: Sequence[Drive],
    checkpoints: Iterable[Checkpoint],
    *,
    store: Store | None,
    catalog: Catalog | None,
    progress: Progress = SILENT,
) -> dict[str, BaseFacts]:
    """Read the bases of these drives and return, by the drive's name, what vouches for each.

    Without a store there are no checkpoints. Raises DataError when one was changed, is a COW file or in the middle of a
    merge, NoInputError when one is missing or nothing is known of it.
    """
    known, built = list(checkpoints), _built_digests(guest)
    with progress.task("checking the bases", len(drives)) as task:
        facts = {}
        for drive in drives:
            own = [checkpoint for checkpoint in known if checkpoint.drive == drive.name]
            with open_disk(guest.base_path(drive)) as disk:
                state = catalog.base_state(guest.name, drive.name) if catalog else None
                facts[drive.name] = _check(_Subject(guest, drive, disk, own, state), built.get(drive.name), store)
            task.add(1)
    return facts


def glance_at_bases(guest: Guest, drives: Sequence[Drive], *, catalog: Catalog | None) -> dict[str, BaseFacts]:
    """Look at size and mtime of the bases of these drives, which are not read; return what is known of each.

    Raises DataError when one is not what the drive's COW file was made on, is a COW file or in the middle of a merge,
    NoInputError when one is missing.
    """
    facts = {}
    for drive in drives:
        with open_disk(guest.base_path(drive)) as disk:
            _refuse_unusable(disk)
            _require_as_in_header(guest, drive, disk)
            state = catalog.base_state(guest.name, drive.name) if catalog else None
            known = state if state and state.holds_for(disk.status) else None
            facts[drive.name] = BaseFacts(None, "", known)
    return facts


def _require_as_in_header(guest: Guest, drive: Drive, disk: DiskFile) -> None:
    path = guest.cow_path(drive)
    if path is None or not os.path.isfile(path):
        return
    try:
        with open_disk(path) as cow:
            header = read_header(cow)
    except DataError:  # no COW file that says anything; it goes
        return
    expected, found = (header.size_bytes, header.mtime), (disk.size_bytes, disk.mtime_seconds & 0xFFFFFFFF)
    if expected != found:
        raise DataError(
            f"the base of drive {drive.name} changed since its COW file was made",
            where=disk.path,
            expected=f"{expected[0]} bytes, mtime {expected[1]}",
            found=f"{found[0]} bytes, mtime {found[1]}",
            hint=f"umldisk reset {guest.name} {drive.name} reads all of it and compares it with what was built",
        )


class _Subject(NamedTuple):
    """A base that is looked at, the checkpoints of its drive, and what the catalog knows of it."""

    guest: Guest
    drive: Drive
    disk: DiskFile
    own: Sequence[Checkpoint]
    state: BaseState | None


def _check(subject: _Subject, built: str | None, store: Store | None) -> BaseFacts:
    guest, drive, disk, own, state = subject
    _refuse_unusable(disk)
    look = settled(disk) if state is not None else None
    digest = sparse_sha256(disk)
    if digest == built:
        return BaseFacts(digest, manifest.FILE_NAME, state if state and state.holds_for(disk.status) else None)
    maker = _maker(subject, store)
    if state is not None and maker is not None:
        known = dataclasses.replace(state, identity=look) if look is not None else None
        return BaseFacts(digest, f"checkpoint {maker.number}", known)
    if built is None:
        manifest.read(guest.directory)
    raise DataError(
        f"the base of drive {drive.name} is not the one that was built",
        where=disk.path,
        expected=built,
        found=digest,
        hint=_hint(guest, drive, own),
    )


def _refuse_unusable(disk: DiskFile) -> None:
    if headers.looks_like_cow(disk.read_at(0, 4)):
        raise DataError("the base is a COW file itself", where=disk.path)
    refuse_unfinished_merge(disk)


def _built_digests(guest: Guest) -> dict[str, str]:
    """Return what the manifest says of the bases, by drive; nothing when there is no manifest."""
    try:
        rows = manifest.read(guest.directory).drives
    except NoInputError:
        return {}
    return {str(row.get("name")): str(row.get("digest")) for row in rows}


def _maker(subject: _Subject, store: Store | None) -> Checkpoint | None:
    """Return the newest checkpoint that the base equals, if the catalog says that there is one."""
    guest, drive, disk, own, state = subject
    same = [one for one in own if state is not None and one.taken.index_sha256 == state.index_sha256]
    index = base_index(store, guest, drive) if same and store is not None else None
    if index is None or index.digest() != same[-1].taken.index_sha256 or first_difference(disk, index) is not None:
        return None
    return same[-1]


def _hint(guest: Guest, drive: Drive, own: Sequence[Checkpoint]) -> str:
    if any(checkpoint.is_good for checkpoint in own):
        return f"restore the drive from a checkpoint: umldisk restore {guest.name} --drive {drive.name}"
    return f"build the guest again: umldisk build --force {guest.name}; its COW files are set aside"


def base_index(store: Store, guest: Guest, drive: Drive) -> Index | None:
    """Return the index that the store has for the drive's base, or None when there is none that can be read."""
    key = base_key(guest.name, drive.name)
    try:
        return parse(store.get(key), where=key)
    except (NoInputError, DataError):
        return None


def known_bases(guest: Guest, catalog: Catalog | None, facts: dict[str, BaseFacts]) -> dict[str, BaseState]:
    """Map drives to what is known of their base: what was found, and for the root drive also what the catalog says."""
    known = {name: fact.known for name, fact in facts.items() if fact.known}
    for drive in guest.drives:
        path = guest.base_path(drive)
        if catalog and drive.mount_point == "/" and drive.name not in facts and os.path.exists(path):
            state = catalog.base_state(guest.name, drive.name)
            with explained("look at", path):
                if state and state.holds_for(os.stat(path)):
                    known[drive.name] = state
    return known
