"""All files that this project writes into a guest, one topic after the other.

    guest ──┐
            ├──▶ fstab, names, network, accounts, ssh, ... ──▶ entries, laid over the base by the caller
    facts ──┘

Everything here is pure: nothing is read, no clock is asked, and the same guest on the same base gives the same entries
in the same order. No path comes twice. Files of the base that need no change are not among them. A topic decides by
itself whether it applies; each owns its files, so that none has to know of another's.
"""

from __future__ import annotations

import dataclasses

from umldisk.build.files import (
    accounts,
    agent,
    apt,
    busybox_init,
    console,
    fstab,
    inittab,
    machine_id,
    names,
    network,
    ssh,
    systemd,
)
from umldisk.build.files.facts import BaseFacts
from umldisk.build.tree import Entry
from umldisk.config.guest import Guest

_TOPICS = (fstab, names, network, accounts, ssh, console, agent, busybox_init, inittab, systemd, machine_id, apt)


def guest_entries(guest: Guest, facts: BaseFacts, *, mtime_ns: int) -> list[Entry]:
    """Return everything that makes the base with `facts` the guest; every inode gets `mtime_ns`."""
    rendered = [entry for topic in _TOPICS for entry in topic.entries(guest, facts)]
    return [Entry(entry.path, dataclasses.replace(entry.inode, mtime_ns=mtime_ns)) for entry in rendered]
