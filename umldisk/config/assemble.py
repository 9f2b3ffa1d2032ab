"""From the settings that count for a guest to the guest as a value; paths become absolute, key files are read."""

from __future__ import annotations

import os
from ipaddress import IPv4Address
from typing import Any

from umldisk.config.effective import Effective
from umldisk.config.guest import Guest
from umldisk.config.kinds import Wrong
from umldisk.config.problems import Complaint, KeyPath, shown
from umldisk.config.reading import read_small_file
from umldisk.config.settings import Bootstrap, Files, Interface, Login, Network, Route, is_named_base, is_object_store
from umldisk.config.values import is_key_file, require_public_key
from umldisk.errors import UmldiskError
from umldisk.image.drives import AtStart, Content, Drive

_MOST_KEY_BYTES = 1 << 16


def assemble(guest: Effective, *, site: str, directory: str, complaints: list[Complaint]) -> Guest:
    """Return the guest whose settings these are; relative paths are seen from the directory `site`.

    What is wrong with its files of public keys is added to `complaints`; nothing else is looked at.
    """
    base, overlay, kernel = guest.value("base"), guest.value("overlay"), guest.value("kernel")
    return Guest(
        guest.name,
        directory,
        drives=tuple(_drive(guest, name, ubd) for ubd, name in enumerate(guest.drives)),
        base=base if is_named_base(base) else _absolute(site, base),
        bootstrap=_bootstrap(guest),
        files=Files(
            device_names=guest.value("device_names"),
            consoles=guest.value("consoles"),
            network=_network(guest),
            login=_login(guest, site, complaints),
            apt_sources=guest.value("apt_sources"),
            modules=guest.value("modules"),
            overlay=None if overlay is None else _absolute(site, overlay),
            agent=guest.value("agent"),
        ),
        memory=guest.value("memory"),
        user=guest.value("user"),
        store=_store(site, guest.value("store")),
        kernel=kernel if "/" not in kernel else _absolute(site, kernel),
        probe=guest.value("probe"),
    )


def file_complaints(guest: Effective, *, site: str) -> list[Complaint]:
    """Return what is wrong with the files that the guest's settings name, apart from what is in them."""
    complaints: list[Complaint] = []
    base, overlay = guest.value("base"), guest.value("overlay")
    if base is not None and not is_named_base(base) and not os.path.exists(_absolute(site, base)):
        found = f"{shown(base)}, which does not exist"
        complaints.append(Complaint(guest.place("base"), found, "a file or a directory"))
    if overlay is not None and not os.path.isdir(_absolute(site, overlay)):
        complaints.append(Complaint(guest.place("overlay"), f"{shown(overlay)}, which is none", "a directory"))
    _ssh_keys(guest, site, complaints)
    return complaints


def _store(site: str, store: str | None) -> str | None:
    return store if store is None or is_object_store(store) else _absolute(site, store)


def _absolute(site: str, path: str) -> str:
    return os.path.normpath(os.path.join(site, path))


def _drive(guest: Effective, name: str, ubd: int) -> Drive:
    def of(field: str) -> Any:
        return guest.value("drives", name, field)

    mode = of("mount_mode")
    return Drive(
        name,
        ubd,
        None if of("fs") is Content.SWAP else of("mount"),
        size_bytes=of("size"),
        content=of("fs"),
        copy_on_write=of("copy_on_write"),
        at_start=of("policy") or AtStart.KEEP,
        **({} if mode is None else {"mount_mode": mode}),
    )


def _bootstrap(guest: Effective) -> Bootstrap:
    fields = ("variant", "init", "packages", "mirror", "components")
    return Bootstrap(**{field: guest.value("bootstrap", field) for field in fields})


def _network(guest: Effective) -> Network:
    hosts = [(path[1], setting.value) for path, setting in guest.settings.items() if path[0] == "hosts"]
    return Network(
        interfaces=tuple(_interface(table) for table in guest.value("network", "interfaces")),
        domain=guest.value("network", "domain"),
        search=guest.value("network", "search"),
        nameservers=guest.value("network", "nameservers"),
        hosts=tuple((IPv4Address(address), names) for address, names in hosts),
    )


def _interface(table: dict[str, Any]) -> Interface:
    routes = tuple(Route(route["to"], route["via"]) for route in table.get("routes", ()))
    return Interface(table["name"], table["address"], gateway=table.get("gateway"), routes=routes)


def _login(guest: Effective, site: str, complaints: list[Complaint]) -> Login:
    return Login(
        root_password=guest.value("root_password"),
        ssh_keys=_ssh_keys(guest, site, complaints),
        console=guest.value("console_login"),
    )


def _ssh_keys(guest: Effective, site: str, complaints: list[Complaint]) -> tuple[str, ...]:
    place = guest.place("ssh_keys")
    lines: list[str] = []
    for index, entry in enumerate(guest.value("ssh_keys") or ()):
        if is_key_file(entry):
            lines += _read_keys(_absolute(site, entry), (*place, index), complaints)
        else:
            lines.append(entry)
    return tuple(dict.fromkeys(lines))


def _read_keys(path: str, place: KeyPath, complaints: list[Complaint]) -> list[str]:
    try:
        text = read_small_file(path, _MOST_KEY_BYTES).decode("utf-8", "replace")
    except UmldiskError as error:
        complaints.append(Complaint(place, f"{shown(path)}: {error.what}", "a file of public keys"))
        return []
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    try:
        if not keys:
            raise Wrong(found="no key")
        return [require_public_key(key) for key in keys]
    except Wrong as wrong:
        found = f"{wrong.found or 'something else'} in {shown(path)}"
        complaints.append(Complaint(place, found, "lines such as ssh-ed25519 AAAA...", wrong.hint))
        return []
