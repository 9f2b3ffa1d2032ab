"""The files that make programs a guest: who is on it, what is mounted, how it starts and stops.

Every function here is pure: a guest goes in, the text of one file comes out. They are written for
busybox init, which reads /etc/inittab, runs rcS once and keeps one getty on the console.

*Start.* UML's kernel mounts root read-only and devtmpfs on /dev. rcS makes root writable, mounts
the rest of fstab, turns swap on and writes one line to the console, `umldisk: NAME is ready`, for
whoever waits.

*Stop.* Ctrl-alt-del, which mconsole's `cad` sends, powers off. init runs rcK first, which ends all
processes before it unmounts, because a file system with a file open for writing could not even be
made read-only.

*Login.* Root's password is locked, so that nothing that may listen on a network lets root in. The
console, instead, is logged in without being asked: whoever holds it started the guest and owns its
disks, so a password would protect nothing, and a known or empty one would be a hole once a service
is added.

Nothing writes utmp or wtmp, and file systems are mounted noatime: a boot should leave few traces in
the COW files.
"""

from __future__ import annotations

from umldisk.build.tree import Entry, directory, file, symlink
from umldisk.config.guest import Guest
from umldisk.image.drives import Content, Drive

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""

_GROUP = """\
root:x:0:
daemon:x:1:
tty:x:5:
disk:x:6:
shadow:x:42:
users:x:100:
nogroup:x:65534:
"""

_SHADOW = """\
root:!:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
nobody:*:19000:0:99999:7:::
"""

_INITTAB = """\
::sysinit:/etc/init.d/rcS
tty0::respawn:/sbin/getty -n -l /sbin/console-login 38400 tty0 linux
::ctrlaltdel:/sbin/poweroff
::shutdown:/etc/init.d/rcK
"""

_CONSOLE_LOGIN = """\
#!/bin/sh
# Root's password is locked; the console belongs to whoever started the guest.
exec /bin/login -f root
"""

_STOP = """\
#!/bin/sh
# Run by init on the way down, while all else still runs.
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


def ready_marker(guest: Guest) -> str:
    """Return the console line that says that the guest has started."""
    return f"umldisk: {guest.name} is ready"


def fstab(guest: Guest) -> str:
    """Return /etc/fstab; nothing is checked at boot, as the base has no fsck and ext4 its journal."""
    rows = ["# device  mount point  type  options  dump  pass"]
    rows += [_fstab_row(drive) for drive in guest.drives]
    return "\n".join(rows) + "\n"


def _fstab_row(drive: Drive) -> str:
    if drive.content is Content.SWAP:
        return f"{drive.device} none swap sw 0 0"
    return f"{drive.device} {drive.mount_point} {drive.content.value} noatime 0 0"


def hosts(guest: Guest) -> str:
    """Return /etc/hosts."""
    return f"127.0.0.1 localhost\n127.0.1.1 {guest.name}\n::1 localhost ip6-localhost\n"


def start_script(guest: Guest) -> str:
    """Return /etc/init.d/rcS, which init runs before everything else."""
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
ip link set lo up
echo '{ready_marker(guest)}' >/dev/console
"""


def skeleton(guest: Guest) -> list[Entry]:
    """Return every directory and file that the project itself puts on a guest."""
    return [*_directories(), *_files(guest), *_links()]


def _directories() -> list[Entry]:
    plain = "/ /bin /sbin /etc /etc/init.d /dev /run /home /mnt /opt /srv"
    usr = "/usr /usr/bin /usr/sbin /usr/local /usr/local/bin /usr/local/sbin"
    variable = "/var /var/cache /var/lib /var/log /var/spool"
    shared = "/tmp /var/tmp"
    return [
        *(directory(path) for path in f"{plain} {usr} {variable}".split()),
        *(directory(path, 0o1777) for path in shared.split()),
        *(directory(path, 0o555) for path in ("/proc", "/sys")),
        directory("/root", 0o700),
    ]


def _files(guest: Guest) -> list[Entry]:
    return [
        file("/etc/passwd", _PASSWD),
        file("/etc/group", _GROUP),
        file("/etc/shadow", _SHADOW, 0o640, gid=42),
        file("/etc/hostname", guest.name + "\n"),
        file("/etc/hosts", hosts(guest)),
        file("/etc/fstab", fstab(guest)),
        file("/etc/inittab", _INITTAB),
        file("/etc/profile", _PROFILE),
        file("/etc/shells", "/bin/sh\n"),
        file("/etc/init.d/rcS", start_script(guest), 0o755),
        file("/etc/init.d/rcK", _STOP, 0o755),
        file("/sbin/console-login", _CONSOLE_LOGIN, 0o755),
    ]


def _links() -> list[Entry]:
    return [
        symlink("/etc/mtab", "/proc/self/mounts"),
        symlink("/var/run", "/run"),
        symlink("/var/lock", "/run"),
    ]
