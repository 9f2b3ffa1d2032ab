"""What a restore or reset needs to itself before it looks: the guest's run, the store, the directory, the disks.

In this order, which is that of every command that takes more than one of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.build import publish
from umldisk.build.ownership import Ownership
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.store import Store
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.errors import BusyError, DataError, NoInputError, StorageError
from umldisk.guest import rundir
from umldisk.guest.state import LOCK
from umldisk.ops.checkpoints.storage import catalog_for_writing, catalog_path, store_location, store_of
from umldisk.ops.restoring import stages
from umldisk.ops.restoring.planning import Purpose, Wish
from umldisk.system import locks
from umldisk.system.files import open_disk


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How a restore is done; the store is waited for as long as `lock_wait_seconds`.

    With `glance` the bases that stay are not read (`bases`). `is_claimed` says that the caller has claimed the guest's
    run already.
    """

    dry_run: bool = False
    lock_wait_seconds: float = 0
    glance: bool = False
    is_claimed: bool = False


def store_for(site: Site, guest: Guest, wish: Wish, options: RestoreOptions, given: Store | None) -> Store | None:
    """Return the store where one is needed; what was never recorded can be reset without making one."""
    if wish.purpose is Purpose.RESET:
        is_needed = wish.keeps_evidence or not options.glance
        is_there = os.path.lexists(catalog_path(site)) or os.path.lexists(store_location(site, guest))
        if not is_needed or not (is_there or given or "://" in store_location(site, guest)):
            return None
    return given or store_of(site, guest)


def claimed_run(site: Site, guest: Guest, options: RestoreOptions) -> contextlib.AbstractContextManager[object]:
    """Keep everybody from starting the guest; a rehearsal only looks whether somebody does."""
    run_directory = site.run_directory(guest.name)
    if options.is_claimed:
        return contextlib.nullcontext()
    if options.dry_run:
        _refuse_running(guest, os.path.join(run_directory, LOCK))
        return contextlib.nullcontext()
    return rundir.claim(run_directory)


def _refuse_running(guest: Guest, path: str) -> None:
    with contextlib.suppress(NoInputError), open_disk(path) as lock:  # none yet, or not ours to open
        if other := locks.holder(lock.fd):
            raise BusyError("the guest runs, or is being started or stopped", where=guest.name, pid=other.pid)


@dataclass(frozen=True, slots=True)
class Holding:
    """What is held: the disks, and the store unless `store_failure` says why it is not."""

    disks: publish.Held
    store_failure: StorageError | None = None

    def require_store(self) -> None:
        """Raise why the store is not held."""
        if self.store_failure is not None:
            raise self.store_failure


@contextlib.contextmanager
def held(guest: Guest, store: Store | None, ownership: Ownership, options: RestoreOptions) -> Iterator[Holding]:
    """Hold the store, the guest's directory and its disks against everybody else.

    A store that fails does not keep a restore from being finished, whose disks are all here: it is not held then.
    """
    failure = None
    with contextlib.ExitStack() as stack:
        if store is not None:
            try:
                stack.enter_context(store.writing(guest.name, wait_seconds=options.lock_wait_seconds))
            except StorageError as error:
                if not stages.is_unfinished(guest.directory):
                    raise
                failure = error
        stack.enter_context(publish.claimed(guest, ownership))
        _refuse_unfinished_build(guest)
        yield Holding(stack.enter_context(publish.held(guest)), failure)


@contextlib.contextmanager
def opened_catalog(site: Site) -> Iterator[Catalog | None]:
    """Open the site's catalog for reading; None where there is none, because looking at a guest makes none."""
    with contextlib.ExitStack() as stack:
        catalog = None
        with contextlib.suppress(NoInputError):
            catalog = stack.enter_context(Catalog.open(catalog_path(site), writable=False))
        yield catalog


@contextlib.contextmanager
def catalog_to_write(site: Site, *, is_made: bool) -> Iterator[Catalog | None]:
    """Open the site's catalog for writing; where there is none, make a whole one or give None, which asks no store."""
    if not is_made and not os.path.lexists(catalog_path(site)):
        yield None
        return
    with catalog_for_writing(site) if is_made else Catalog.open(catalog_path(site), writable=True) as catalog:
        yield catalog


def _refuse_unfinished_build(guest: Guest) -> None:
    if publish.is_unfinished(guest):
        hint = f"finish it first: umldisk build {guest.name}"
        raise DataError(
            "a build of the guest was cut off while it put disks in place", where=guest.directory, hint=hint
        )
