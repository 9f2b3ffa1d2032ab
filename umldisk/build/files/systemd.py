"""A guest on systemd: consoles, ctrl-alt-del, the ready marker, and what must not run under UML.

*Consoles.* systemd puts a getty on tty1, which UML attaches to nothing; that one is masked. Every configured console
gets an instance of getty@.service, or of serial-getty@.service for a serial line, with this project's getty command
where it logs in; then the shell of an emergency does so too, which for a locked root would refuse to start. UML's first
console, con0, is tty0 in the guest.

*Drives.* Without udev nothing tells systemd that a device is there. A unit of ours then mounts what fstab lists, in the
place of the units that systemd makes of it; it unmounts them itself in the end, as it does with whatever it finds
mounted.

*Stop.* ctrl-alt-del.target is an alias of reboot.target as it comes; here it is one of poweroff.target.

*Journal.* A journal file starts with a hash table made for the greatest size that it may reach. Small files keep the
first start from writing megabytes into the COW of /var.
"""

from __future__ import annotations

from umldisk.build.files.console import getty_command, logs_in
from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.files.fstab import device_name, is_unannounced
from umldisk.build.files.marker import ready_marker
from umldisk.build.tree import Entry, file, symlink
from umldisk.config.guest import Guest
from umldisk.image.drives import Content

UNITS = "/etc/systemd/system"
_MASKED = ("getty@tty1.service",)
_RESCUES = ("emergency.service", "rescue.service")

_RESCUE = """\
[Service]
Environment=SYSTEMD_SULOGIN_FORCE=1
"""

_JOURNAL = """\
[Journal]
SystemMaxFileSize=1M
SystemMaxUse=64M
"""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return units, links and drop-ins; nothing for another init."""
    if facts.init is not InitSystem.SYSTEMD:
        return []
    consoles = {getty_unit(tty) for tty in guest.files.consoles}
    return [
        symlink(f"{UNITS}/ctrl-alt-del.target", f"{facts.unit_directory}/poweroff.target"),
        *(symlink(f"{UNITS}/{unit}", "/dev/null") for unit in _MASKED if unit not in consoles),
        *(entry for tty in guest.files.consoles for entry in _console(guest, facts, tty)),
        file(f"{UNITS}/guest-ready.service", ready_unit(guest)),
        symlink(f"{UNITS}/multi-user.target.wants/guest-ready.service", f"{UNITS}/guest-ready.service"),
        file("/etc/systemd/journald.conf.d/size.conf", _JOURNAL),
        *(file(f"{UNITS}/{unit}.d/login.conf", _RESCUE) for unit in _RESCUES if logs_in(guest)),
        *(_drives(guest) if is_unannounced(facts) else []),
    ]


def getty_unit(tty: str) -> str:
    """Return the unit that keeps a getty on `tty`."""
    virtual = tty.startswith("tty") and tty[3:].isdecimal()
    return f"getty@{tty}.service" if virtual else f"serial-getty@{tty}.service"


def _console(guest: Guest, facts: BaseFacts, tty: str) -> list[Entry]:
    unit = getty_unit(tty)
    template = f"{unit.partition('@')[0]}@.service"
    made = [symlink(f"{UNITS}/getty.target.wants/{unit}", f"{facts.unit_directory}/{template}")]
    if logs_in(guest) and tty == guest.files.consoles[0]:
        command = getty_command(guest, facts, tty)
        made.append(file(f"{UNITS}/{unit}.d/login.conf", f"[Service]\nExecStart=\nExecStart=-{command}\n"))
    return made


def _drives(guest: Guest) -> list[Entry]:
    unit, wanted = f"{UNITS}/guest-drives.service", f"{UNITS}/local-fs.target.wants/guest-drives.service"
    return [file(unit, drives_unit(guest)), symlink(wanted, unit)]


def drives_unit(guest: Guest) -> str:
    """Return the text of the unit that mounts every drive but root, outer mount points first."""
    points = sorted(drive.mount_point for drive in guest.drives if drive.mount_point not in (None, "/"))
    swaps = [drive for drive in guest.drives if drive.content is Content.SWAP]
    commands = [f"/bin/mount {point}" for point in points]
    commands += [f"/sbin/swapon {device_name(drive, guest.files.device_names)}" for drive in swaps]
    rows = "\n".join(f"ExecStart={command}" for command in commands)
    return f"""\
[Unit]
Description=Mount the drives, which nothing announces without udev
DefaultDependencies=no
After=systemd-remount-fs.service
Before=local-fs.target swap.target systemd-journal-flush.service systemd-random-seed.service

[Service]
Type=oneshot
RemainAfterExit=yes
{rows}

[Install]
WantedBy=local-fs.target
"""


def ready_unit(guest: Guest) -> str:
    """Return the text of the unit that writes the ready marker once all else of multi-user.target has started."""
    return f"""\
[Unit]
Description=Ready marker on the console
After=multi-user.target
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "echo '{ready_marker(guest)}' >/dev/console"

[Install]
WantedBy=multi-user.target
"""
