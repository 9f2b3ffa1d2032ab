"""/etc/fstab: one line for each drive, root first as the drives come.

The last field is 1 for root and 0 for all others, where the base has a fsck to run and an init that runs it: one
`e2fsck -p` at the start decides whether the guest comes up at all, the journals do the rest. An error found later makes
a file system read-only, as it should on a server whose disks are looked at from outside.

`noatime` keeps reading from writing: an untouched guest leaves its COW files as they were.

systemd waits for the device of every line until udev announces it, 90 seconds long. Where there is no udev the lines
say `noauto`, and a unit of ours mounts them (see systemd.py).
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest
from umldisk.config.settings import DeviceNames
from umldisk.image.drives import Content, Drive

_RUNS_FSCK = (InitSystem.SYSVINIT, InitSystem.SYSTEMD, InitSystem.OTHER)


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return /etc/fstab."""
    return [file("/etc/fstab", fstab(guest, facts))]


def fstab(guest: Guest, facts: BaseFacts) -> str:
    """Return the text of /etc/fstab."""
    rows = ["# device  mount point  type  options  dump  pass"]
    rows += [_row(drive, guest.files.device_names, facts) for drive in guest.drives]
    if facts.init in (InitSystem.SYSVINIT, InitSystem.OTHER):
        rows.append("proc /proc proc defaults 0 0")
    return "\n".join(rows) + "\n"


def _row(drive: Drive, names: DeviceNames, facts: BaseFacts) -> str:
    device = device_name(drive, names)
    waits = "" if drive.mount_point == "/" or not is_unannounced(facts) else ",noauto"
    if drive.content is Content.SWAP:
        return f"{device} none swap sw{waits} 0 0"
    checked = drive.mount_point == "/" and facts.fsck and facts.init in _RUNS_FSCK
    return f"{device} {drive.mount_point} {drive.content.value} noatime,errors=remount-ro{waits} 0 {int(checked)}"


def is_unannounced(facts: BaseFacts) -> bool:
    """Whether systemd would wait in vain for the devices of fstab."""
    return facts.init is InitSystem.SYSTEMD and not facts.udev


def device_name(drive: Drive, names: DeviceNames) -> str:
    """Return what fstab calls `drive`: its device, its label, or the path it had with devfs in 2.4 kernels."""
    match names:
        case DeviceNames.LABEL:
            return f"LABEL={drive.name}"
        case DeviceNames.OLD:
            return f"/dev/ubd/{drive.ubd}"
        case DeviceNames.UBDA:
            return drive.device
