"""The guest's own name and how it finds others: hostname, hosts, resolv.conf.

All three are always written. A bootstrapped base carries those of the machine it was made on, which are wrong in the
guest and differ from builder to builder. The one exception is a resolv.conf that leads to a resolver's run-time file,
as long as no nameserver is given.

The guest's name belongs to its first address, or to 127.0.1.1 while it has none.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest
from umldisk.config.settings import Network


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the three files."""
    own = [file("/etc/hostname", guest.name + "\n"), file("/etc/hosts", hosts(guest))]
    if facts.resolv_conf_link and not _is_resolving(guest.files.network):
        return own
    return [*own, file("/etc/resolv.conf", resolv_conf(guest.files.network))]


def hosts(guest: Guest) -> str:
    """Return the text of /etc/hosts."""
    network = guest.files.network
    rows = ["127.0.0.1 localhost"]
    if not any(guest.name in names for _, names in network.hosts):
        address = network.interfaces[0].address.ip if network.interfaces else "127.0.1.1"
        full = f"{guest.name}.{network.domain} {guest.name}" if network.domain else guest.name
        rows.append(f"{address} {full}")
    rows.append("::1 localhost ip6-localhost ip6-loopback")
    rows += [f"{address} {' '.join(names)}" for address, names in network.hosts]
    return "\n".join(rows) + "\n"


def _is_resolving(network: Network) -> bool:
    return bool(network.nameservers or network.domain or network.search)


def resolv_conf(network: Network) -> str:
    """Return the text of /etc/resolv.conf; without a nameserver it names none."""
    rows = [f"domain {network.domain}"] if network.domain else []
    if network.search:
        rows.append("search " + " ".join(network.search))
    rows += [f"nameserver {address}" for address in network.nameservers]
    return "\n".join(rows or ["# This guest has no nameserver."]) + "\n"
