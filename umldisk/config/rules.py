"""What must hold between the settings of a guest, and between guests.

Each rule is a generator of complaints about what was read without complaint; a value that is wrong by itself takes part
in none, so that one mistake is reported once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from umldisk.config.effective import Effective
from umldisk.config.kinds import INVALID
from umldisk.config.problems import Complaint, KeyPath, dotted, shown
from umldisk.config.schema import MOST_DRIVES, size_text
from umldisk.image.drives import MIB, Content

SMALLEST_BYTES = {Content.EXT2: MIB, Content.EXT3: 8 * MIB, Content.EXT4: 8 * MIB, Content.SWAP: 10 * 4096}
"""Below 2048 blocks mke2fs makes no journal (ext2fs_default_journal_size); mkswap and the kernel want ten pages."""

_NOT_FOR_DRIVES = ("/dev", "/etc", "/proc", "/run", "/sys")
_FOR_INIT = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
"""Where init and its libraries lie, or in /usr: the kernel starts it when only the root drive is mounted."""
_EVERYWHERE = IPv4Network("0.0.0.0/0")


def guest_complaints(guest: Effective) -> Iterator[Complaint]:
    """Yield what does not fit together within one guest."""
    yield from _about_layout(guest)
    for drive in guest.drives:
        yield from _about_drive(guest, drive)
    yield from _about_mount_points(guest)
    yield from _about_console(guest)
    yield from _about_interfaces(guest)


def site_complaints(guests: Iterable[Effective]) -> Iterator[Complaint]:
    """Yield what does not fit together between guests."""
    among = list(guests)
    seen: dict[str, str] = {}
    for guest in among:
        other = seen.setdefault(guest.name.lower(), guest.name)
        if other != guest.name:
            yield Complaint(guest.at, f"the name of guest.{other} but for capitals", "a host name of its own")
    yield from _about_shared_networks(among)


# -- drives -----------------------------------------------------------------------------------------------------------


def _about_layout(guest: Effective) -> Iterator[Complaint]:
    if guest.is_wrong("layout"):
        return
    if not guest.drives or (guest.drives[0] != "root"):
        found = shown(guest.drives[0]) if guest.drives else "no drive"
        yield Complaint(guest.place("layout"), f"{found} at first", '"root", which the guest boots from')
    if len(guest.drives) > MOST_DRIVES:
        last = guest.place("drives", guest.drives[MOST_DRIVES])
        yield Complaint(last, f"{len(guest.drives)} drives", f"at most {MOST_DRIVES}, as many as UML has ubd devices")


def _about_drive(guest: Effective, drive: str) -> Iterator[Complaint]:
    path = ("drives", drive)
    content, size_bytes = guest.value(*path, "fs"), guest.value(*path, "size")
    if content is Content.SWAP:
        for field in ("mount", "mount_mode"):
            if (*path, field) in guest.settings:
                yield Complaint(guest.place(*path, field), f"{field} for swap space", f"another fs, or no {field}")
    elif (*path, "mount") not in guest.settings:
        described = drive in guest.drive_places
        place = guest.place(*path, "mount") if described else guest.place("layout")
        found = "no mount" if described else f"{shown(drive)}, of which nothing is said"
        yield Complaint(place, found, f'a path in {dotted(path)}.mount, or fs = "swap" there')
    if content and size_bytes is not None and size_bytes < SMALLEST_BYTES[content]:
        least = size_text(SMALLEST_BYTES[content])
        found = f"{shown(guest.settings[(*path, 'size')].raw)} for {content.value}"
        yield Complaint(guest.place(*path, "size"), found, f"at least {least}")


def _about_mount_points(guest: Effective) -> Iterator[Complaint]:
    by_mount: dict[str, str] = {}
    for drive in guest.drives:
        mount = guest.value("drives", drive, "mount")
        if mount is None:
            continue
        other = by_mount.setdefault(mount, drive)
        if drive == "root" and mount != "/":
            yield Complaint(guest.place("drives", drive, "mount"), shown(mount), '"/", which the guest boots from')
        elif other != drive:
            yield _shared_mount_point(guest, mount, drive, other)
        elif _is_in(mount, _NOT_FOR_DRIVES):
            expected = f"a path outside {', '.join(_NOT_FOR_DRIVES)}"
            yield Complaint(guest.place("drives", drive, "mount"), shown(mount), expected)
        elif mount == "/usr" or mount.removeprefix("/usr") in _FOR_INIT:
            expected = f"none of {', '.join(_FOR_INIT)}, these in /usr, and /usr itself: init starts from there"
            yield Complaint(guest.place("drives", drive, "mount"), shown(mount), expected)


def _is_in(mount: str, directories: Iterable[str]) -> bool:
    return any(mount == directory or mount.startswith(f"{directory}/") for directory in directories)


def _shared_mount_point(guest: Effective, mount: str, drive: str, other: str) -> Complaint:
    """Complain of the drive whose mount point was chosen, not of one that always had it."""
    if not guest.settings[("drives", drive, "mount")].at:
        drive, other = other, drive
    found = f"{shown(mount)}, where drive {other} is mounted"
    return Complaint(guest.place("drives", drive, "mount"), found, "a mount point of its own")


def _about_console(guest: Effective) -> Iterator[Complaint]:
    if guest.value("console_login") and guest.value("consoles") == ():
        yield Complaint(guest.place("console_login"), "true without a console", "a name in consoles, or false")


# -- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Link:
    """One table of network.interfaces, at `at`, as far as it was read."""

    table: Mapping[str, Any]
    at: KeyPath

    def get(self, key: str) -> Any:
        value = self.table.get(key)
        return None if value is INVALID else value

    @property
    def address(self) -> IPv4Interface | None:
        found: IPv4Interface | None = self.get("address")
        return found


def _links(guest: Effective) -> list[_Link]:
    tables = guest.value("network", "interfaces") or ()
    place = guest.place("network", "interfaces")
    return [_Link(table, (*place, index)) for index, table in enumerate(tables)]


def _about_interfaces(guest: Effective) -> Iterator[Complaint]:
    links = _links(guest)
    names: set[str] = set()
    for number, link in enumerate(links):
        name = link.get("name")
        if name is not None and name in names:
            yield Complaint((*link.at, "name"), f"{shown(name)} a second time", "each interface only once")
        names.add(name)
        yield from _about_overlap(link, links[:number])
    yield from _about_gateways(links)


def _about_overlap(link: _Link, others: list[_Link]) -> Iterator[Complaint]:
    for other in others:
        if link.address and other.address and link.address.network.overlaps(other.address.network):
            found = f"{shown(str(link.address))}, which overlaps {other.address.network} of {other.get('name')}"
            yield Complaint((*link.at, "address"), found, "a network of its own for each interface")


def _about_gateways(links: list[_Link]) -> Iterator[Complaint]:
    routed: dict[IPv4Network, KeyPath] = {}
    for link in links:
        for target, via, place, key in _routes(link):
            if link.address and via:
                yield from _about_gateway(link.address, via, (*place, key))
            if target is not None and routed.setdefault(target, place) != place:
                found = "a second gateway" if target == _EVERYWHERE else f"a second route to {target}"
                yield Complaint((*place, "gateway" if key == "gateway" else "to"), found, "one for the guest")


def _routes(link: _Link) -> Iterator[tuple[IPv4Network | None, IPv4Address | None, KeyPath, str]]:
    """Yield target, gateway, the table that says them and the gateway's key there."""
    if "gateway" in link.table:
        yield _EVERYWHERE, link.get("gateway"), link.at, "gateway"
    for index, route in enumerate(link.get("routes") or ()):
        target, via = (None if route.get(key) is INVALID else route.get(key) for key in ("to", "via"))
        yield target, via, (*link.at, "routes", index), "via"


