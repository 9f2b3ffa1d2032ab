"""The guest's interfaces: /etc/network/interfaces for ifupdown, .network files for systemd-networkd.

Each interface is one end of a pair of addresses, mostly a /30 with the even address in the guest and the odd one, which
is its gateway, on the host. What lies behind is reached by a route that comes and goes with the interface.

ifupdown is written for whenever the base has it, networkd only when it does not and systemd runs: two managers of one
interface would undo each other. Loopback needs no file with networkd.

A base without the `ip` program, as they were before 2005, gets the same routes through `route`.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, file, symlink
from umldisk.config.guest import Guest
from umldisk.config.settings import Interface, Network, Route

INTERFACES = "/etc/network/interfaces"
_LOOPBACK = "auto lo\niface lo inet loopback\n"


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the files of the manager that the base has."""
    network = guest.files.network
    if facts.init is InitSystem.SYSTEMD and facts.networkd and not facts.ifupdown:
        return _networkd(network, facts)
    if facts.ifupdown or network.interfaces:
        return [file(INTERFACES, interfaces(network, facts))]
    return []


def interfaces(network: Network, facts: BaseFacts) -> str:
    """Return the text of /etc/network/interfaces."""
    stanzas = [_LOOPBACK, *(_stanza(interface, facts) for interface in network.interfaces)]
    return "\n".join(stanzas)


def _stanza(interface: Interface, facts: BaseFacts) -> str:
    net = interface.address.network
    rows = [
        f"auto {interface.name}",
        f"iface {interface.name} inet static",
        f"\taddress {interface.address.ip}",
        f"\tnetmask {net.netmask}",
        f"\tbroadcast {net.broadcast_address}",
    ]
    if interface.gateway:
        rows.append(f"\tgateway {interface.gateway}")
    rows += [f"\tup {_route_command(route, facts)}" for route in interface.routes]
    return "\n".join(rows) + "\n"


def _route_command(route: Route, facts: BaseFacts) -> str:
    if facts.ip:
        return f"ip route add {route.network} via {route.gateway}"
    return f"route add -net {route.network.network_address} netmask {route.network.netmask} gw {route.gateway}"


def _networkd(network: Network, facts: BaseFacts) -> list[Entry]:
    if not network.interfaces:
        return []
    wanted = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
    files = [file(f"/etc/systemd/network/10-{i.name}.network", network_unit(i)) for i in network.interfaces]
    files.append(symlink(wanted, f"{facts.unit_directory}/systemd-networkd.service"))
    if facts.resolved and network.nameservers:
        files.append(file("/etc/systemd/resolved.conf.d/nameservers.conf", _resolved(network)))
    return files


def network_unit(interface: Interface) -> str:
    """Return the text of the .network file of one interface (systemd.network(5))."""
    rows = ["[Match]", f"Name={interface.name}", "", "[Network]", f"Address={interface.address}"]
    if interface.gateway:
        rows.append(f"Gateway={interface.gateway}")
    for route in interface.routes:
        rows += ["", "[Route]", f"Destination={route.network}", f"Gateway={route.gateway}"]
    return "\n".join(rows) + "\n"


def _resolved(network: Network) -> str:
    rows = ["[Resolve]", "DNS=" + " ".join(str(address) for address in network.nameservers)]
    domains = network.search or ((network.domain,) if network.domain else ())
    if domains:
        rows.append("Domains=" + " ".join(domains))
    return "\n".join(rows) + "\n"
