"""A guest on busybox init, which reads /etc/inittab, runs rcS once and keeps a getty on every console and the agent.

*Start.* UML's kernel mounts root read-only and devtmpfs on /dev. rcS makes root writable, mounts the rest of fstab,
turns swap on, brings the network up and writes the ready marker.

*Stop.* Ctrl-alt-del, which mconsole's `cad` sends, powers off. init runs rcK first, which ends all processes before it
unmounts, because a file system with a file open for writing could not even be made read-only.

Nothing writes utmp or wtmp: a boot should leave few traces in the COW files.
"""

from __future__ import annotations

from umldisk.build.files.agent import PROGRAM as AGENT
from umldisk.build.files.agent import has_agent
from umldisk.build.files.console import getty_command
from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.files.marker import ready_marker
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_STOP = f"""\
#!/bin/sh
# Run by init on the way down, while all else still runs.
export PATH={PATH}
echo 'umldisk: going down'
kill -TERM -1
usleep 100000
kill -KILL -1
sync
swapoff -a
umount -a -r -t noproc,sysfs,devtmpfs
mount -o remount,ro /
sync
"""

_PROFILE = f"""\
export PATH={PATH}
export PS1='\\u@\\h:\\w\\$ '
umask 022
"""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return inittab and its scripts, and for a bare base what a shell wants; nothing for another init."""
    if facts.init is not InitSystem.BUSYBOX:
        return []
    bare = {"/etc/profile": _PROFILE, "/etc/shells": "/bin/sh\n"}
    return [
        file("/etc/inittab", inittab(guest, facts)),
        file("/etc/init.d/rcS", start_script(guest, facts), 0o755),
        file("/etc/init.d/rcK", _STOP, 0o755),
        *(file(path, text) for path, text in bare.items() if facts.text(path) is None),
    ]


def inittab(guest: Guest, facts: BaseFacts) -> str:
    """Return the text of /etc/inittab."""
    rows = ["::sysinit:/etc/init.d/rcS"]
    rows += [f"{tty}::respawn:{getty_command(guest, facts, tty)}" for tty in guest.files.consoles]
    rows += [f"::respawn:{AGENT}"] if has_agent(guest, facts) else []
    rows += ["::ctrlaltdel:/sbin/poweroff", "::shutdown:/etc/init.d/rcK"]
    return "\n".join(rows) + "\n"


def start_script(guest: Guest, facts: BaseFacts) -> str:
    """Return the text of /etc/init.d/rcS, which init runs before everything else."""
    network = "ifup -a" if facts.ifupdown else "ip link set lo up"
    return f"""\
#!/bin/sh
export PATH={PATH}
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
grep -q ' /dev ' /proc/mounts || mount -t devtmpfs devtmpfs /dev
mount -o remount,rw,noatime /
mount -a
swapon -a
mkdir -p /dev/pts
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
hostname -F /etc/hostname
{network}
echo '{ready_marker(guest)}' >/dev/console
"""
