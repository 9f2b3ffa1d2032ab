"""Making catalog.db anew from the stores of a site.

A guest's history is taken from the store that umldisk.toml gives it, and that of a guest that only a store knows from
there. While that is done nobody adds to the histories of the site's own guests.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import Catalog
from umldisk.config.site import Site
from umldisk.ops.checkpoints.storage import catalog_path, homes, stores_of
from umldisk.ops.checkpoints.verifying import BrokenHistoriesError


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many records each guest has in the catalog now, or with `dry_run` in the stores."""

    catalog: str
    stores: tuple[str, ...]
    records: dict[str, int]
    dry_run: bool


def rebuild_catalog(site: Site, *, dry_run: bool = False, wait_seconds: float = 0) -> RebuildReport:
    """Make the site's catalog anew; one that is damaged is set aside and not removed.

    Raises BusyError while somebody adds to a guest's history, StorageError when a store fails, and HistoryError when a
    history is broken, after the catalog has got what comes before the first bad record.
    """
    stores, path = stores_of(site), catalog_path(site)
    found = homes(site)
    if dry_run:
        records = {guest: len(history.verify_chain(store, None, guest)) for guest, store in found.items()}
        return RebuildReport(path, tuple(stores), records, dry_run)
    with ExitStack() as resources:
        for guest in sorted({*found} & {*site.guest_names()}):
            resources.enter_context(found[guest].writing(guest, wait_seconds=wait_seconds))
        catalog = resources.enter_context(Catalog.open_anew(path))
        rebuilt = history.rebuild_from(found, catalog)
    if rebuilt.broken:
        raise BrokenHistoriesError(rebuilt.broken)
    return RebuildReport(path, tuple(stores), rebuilt.records, dry_run)
