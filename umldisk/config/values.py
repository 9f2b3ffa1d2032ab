"""What the single settings of a umldisk.toml take: sizes, names, addresses, keys, each as a kind of value."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from umldisk.config.guest import require_guest_name
from umldisk.config.kinds import Scalar, Wrong
from umldisk.config.problems import shown
from umldisk.config.settings import BOOTSTRAPPED, is_named_base
from umldisk.errors import UsageError
from umldisk.image.drives import GIB, MIB

SECTOR_BYTES = 4096
"""Sizes of drives are multiples of this: the block of the file systems and the page of the swap."""

LARGEST_DRIVE_BYTES = 15 << 40
"""The host's ext4 takes no file of 16 TiB."""

PUBLIC_KEY_SUFFIX = ".pub"

_MOST_COMMAND_BYTES = 1000

_UNITS = {"": 1, "K": 1 << 10, "M": MIB, "G": GIB, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)", re.ASCII)
_SUITE = re.compile(r"[a-z][a-z0-9.+-]*", re.ASCII)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_PUBLIC_KEY = re.compile(
    r"(?:(?P<options>\S.*?)[ \t]+)??"
    r"(?P<type>ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r"[ \t]+(?P<blob>[A-Za-z0-9+/]+={0,2})(?:[ \t].*)?",
    re.ASCII,
)


def parse_size(text: str) -> int:
    """Return a size in bytes from digits and a binary unit: 512, 4K, 1M, 2G, 1T. Raises Wrong."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise Wrong
    return int(found[1]) * _UNITS[found[2]]


def _drive_size(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes % SECTOR_BYTES or not size_bytes:
        raise Wrong(expected=f"a multiple of {SECTOR_BYTES} bytes")
    if size_bytes > LARGEST_DRIVE_BYTES:
        raise Wrong(expected="at most 15T")
    return size_bytes


def _memory(text: str) -> str:
    size_bytes = parse_size(text)
    if not 16 * MIB < size_bytes < 512 * GIB:
        raise Wrong(expected="more than 16M and less than 512G")
    return text


def _base(text: str) -> str:
    word, colon, suite = text.partition(":")
    if word in BOOTSTRAPPED and colon and not _SUITE.fullmatch(suite):
        raise Wrong(expected=f'"{word}:SUITE" with a suite such as {"bookworm" if word == "debian" else "noble"}')
    if not is_named_base(text) and colon and word.isalnum():
        raise Wrong(hint=f"a path with a colon is written ./{text}")
    return _path(text)


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise Wrong
    return text


def _store(text: str) -> str:
    if "://" in text and not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9.-]+(?:/[!-~]*)?", text):
        raise Wrong
    return _path(text)


def _mount_point(text: str) -> str:
    steps = text.split("/")[1:]
    plain = text == "/" or (text.startswith("/") and all(step not in ("", ".", "..") for step in steps))
    if not plain or not text.isprintable() or any(c.isspace() for c in text):
        raise Wrong
    return text


def _mount_mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3,4}", text, re.ASCII) or int(text, 8) > 0o7777:
        raise Wrong
    return int(text, 8)


def _password_hash(text: str) -> str:
    scheme = r"\$(?:1|5|6|7|y|gy|2[abxy]|sha1|md5)\$"
    if not re.fullmatch(scheme + r"[./0-9A-Za-z$=,*+-]{8,}", text, re.ASCII):
        raise Wrong(found="a text that is no hash", hint="make one with: openssl passwd -6")
    return text


def _ssh_key(text: str) -> str:
    return text if is_key_file(text) else require_public_key(text)


def is_key_file(text: str) -> bool:
    """Say whether an entry of ssh_keys is the path of a file rather than a key, whose comment may end in .pub."""
    return text.endswith(PUBLIC_KEY_SUFFIX) and not _PUBLIC_KEY.fullmatch(text) and "\0" not in text


def require_public_key(text: str) -> str:
    """Return a line of authorized_keys, options allowed. Raises Wrong, which never quotes what may be a private key."""
    if "PRIVATE KEY" in text:
        raise Wrong(found="a private key", hint=f"the public one is in the file that ends in {PUBLIC_KEY_SUFFIX}")
    found = _PUBLIC_KEY.fullmatch(text)
    if not found or not _is_blob_of(found["blob"], found["type"]):
        raise Wrong
    return text


def _is_blob_of(blob: str, key_type: str) -> bool:
    """Say whether the base64 text begins with its key's type, as the wire form of a key does (RFC 4253, 6.6)."""
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    name = key_type.encode()
    return data.startswith(len(name).to_bytes(4, "big") + name) and len(data) > len(name) + 4


def _apt_source(text: str) -> str:
    entry = r"(deb|deb-src)\s+(\[[^\]]*\]\s+)?[a-z][a-z+-]*:\S+\s+(\S+/|\S+(\s+[^\s/]+)+)\s*(#.*)?"
    if not re.fullmatch(rf"(#.*|\s*|{entry})", text) or not text.isprintable():
        raise Wrong
    return text


def _command(text: str) -> str:
    if not text.strip() or len(text.encode()) > _MOST_COMMAND_BYTES or not text.isprintable():
        raise Wrong
    return text