def _about_gateway(address: IPv4Interface, via: IPv4Address, place: KeyPath) -> Iterator[Complaint]:
    network = address.network
    if network.prefixlen == 30:
        right = network.network_address + 1
        if via != right:
            yield Complaint(place, shown(str(via)), f"{shown(str(right))}, the host's address in {network}")
    elif via not in network:
        yield Complaint(place, shown(str(via)), f"an address in {network}, the interface's network")
    elif via == address.ip:
        yield Complaint(place, f"{shown(str(via))}, the guest's own address", f"another address in {network}")
    elif network.prefixlen < 31 and via in (network.network_address, network.broadcast_address):
        yield Complaint(place, f"{shown(str(via))}, which is no machine's", f"another address in {network}")


def _about_shared_networks(guests: list[Effective]) -> Iterator[Complaint]:
    """No address twice; and networks that two guests share are the same: else the host would not know the way."""
    links = [(guest.name, link, link.address) for guest in guests for link in _links(guest) if link.address]
    owner_of: dict[IPv4Address, tuple[str, str]] = {}
    owners_of: dict[IPv4Network, dict[str, str]] = {}
    for name, link, address in links:
        label = f"guest.{name} {link.get('name') or ''}".strip()
        owners_of.setdefault(address.network, {}).setdefault(name, label)
        other, owner = owner_of.setdefault(address.ip, (name, label))
        if other != name:
            found = f"{shown(str(address))}, which {owner} has"
            yield Complaint((*link.at, "address"), found, "an address of its own")
    for name, link, address in links:
        yield from _about_wider(address, name, link.at, owners_of)


def _about_wider(
    address: IPv4Interface, name: str, at: KeyPath, owners_of: Mapping[IPv4Network, Mapping[str, str]]
) -> Iterator[Complaint]:
    """Complain when a wider network of another guest holds this one's; networks overlap in no other way."""
    for length in range(1, address.network.prefixlen):
        wider = address.network.supernet(new_prefix=length)
        owners = [label for other, label in owners_of.get(wider, {}).items() if other != name]
        if owners:
            found = f"{shown(str(address))}, which is inside {wider} of {owners[0]}"
            yield Complaint((*at, "address"), found, "the same network, or one apart")
            return
