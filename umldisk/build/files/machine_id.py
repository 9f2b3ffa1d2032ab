"""The machine id: one for each guest, never the base's.

With systemd /etc/machine-id is empty. Then systemd makes an id at the first start and keeps it, which is what
machine-id(5) asks of an image that is used more than once. It could also be missing or say `uninitialized`, but then
systemd takes the first start for that of an unconfigured machine, presets all units anew and asks questions on the
console.

No other init makes one. Where the base has an id all the same, for D-Bus, the guest gets one that follows from its
name, as the UUIDs of its disks do.
"""

from __future__ import annotations

import uuid

from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, file, symlink
from umldisk.config.guest import Guest

MACHINE_ID, DBUS_ID = "/etc/machine-id", "/var/lib/dbus/machine-id"
_NAMESPACE = uuid.UUID("3c6f0b2e-9d0a-4b0e-8a52-5d2a4c0f7e19")


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return /etc/machine-id and D-Bus's link to it."""
    if facts.init is InitSystem.SYSTEMD:
        text = ""
    elif facts.text(MACHINE_ID) is not None or facts.text(DBUS_ID) is not None:
        text = uuid.uuid5(_NAMESPACE, guest.name).hex + "\n"
    else:
        return []
    link = [symlink(DBUS_ID, MACHINE_ID)] if facts.dbus else []
    return [file(MACHINE_ID, text, 0o444), *link]