def _interface_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", text, re.ASCII):
        raise Wrong
    if text == "lo":
        raise Wrong(hint="the loopback interface is always there")
    return text


def _address(text: str) -> IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise Wrong from None


def _host_address(text: str) -> IPv4Address:
    address = _address(text)
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        raise Wrong(expected="the address of one machine")
    return address


def _interface_address(text: str) -> IPv4Interface:
    address, slash, length = text.partition("/")
    _address(address)
    if not slash or not re.fullmatch(r"[0-9]{1,2}", length, re.ASCII) or not 1 <= int(length) <= 32:
        raise Wrong
    interface = ipaddress.IPv4Interface(text)
    if _host_address(address).is_loopback:
        raise Wrong(expected="an address that others can reach")
    _require_host_of(interface)
    return interface


def _require_host_of(interface: IPv4Interface) -> None:
    """Refuse the two ends of a network; of a /30 the odd address as well, which is the host's end of the link."""
    network = interface.network
    length = network.prefixlen
    if length == 30 and interface.ip != network.network_address + 2:
        odd_one = interface.ip == network.network_address + 1
        kind = "the host's, a guest has the even one" if odd_one else "no machine's"
        right = f"{network.network_address + 2}/30"
        raise Wrong(found=f"{shown(str(interface))}, which is {kind}", expected=shown(right))
    if length < 31 and interface.ip in (network.network_address, network.broadcast_address):
        first, last = network.network_address + 1, network.broadcast_address - 1
        raise Wrong(expected=f"one of the addresses {first} to {last}")


def _network(text: str) -> IPv4Network:
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        raise Wrong from None
    if "/" not in text:
        raise Wrong
    if interface.ip != interface.network.network_address:
        raise Wrong(expected=shown(str(interface.network)))
    return interface.network


def _guest_name(text: str) -> str:
    try:
        return require_guest_name(text)
    except UsageError as error:
        raise Wrong(expected=str(error.expected)) from None


def _plain_text(pattern: str) -> Callable[[str], Any]:
    compiled = re.compile(pattern, re.ASCII)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Wrong
        return text

    return parse


ADDRESS = Scalar("an IPv4 address such as 10.1.0.18", _host_address)
APT_SOURCE = Scalar('a line of sources.list such as "deb http://deb.debian.org/debian bookworm main"', _apt_source)
BASE = Scalar('"busybox", "debian:SUITE", "ubuntu:SUITE", the path of an archive, directory or image, or "-"', _base)
COMMAND = Scalar("one line of at most 1,000 printable characters", _command)
COMPONENT = Scalar("a component such as main", _plain_text(r"[A-Za-z0-9][A-Za-z0-9._-]*"))
CONSOLE = Scalar(
    "tty0 to tty15 or ttyS0 to ttyS63", _plain_text(r"tty(?:[0-9]|1[0-5])|ttyS(?:[0-9]|[1-5][0-9]|6[0-3])")
)
DOMAIN = Scalar("a domain name such as example.org", _plain_text(rf"(?=.{{0,253}}$)(?:{_LABEL}(?:\.{_LABEL})*)?"))
DRIVE_NAME = Scalar(
    "at most 16 lower-case letters, digits, _ and -, a letter first", _plain_text(r"[a-z][a-z0-9_-]{0,15}")
)
GUEST_NAME = Scalar("a name for a guest", _guest_name)
HOST_NAME = Scalar("the name of a host", _plain_text(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*"))
INTERFACE_ADDRESS = Scalar('an IPv4 address with its network, such as "10.1.0.6/30"', _interface_address)
INTERFACE_NAME = Scalar("at most 15 letters, digits, _, . and -, a letter first", _interface_name)
SEARCH_DOMAIN = Scalar("a domain name such as example.org", HOST_NAME.parse)
KERNEL = Scalar("the path of a kernel, or the name of a program", _path)
MEMORY = Scalar('a size such as "64M"', _memory)
MIRROR = Scalar(
    'the URL of a mirror, or "" for the distribution\'s own', _plain_text(r"(?:(?:https?|ftp|file|copy):/\S+)?")
)
MODULE = Scalar("the name of a kernel module", _plain_text(r"[A-Za-z0-9_-]+"))
MOUNT_MODE = Scalar('octal digits in quotes such as "755" or "1777"', _mount_mode)
MOUNT_POINT = Scalar("an absolute path without blanks and without . or .. in it, such as /srv", _mount_point)
NETWORK = Scalar('a network such as "10.1.0.16/30"', _network)
PACKAGE = Scalar(
    "the name of a package", _plain_text(r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9-]+)?(?:[=/][A-Za-z0-9.+~:-]+)?")
)
PASSWORD_HASH = Scalar("a crypt(5) hash, which begins with $6$ or the like", _password_hash, secret=True)
PATH = Scalar("a path", _path)
SIZE = Scalar("a size such as 512M, 2G", _drive_size)
SSH_KEY = Scalar("a line such as ssh-ed25519 AAAA..., or the path of a file that ends in .pub", _ssh_key, secret=True)
STORE = Scalar("a directory, or s3://BUCKET/PREFIX", _store)
USER = Scalar("the name of a user", _plain_text(r"[a-z_][a-z0-9_-]{0,31}"))
