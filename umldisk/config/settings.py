"""What can be set for a guest, as values; the defaults here are what a guest without a umldisk.toml gets.

Nothing here reads a file: `umldisk.config.load` makes these values from umldisk.toml, tests make them by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

EMBEDDED_BASE = "busybox"
STDIN_BASE = "-"
BOOTSTRAPPED = ("debian", "ubuntu")
"""Before a colon and a suite: a base that mmdebstrap makes."""
DEFAULT_KERNEL = "linux"
SMALL_MEMORY, DEFAULT_MEMORY = "64M", "128M"
"""What a guest starts with on the embedded base, and on any other."""


def is_bootstrapped(base: str) -> bool:
    """Whether `base` is a distribution's name, a colon, and a suite."""
    distribution, colon, _suite = base.partition(":")
    return bool(colon) and distribution in BOOTSTRAPPED


def is_named_base(base: str) -> bool:
    """Whether `base` is a word with a meaning of its own rather than a path."""
    return base in (EMBEDDED_BASE, STDIN_BASE) or is_bootstrapped(base)


def is_object_store(store: str) -> bool:
    """Whether checkpoints are kept in a bucket rather than a directory."""
    return store.startswith("s3://")


class DeviceNames(Enum):
    """How fstab names the guest's disks: /dev/ubda, LABEL=root, or /dev/ubd/0 as guests of 2.4 kernels had them."""

    UBDA = "ubda"
    LABEL = "label"
    OLD = "ubd/0"


class Init(Enum):
    """Which init a bootstrapped base gets."""

    SYSVINIT = "sysvinit"
    SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How `debian:SUITE` and `ubuntu:SUITE` are made by mmdebstrap; mirror "" is the distribution's own.

    `init` None means sysvinit where there is one, which takes less memory.
    """

    variant: str = "essential"
    init: Init | None = None
    packages: tuple[str, ...] = ()
    mirror: str = ""
    components: tuple[str, ...] = ("main",)


@dataclass(frozen=True, slots=True)
class Route:
    """A network that is reached through a gateway."""

    network: IPv4Network
    gateway: IPv4Address


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface of the guest with its address, in a /30 the even one: the host has the odd one."""

    name: str
    address: IPv4Interface
    gateway: IPv4Address | None = None
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class Network:
    """The guest's interfaces and how it finds names; with no interface the guest has loopback alone."""

    interfaces: tuple[Interface, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    nameservers: tuple[IPv4Address, ...] = ()
    hosts: tuple[tuple[IPv4Address, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Login:
    """Who may log in: `root_password` is a crypt(5) hash or None (locked), `ssh_keys` lines of authorized_keys.

    `console` logs root in on the first console without asking; None means: where nobody else could log in there.
    """

    root_password: str | None = None
    ssh_keys: tuple[str, ...] = ()
    console: bool | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """The files that `build` writes into a guest besides its base.

    `consoles` are the tty names that get a getty (con0 is tty0). `modules` are names of kernel modules, () for none
    and None for what suits the base: all where there is a modprobe, none on the embedded base. `apt_sources` are lines
    of sources.list, None to leave the base's. `overlay` is a directory that is laid over everything. With `agent` the
    guest answers the host on ttyS0.
    """

    device_names: DeviceNames = DeviceNames.UBDA
    consoles: tuple[str, ...] = ("tty0",)
    network: Network = Network()
    login: Login = Login()
    apt_sources: tuple[str, ...] | None = None
    modules: tuple[str, ...] | None = None
    overlay: str | None = None
    agent: bool = True
