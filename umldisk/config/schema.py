"""Every key of a umldisk.toml, as data: where it stands, what it takes, its default, what it means.

    [defaults]        any of the keys, for all guests
    [guest.NAME]      the same keys, for one guest; what it says counts before [defaults]

A key's path is as seen from such a table; "*" stands for names that the user chooses. Each single key is inherited by
itself, so that a guest may change the size of one drive and keep the rest; an array is inherited or replaced whole.
From this table come validation, `config show` and the test of the manual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from umldisk.config import values
from umldisk.config.kinds import BOOLEAN, FalseOr, Field, Kind, ListOf, Scalar, Tables, choice
from umldisk.config.settings import (
    DEFAULT_KERNEL,
    DEFAULT_MEMORY,
    EMBEDDED_BASE,
    SMALL_MEMORY,
    Bootstrap,
    DeviceNames,
    Files,
    Init,
    Network,
)
from umldisk.image.drives import DRIVES, AtStart, Content, Drive

ANY_NAME = "*"

SettingPath = tuple[str, ...]
"""The path of a setting as seen from a guest's table, names of drives and the like filled in."""

MOST_DRIVES = 16
"""How many ubd devices there are (MAX_DEV in arch/um/drivers/ubd_kern.c)."""


class Unset(NamedTuple):
    """The default of a key that has none: in words, what happens without it."""

    means: str


@dataclass(frozen=True, slots=True)
class Key:
    """One key; `default` is as TOML would say it, or Unset."""

    path: SettingPath
    kind: Kind
    default: Any
    doc: str


def _list(item: Scalar, expected: str, most: int | None = None) -> ListOf:
    return ListOf(item, f"an array of {expected}", most)


_ROUTES = Tables(
    {"to": Field(values.NETWORK, required=True), "via": Field(values.ADDRESS, required=True)},
    'an array of tables such as { to = "10.1.0.16/30", via = "10.1.0.5" }',
    most=256,
)
_INTERFACES = Tables(
    {
        "name": Field(values.INTERFACE_NAME, required=True),
        "address": Field(values.INTERFACE_ADDRESS, required=True),
        "gateway": Field(values.ADDRESS),
        "routes": Field(_ROUTES),
    },
    'an array of tables such as { name = "eth0", address = "10.1.0.6/30" }',
    most=16,
)
_VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")
_CONTENTS = choice(*(content.value for content in Content), of=Content)
_AT_START = choice(*(policy.value for policy in AtStart), of=AtStart)
_INITS = choice(*(init.value for init in Init), of=Init)
_DEVICE_NAMES = choice(*(names.value for names in DeviceNames), of=DeviceNames)
_MODULES = FalseOr(
    _list(values.MODULE, "names of kernel modules"), "true, false or an array of names of kernel modules", None, ()
)

KEYS = (
    Key(("base",), values.BASE, EMBEDDED_BASE, "What the disks are filled from."),
    Key(
        ("memory",),
        values.MEMORY,
        Unset(f"{SMALL_MEMORY} on the embedded base, else {DEFAULT_MEMORY}"),
        "How much memory the guest is started with.",
    ),
    Key(("user",), values.USER, Unset("the guest's name"), "Who owns the disks when root builds them."),
    Key(("kernel",), values.KERNEL, DEFAULT_KERNEL, "The UML kernel that the guest is started with."),
    Key(("store",), values.STORE, Unset("the site's store/"), "Where checkpoints of the guest's drives are kept."),
    Key(("overlay",), values.PATH, Unset("nothing"), "A directory that is laid over the base and the rendered files."),
    Key(
        ("consoles",),
        _list(values.CONSOLE, "names of consoles", most=16),
        list(Files().consoles),
        "The consoles that get a getty; con0 of UML is tty0.",
    ),
    Key(("device_names",), _DEVICE_NAMES, Files().device_names.value, "How fstab names the disks."),
    Key(("modules",), _MODULES, True, "The UML kernel's modules: those the base can load, none, or those named."),
    Key(("apt_sources",), _list(values.APT_SOURCE, "lines of sources.list"), Unset("as in the base"), "APT's sources."),
    Key(("root_password",), values.PASSWORD_HASH, Unset("locked"), "The hash of root's password."),
    Key(("ssh_keys",), _list(values.SSH_KEY, "public keys"), [], "Who may log in as root by ssh."),
    Key(
        ("console_login",),
        BOOLEAN,
        Unset("true where nobody else could log in there"),
        "Whether the first console is root's without a password.",
    ),
    Key(("agent",), BOOLEAN, True, "Whether the guest answers the host on its first serial line."),
    Key(("probe",), values.COMMAND, Unset("none"), "A shell command by which `drill` tells a good guest."),
    Key(
        ("layout",),
        _list(values.DRIVE_NAME, "names of drives", most=MOST_DRIVES),
        [drive.name for drive in DRIVES],
        "The drives in the order of their ubd numbers.",
    ),
    Key(("hosts", ANY_NAME), _list(values.HOST_NAME, "names of hosts"), Unset("none"), "Further lines of /etc/hosts."),
    Key(
        ("bootstrap", "variant"),
        choice(*_VARIANTS),
        Bootstrap().variant,
        "Which packages a bootstrapped base begins with.",
    ),
    Key(("bootstrap", "init"), _INITS, Unset("sysvinit, for Ubuntu systemd"), "Which init it gets."),
    Key(("bootstrap", "packages"), _list(values.PACKAGE, "names of packages"), [], "Packages besides."),
    Key(("bootstrap", "mirror"), values.MIRROR, Bootstrap().mirror, "Where the packages come from."),
    Key(
        ("bootstrap", "components"),
        _list(values.COMPONENT, "components of the archive"),
        list(Bootstrap().components),
        "The components of the archive.",
    ),
    Key(("network", "domain"), values.DOMAIN, Network().domain, "The domain of the guest's own name."),
    Key(("network", "search"), _list(values.SEARCH_DOMAIN, "domain names"), [], "Where short names are looked for."),
    Key(
        ("network", "nameservers"),
        _list(values.ADDRESS, "IPv4 addresses", most=3),
        [],
        "Who is asked for names; a resolver takes three.",
    ),
    Key(("network", "interfaces"), _INTERFACES, [], "The network interfaces, each a link of its own to the host."),
    Key(("drives", ANY_NAME, "size"), values.SIZE, "1G", "How large the drive is; the file is sparse."),
    Key(("drives", ANY_NAME, "fs"), _CONTENTS, Content.EXT4.value, "What it is formatted as."),
    Key(("drives", ANY_NAME, "mount"), values.MOUNT_POINT, Unset("none, for swap"), "Where it is mounted."),
    Key(("drives", ANY_NAME, "mount_mode"), values.MOUNT_MODE, "755", "The permissions of its top directory."),
    Key(("drives", ANY_NAME, "copy_on_write"), BOOLEAN, True, "Whether the guest writes to a COW file beside it."),
    Key(("drives", ANY_NAME, "policy"), _AT_START, AtStart.KEEP.value, "What happens to it at every start."),
)
"""All keys but those of tables in arrays, which their kinds list; in the order in which `config show` prints them."""

