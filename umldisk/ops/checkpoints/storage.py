"""Where a site keeps its checkpoints: which store is whose, and the catalog.

    umldisk.toml says store = "..." for a guest, or for all in [defaults]      that one
    says nothing                                                               SITE/store

A site can have several stores, and a store can serve several sites; the catalog is one a site. What concerns no single
guest is done in every store of the site.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

from umldisk.checkpoint import history
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.store import Store
from umldisk.checkpoint.stores import open_store
from umldisk.config.guest import Guest, require_guest_name
from umldisk.config.site import Site
from umldisk.errors import NoInputError, UmldiskError

STORE_NAME = "store"


def store_of(site: Site, guest: Guest | str) -> Store:
    """Open the store of a guest; raises UsageError when it is none, and what `Site.guest` raises."""
    return open_store(store_location(site, guest))


def store_location(site: Site, guest: Guest | str) -> str:
    """Return where the checkpoints of a guest are kept."""
    found = site.guest(guest) if isinstance(guest, str) else guest
    return found.store or os.path.join(site.directory, STORE_NAME)


def stores_of(site: Site, guests: Collection[str] = ()) -> dict[str, Store]:
    """Open the stores of these guests, by default all that the site has, and return them by location.

    The site's own SITE/store is among all when it is there, or when the site has no other.
    """
    own = os.path.join(site.directory, STORE_NAME)
    locations = [store_location(site, name) for name in guests or site.guest_names()]
    if not guests and (os.path.isdir(own) or not locations):
        locations.append(own)
    return {location: open_store(location) for location in dict.fromkeys(locations)}


def moved_guests(site: Site, location: str) -> set[str]:
    """Return the site's guests whose store is another; what this one has of them was left behind by a move."""
    return {name for name in site.guest_names() if store_location(site, name) != location}


# -- the catalog ------------------------------------------------------------------------------------------------------


def catalog_path(site: Site) -> str:
    """Return where the site's catalog lies, or would."""
    return os.path.join(site.directory, CATALOG_NAME)


@contextlib.contextmanager
def reading_catalog(site: Site) -> Iterator[Catalog | None]:
    """Open the site's catalog; None when the site has neither a catalog nor a store, so that there is nothing to know.

    Raises NoInputError when there is a store, from which the catalog can be rebuilt.
    """
    try:
        found = Catalog.open(catalog_path(site), writable=False)
    except NoInputError:
        if any("://" in location or os.path.isdir(location) for location in stores_of(site)):
            raise
        yield None
        return
    with found:
        yield found


@contextlib.contextmanager
def required_catalog(site: Site, guest: str) -> Iterator[Catalog]:
    """Open the site's catalog for a guest that must have checkpoints; raises NoInputError when nobody has."""
    name = require_guest_name(guest)
    with reading_catalog(site) as found:
        if found is None:
            raise NoInputError(f"{name} has no checkpoints", where=catalog_path(site))
        yield found


def catalog_for_writing(site: Site) -> Catalog:
    """Open the site's catalog; one that is not there or empty gets the histories of the site, so that none is in part.

    Those that are broken, or in a store that cannot be used now, come in when somebody next writes to them.
    """
    catalog = Catalog.open(catalog_path(site), writable=True)
    try:
        if not catalog.guests():
            history.fill_from(_own_homes(site), catalog)
    except BaseException:
        catalog.close()
        raise
    return catalog


def _own_homes(site: Site) -> dict[str, Store]:
    """Return where the histories of the site's own guests are, and in SITE/store those of guests that were removed."""
    own, names = os.path.join(site.directory, STORE_NAME), site.guest_names()
    found: dict[str, Store] = {}
    for location in dict.fromkeys([*(store_location(site, name) for name in names), own]):
        with contextlib.suppress(UmldiskError):
            store, moved = open_store(location), moved_guests(site, location)
            there = set(history.guests(store)) - moved
            found |= dict.fromkeys(there if location == own else there & set(names), store)
    return dict(sorted(found.items()))


def homes(site: Site) -> dict[str, Store]:
    """Return which store each guest's history is in: that of umldisk.toml, or for others, where there is one."""
    found: dict[str, Store] = {}
    for location, store in stores_of(site).items():
        moved = moved_guests(site, location)
        for guest in history.guests(store):
            if guest not in moved:
                found.setdefault(guest, store)
    return dict(sorted(found.items()))


def vouched_guests(site: Site, catalog: Catalog, location: str) -> list[str]:
    """Return the guests whose history the catalog knows and this store must therefore have.

    When the site has a single store these are all; else those that umldisk.toml gives this one.
    """
    if list(stores_of(site)) == [location]:
        return catalog.guests()
    named = {name for name in site.guest_names() if store_location(site, name) == location}
    return [name for name in catalog.guests() if name in named]
