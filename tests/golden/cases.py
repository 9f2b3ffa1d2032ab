"""The guests and bases whose rendered files are kept as golden trees."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from umldisk.build.files.facts import BaseFacts, BaseFile, InitSystem
from umldisk.config.guest import Guest
from umldisk.config.settings import DeviceNames, Files, Interface, Login, Network, Route
from umldisk.image.drives import DRIVES, HOME, ROOT, SWAP, VAR, Content

_PASSWD = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
_SHADOW = "root:$y$j9T$known$known:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
_INITTAB = """\
# The runlevel to start with.
id:2:initdefault:
si::sysinit:/etc/init.d/rcS
~~:S:wait:/sbin/sulogin
l0:0:wait:/etc/init.d/rc 0
l2:2:wait:/etc/init.d/rc 2
l6:6:wait:/etc/init.d/rc 6
ca:12345:ctrlaltdel:/sbin/shutdown -t1 -a -r now
pf::powerwait:/etc/init.d/powerfail start
1:2345:respawn:/sbin/getty 38400 tty1
2:23:respawn:/sbin/getty 38400 tty2
#T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100
"""
_ACCOUNTS = {
    "/etc/passwd": BaseFile(_PASSWD),
    "/etc/shadow": BaseFile(_SHADOW, 0o640, 0, 42),
    "/etc/group": BaseFile("root:x:0:\ndaemon:x:1:\n"),
    "/etc/profile": BaseFile("umask 022\n"),
    "/etc/shells": BaseFile("/bin/sh\n/bin/bash\n"),
}

BUSYBOX_FACTS = BaseFacts(InitSystem.BUSYBOX, ifupdown=True)
SYSVINIT_FACTS = BaseFacts(
    InitSystem.SYSVINIT,
    kmod=True,
    apt=True,
    fsck=True,
    ifupdown=True,
    files={**_ACCOUNTS, "/etc/inittab": BaseFile(_INITTAB)},
)
SYSTEMD_FACTS = BaseFacts(
    InitSystem.SYSTEMD,
    kmod=True,
    apt=True,
    udev=True,
    fsck=True,
    networkd=True,
    dbus=True,
    files={**_ACCOUNTS, "/etc/machine-id": BaseFile("0123456789abcdef0123456789abcdef\n", 0o444)},
)

_DOMAIN = "sharpe-practice.co.uk"
_NAMESERVERS = (IPv4Address("194.168.4.100"), IPv4Address("194.168.8.100"))


def _interface(name: str, address: str, *routed: str, is_default: bool = False) -> Interface:
    """Return one end of a /30 whose other end, one lower, leads to the networks `routed`."""
    own = IPv4Interface(f"{address}/30")
    host = own.ip - 1
    routes = tuple(Route(IPv4Network(f"{network}/30"), host) for network in routed)
    return Interface(name, own, host if is_default else None, routes)


def _zeit(name: str, last: int, others: tuple[int, int]) -> Guest:
    """Return one of the three guests of a virtual DMZ: services for inside on eth0, the Internet on eth1."""
    eth0 = _interface("eth0", f"10.1.0.{last}", *(f"10.1.0.{other}" for other in others))
    eth1 = _interface("eth1", f"10.1.1.{last}", *(f"10.1.1.{other}" for other in others), is_default=True)
    network = Network((eth0, eth1), _DOMAIN, (_DOMAIN,), _NAMESERVERS)
    sources = ("deb http://deb.debian.org/debian bookworm main",)
    return Guest(name, f"/site/guests/{name}", files=Files(network=network, apt_sources=sources))


PLAIN = Guest("blackdance", "/site/guests/blackdance")
_NETWORK = Network(
    (_interface("eth0", "10.1.0.6", "10.1.0.16"), _interface("eth1", "10.1.1.6", is_default=True)),
    _DOMAIN,
    hosts=((IPv4Address("10.1.0.18"), ("trancefer.sharpe-practice.co.uk", "trancefer")),),
)
_KEYS = ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample one", "ssh-rsa AAAAB3NzaC1yc2Example two")
_OLD_DRIVES = tuple(replace(drive, content=Content.EXT2) for drive in DRIVES if drive is not SWAP)

CASES: dict[str, tuple[Guest, BaseFacts]] = {
    "busybox": (PLAIN, BUSYBOX_FACTS),
    "busybox-network": (
        replace(
            PLAIN,
            files=Files(
                device_names=DeviceNames.LABEL,
                consoles=("tty0", "ttyS0"),
                network=_NETWORK,
                login=Login(ssh_keys=_KEYS),
            ),
        ),
        BUSYBOX_FACTS,
    ),
    "sysvinit": (PLAIN, SYSVINIT_FACTS),
    "sysvinit-old": (
        replace(
            PLAIN,
            drives=(*_OLD_DRIVES, SWAP),
            files=Files(
                device_names=DeviceNames.OLD,
                consoles=("tty0", "tty1"),
                network=_NETWORK,
                login=Login(root_password="$1$salt$hash"),
                apt_sources=("deb http://archive.debian.org/debian woody main",),
            ),
        ),
        replace(
            SYSVINIT_FACTS,
            ip=False,
            apt_files=("/etc/apt/sources.list.d/security.list",),
            files={
                "/etc/passwd": BaseFile("root::0:0:root:/root:/bin/sh\n"),
                "/etc/securetty": BaseFile("console\ntty1\n", 0o600),
                "/etc/inittab": BaseFile("id:2:initdefault:\nl2:2:wait:/etc/init.d/rc 2\n"),
            },
        ),
    ),
    "systemd": (PLAIN, SYSTEMD_FACTS),
    "systemd-network": (
        replace(
            PLAIN,
            files=Files(
                consoles=("tty0", "ttyS0"),
                network=replace(_NETWORK, search=(_DOMAIN, "example.org"), nameservers=_NAMESERVERS),
                login=Login(root_password="$y$j9T$salt$hash", ssh_keys=_KEYS),
                apt_sources=(),
            ),
        ),
        replace(
            SYSTEMD_FACTS,
            resolved=True,
            ssh_keygen="/usr/bin/ssh-keygen",
            ssh_host_keys=("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key"),
            apt_files=("/etc/apt/sources.list.d/debian.sources",),
            resolv_conf_link="../run/systemd/resolve/stub-resolv.conf",
        ),
    ),
    "systemd-without-udev": (
        replace(PLAIN, drives=(ROOT, VAR, replace(HOME, mount_point="/var/home"), SWAP)),
        replace(SYSTEMD_FACTS, udev=False, fsck=False, unit_directory="/lib/systemd/system"),
    ),
    "zeit-blackdance": (_zeit("blackdance", 6, (16, 12)), SYSVINIT_FACTS),
    "zeit-mirage": (_zeit("mirage", 14, (16, 4)), SYSVINIT_FACTS),
    "zeit-trancefer": (_zeit("trancefer", 18, (12, 4)), SYSVINIT_FACTS),
}
