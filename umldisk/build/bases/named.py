"""From the word that umldisk.toml or --base gives to the base itself.

busybox                        the embedded base
debian:SUITE, ubuntu:SUITE     bootstrapped, and kept in the site's cache
anything else, and "-"         an archive, a directory or an image: told apart by what is in it
"""

from __future__ import annotations

from umldisk.build.bases.base import Base
from umldisk.config.guest import Guest
from umldisk.config.settings import EMBEDDED_BASE, is_bootstrapped
from umldisk.progress import Progress


def open_named_base(guest: Guest, *, cache: str, scratch: str, refresh: bool, progress: Progress) -> Base:
    """Open the base that `guest` names; `cache` and `scratch` are directories, of which only `scratch` need exist.

    Raises NoInputError when it is not there, DataError when it is none.
    """
    if guest.base == EMBEDDED_BASE:
        from umldisk.build.bases.busybox import BusyboxBase

        return BusyboxBase()
    if is_bootstrapped(guest.base):
        from umldisk.build.bases.bootstrap import BootstrapBase

        distribution, _colon, suite = guest.base.partition(":")
        return BootstrapBase(distribution, suite, guest.bootstrap, cache=cache, refresh=refresh, progress=progress)
    from umldisk.build.bases.choose import open_base

    return open_base(guest.base, scratch=scratch)