KEY_OF = {key.path: key for key in KEYS}

NAME_KINDS: dict[SettingPath, Scalar] = {("drives",): values.DRIVE_NAME, ("hosts",): values.ADDRESS}
"""What stands for "*" below these tables."""


def pattern_of(path: SettingPath) -> SettingPath:
    """Return a path with "*" in place of the names that the user chose."""
    return (path[0], ANY_NAME, *path[2:]) if path[:1] in NAME_KINDS and len(path) > 1 else path


def key_of(path: SettingPath) -> Key:
    """Return the key of a setting, in whose path the names are filled in."""
    return KEY_OF[pattern_of(path)]


def documented_keys() -> dict[str, Kind]:
    """Map every key, those of tables in arrays included, to its kind: `drives.*.size`, `network.interfaces[].name`."""
    found: dict[str, Kind] = {}
    for key in KEYS:
        _document(".".join(key.path), key.kind, found)
    return found


def _document(name: str, kind: Kind, found: dict[str, Kind]) -> None:
    found[name] = kind
    if isinstance(kind, Tables):
        for field, below in kind.fields.items():
            _document(f"{name}[].{field}", below.kind, found)


def is_swap_by_name(name: str) -> bool:
    """Say whether a drive is swap space when nothing else is said."""
    return any(drive.name == name and drive.content is Content.SWAP for drive in DRIVES)


def drive_defaults(name: str, *, is_swap: bool) -> dict[str, Any]:
    """Return what a drive is without any setting, as TOML would say it; `is_swap` says what it is to be formatted as.

    The five of the default layout have defaults of their own. Swap has no mount point and runs without COW.
    """
    known = {drive.name: drive for drive in DRIVES}.get(name)
    if known and is_swap_by_name(name) == is_swap:
        return _as_toml(known)
    defaults = {path[2]: key.default for path, key in KEY_OF.items() if path[0] == "drives"}
    if is_swap:
        return {
            "size": defaults["size"],
            "fs": Content.SWAP.value,
            "copy_on_write": False,
            "policy": defaults["policy"],
        }
    return {field: default for field, default in defaults.items() if not isinstance(default, Unset)}


def _as_toml(drive: Drive) -> dict[str, Any]:
    table: dict[str, Any] = {"size": size_text(drive.size_bytes), "fs": drive.content.value}
    if drive.mount_point is not None:
        table |= {"mount": drive.mount_point, "mount_mode": f"{drive.mount_mode:o}"}
    return table | {"copy_on_write": drive.copy_on_write, "policy": drive.at_start.value}


def size_text(size_bytes: int) -> str:
    """Return a size as umldisk.toml says it, in the largest unit that divides it."""
    for unit, power in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size_bytes and size_bytes % (1 << power) == 0:
            return f"{size_bytes >> power}{unit}"
    return str(size_bytes)
