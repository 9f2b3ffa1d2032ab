r"""What the records of a pax header say: times, maps of sparse files, extended attributes, access control lists.

A record is `LENGTH KEY=VALUE\n`. Keys and values are bytes here; what a writer calls another character set is refused,
because every name would have to be guessed. A later record of a key wins, except that the pairs of the sparse form 0.0
are collected into the map that form 0.1 has. Global records may not say what can be true of one member only.

Attributes come from three writers in three ways, all of which may stand in one header:

    SCHILY.xattr.NAME=bytes              GNU tar, Go (docker, podman) and bsdtar; "=" and "%" of a name are %3D and %25
    LIBARCHIVE.xattr.NAME=base64         bsdtar, beside the former with the same NAME; all odd bytes of a name are %XX
    SCHILY.acl.access=text, .default     star, GNU tar and bsdtar: the list as acl_to_text(3) writes it
    RHT.security.selinux=text            GNU tar: the label without the NUL that the kernel's value ends with

What comes out is what getxattr(2) would give. An access list as text becomes the kernel's form (version 2 of
linux/posix_acl_xattr.h: a word 2, then tag, permissions and id of every entry, ordered by tag and id); one that says
no more than the permission bits is none, and every access list decides the bits, as it does when setfacl sets it.

Users and groups by name are refused but for root: their numbers would be those of this machine, not the guest's. The
fourth field of star and bsdtar has the number, and so has a list that is stored as bytes too, which therefore wins.

Kept are the name spaces that an ext file system has; attributes of other file systems (btrfs., system.cifs_acl, ...)
are refused, and so is NFSv4's kind of access list. Left out: inode flags (SCHILY.fflags), which are no attributes.

Times are read as POSIX has them. libarchive (bsdtar) writes one before 1970 with a fraction a second too early: -1.5 as
-2.5, which is what the file on the disk gets.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from umldisk.build.tree import NAME_BYTES, path_bytes, path_text
from umldisk.errors import DataError

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"
_SELINUX = "security.selinux"
_NAMESPACES = ("user.", "trusted.", "security.")
_VALUE_BYTES = 1 << 16
"""The kernel's XATTR_SIZE_MAX."""

_SCHILY = "SCHILY.xattr."
_LIBARCHIVE = "LIBARCHIVE.xattr."

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = {
    "user": (_USER_OBJ, _USER),
    "group": (_GROUP_OBJ, _GROUP),
    "mask": (_MASK, _MASK),
    "other": (_OTHER, _OTHER),
}
_PERMISSIONS = re.compile(r"[r-]?[w-]?[x-]?", re.ASCII)
_DECIMAL = re.compile(rb"[0-9]{1,20}", re.ASCII)
_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:[.]([0-9]*))?", re.ASCII)
_EXTENTS = 1 << 18
"""The most stretches of data that one sparse member may have."""
_SPARSE_PAIR = ("GNU.sparse.offset", "GNU.sparse.numbytes")
_ONE_MEMBER_ONLY = ("path", "linkpath", "size", "GNU.sparse.", "SCHILY.xattr.", "SCHILY.acl.", "LIBARCHIVE.", "RHT.")
_CHARSETS = (b"", b"BINARY", b"ISO-IR 10646 2000 UTF-8")
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What pax records add to an inode: sorted extended attributes, and permission bits where an ACL decides them."""

    xattrs: tuple[tuple[str, bytes], ...] = ()
    permissions: int | None = None


NO_ATTRIBUTES = Attributes()


def parse_records(data: bytes, *, of_all: bool = False) -> dict[str, bytes]:
    """Return the records of a pax header; `of_all` when it is a global one.

    Raises DataError for damaged records and for those of multi-volume and incremental archives.
    """
    records: dict[str, bytes] = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(data):
        key, value, at = _parse_record(data, at)
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(pairs) % 2]:
                raise DataError("the map of a sparse member is not in order", expected="pairs", found=key)
            pairs.append(value)
        else:
            records[key] = value
    if pairs:
        records["GNU.sparse.map"] = b",".join(pairs)
    for key in records:
        if of_all and key.startswith(_ONE_MEMBER_ONLY):
            raise DataError("a global header says what can be true of one member only", found=key)
        if key == "GNU.dumpdir" or (key.startswith("GNU.volume.") and key != "GNU.volume.label"):
            raise DataError("a part of a multi-volume or incremental archive cannot be kept", found=key)
    if records.get("hdrcharset", b"") not in _CHARSETS:
        raise DataError("names in an unknown character set", found=path_text(records["hdrcharset"]))
    return records


def _parse_record(data: bytes, at: int) -> tuple[str, bytes, int]:
    """Return key and value of the record at `at`, and where the next one begins."""
    space = data.find(b" ", at, at + 20)
    end = at + parse_decimal(data[at:space] if space > at else b"?")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not key or not equals:
        raise DataError("a record of an extended header is damaged", expected="LENGTH KEY=VALUE", found=f"byte {at}")
    return path_text(key), value, end


def parse_decimal(text: bytes | None, otherwise: int = 0) -> int:
    """Return a number in decimal digits, or `otherwise` where there is no text; DataError for anything else."""
    if not text:
        return otherwise
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 63:
        raise DataError("not a number", expected="decimal digits", found=path_text(text[:80]))
    return int(text)


def parse_time(text: bytes) -> int:
    """Return nanoseconds since 1970 of `SECONDS.FRACTION`, rounded down, as file systems do."""
    match = _TIME.fullmatch(text)
    if not match:
        raise DataError("not a time", expected="seconds and a fraction", found=path_text(text[:80]))
    sign, seconds, fraction = match.groups(b"")
    ns = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -ns - bool(fraction[9:].strip(b"0")) if sign else ns


def sparse_map(records: Mapping[str, bytes]) -> tuple[int, list[int]]:
    """Return size and map of a sparse file of the forms 0.0 and 0.1: offset, length, offset, length..."""
    text = records.get("GNU.sparse.map", b"")
    limit_extents(text.count(b",") // 2)
    numbers = [parse_decimal(number) for number in text.split(b",")] if text else []
    return parse_decimal(records["GNU.sparse.size"]), numbers


def read_sparse_map(records: Mapping[str, bytes], read_block: Callable[[], bytes]) -> tuple[int, list[int]]:
    """Return size and map of the form 1.0, whose map are lines in blocks before the data: first how many pairs."""
    if (records["GNU.sparse.major"], records.get("GNU.sparse.minor")) != (b"1", b"0"):
        raise DataError("a sparse member of an unknown version", expected="0.0, 0.1 or 1.0")
    lines, wanted = [b""], 1
    while len(lines) <= wanted:
        first, *others = read_block().split(b"\n")
        lines[-1] += first
        lines += others
        if not others:
            raise DataError("the map of a sparse member is damaged")
        wanted = 1 + 2 * parse_decimal(lines[0])
        limit_extents(wanted // 2)
    return parse_decimal(records.get("GNU.sparse.realsize")), [parse_decimal(line) for line in lines[1:wanted]]


def limit_extents(count: int) -> None:
    """Raise DataError when a sparse member has more stretches of data than are taken."""
    if count > _EXTENTS:
        raise DataError("a sparse member has too many stretches of data", expected=f"at most {_EXTENTS}", found=count)


def sparse_extents(numbers: list[int], size: int, stored: int) -> list[tuple[int, int]]:
    """Return pairs of offset and length; DataError unless they ascend within `size` and sum up to `stored`."""
    extents = list(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in extents:
        if offset < end or length < 0:
            raise DataError("the map of a sparse member is not in order", found=f"{length} bytes at {offset}")
        end = offset + length
    if len(numbers) % 2 or end > size or sum(numbers[1::2]) != stored:
        raise DataError("the map of a sparse member does not fit its data", expected=stored, found=sum(numbers[1::2]))
    return [(offset, length) for offset, length in extents if length]


def is_kept(name: str) -> bool:
    """Whether an attribute of this full name is one that an ext file system can hold."""
    plain = name.startswith(_NAMESPACES) and not name.endswith(".")
    return (plain or name in (ACCESS_ACL, DEFAULT_ACL)) and len(path_bytes(name)) <= NAME_BYTES


def pax_attributes(records: Mapping[str, bytes], *, is_directory: bool) -> Attributes:
    """Return the attributes that the records of one member hold.

    Raises DataError for what an inode cannot have, and for a user or group that is given by name alone.
    """
    if not any(key.startswith((_SCHILY, _LIBARCHIVE, "SCHILY.acl.", "RHT.")) for key in records):
        return NO_ATTRIBUTES
    found = _raw_attributes(records)
    if "RHT.security.selinux" in records:
        found.setdefault(_SELINUX, records["RHT.security.selinux"] + b"\0")
    if records.get("SCHILY.acl.ace"):
        raise DataError("NFSv4 access lists cannot be kept")
    permissions = _take_acls(found, records)
    if DEFAULT_ACL in found and not is_directory:
        raise DataError("only a directory has a default access list")
    for name, value in found.items():
        if not is_kept(name) or "\0" in name or len(value) > _VALUE_BYTES:
            raise DataError(
                "an extended attribute cannot be kept",
                expected=f"at most {_VALUE_BYTES} bytes in {', '.join(_NAMESPACES)} or {ACCESS_ACL}",
                found=f"{name[:NAME_BYTES]} of {len(value)} bytes",
            )
    return Attributes(tuple(sorted(found.items())), permissions)


def _raw_attributes(records: Mapping[str, bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith(_LIBARCHIVE):
            name, data = _unquote(key.removeprefix(_LIBARCHIVE)), _decode_base64(value)
            twin = records.get(_SCHILY + key.removeprefix(_LIBARCHIVE), data)
        elif key.startswith(_SCHILY) and _LIBARCHIVE + key.removeprefix(_SCHILY) not in records:
            name, data = key.removeprefix(_SCHILY).replace("%3D", "=").replace("%25", "%"), value
            twin = found.get(name, data)
        else:
            continue
        if twin != data:
            raise DataError("an extended attribute is given twice and differently", found=name)
        found[name] = data
    return found


def _unquote(name: str) -> str:
    return path_text(urllib.parse.unquote_to_bytes(path_bytes(name)))


def _decode_base64(value: bytes) -> bytes:
    """Decode without padding, as bsdtar writes it, or with."""
    text = value.rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise DataError("an extended attribute is no base64", found=error) from error


def _take_acls(found: dict[str, bytes], records: Mapping[str, bytes]) -> int | None:
    """Put the access lists among the attributes; return the permission bits that the one for access gives."""
    for name, key in ((ACCESS_ACL, "SCHILY.acl.access"), (DEFAULT_ACL, "SCHILY.acl.default")):
        if name not in found and (text := records.get(key, b"").strip()):
            found[name] = pack_acl(path_text(text))
    if DEFAULT_ACL in found:
        _unpack_acl(found[DEFAULT_ACL])
    if ACCESS_ACL not in found:
        return None
    entries = _unpack_acl(found[ACCESS_ACL])
    if all(tag in (_USER_OBJ, _GROUP_OBJ, _OTHER) for tag, _, _ in entries):
        del found[ACCESS_ACL]
    bits = {tag: permissions for tag, permissions, _ in entries}
    return bits[_USER_OBJ] << 6 | bits.get(_MASK, bits[_GROUP_OBJ]) << 3 | bits[_OTHER]


def pack_acl(text: str) -> bytes:
    """Return the kernel's form of an access list that is written as text, entries divided by newlines or commas.

    Raises DataError for what is no entry and for names that cannot be resolved.
    """
    lines = (line.split("#")[0].strip() for line in re.split(r"[\n,]", text))
    entries = sorted(_parse_entry(line) for line in lines if line)
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(tag, bits, number) for tag, number, bits in entries)


def _parse_entry(line: str) -> tuple[int, int, int]:
    """Return tag, id and permissions of `user:NAME:rwx`, `user:NAME:rwx:ID`, `user::rwx` or `other:rwx`."""
    kind, *fields = line.removeprefix("default:").split(":")
    if kind in ("mask", "other") and len(fields) == 1:
        fields = ["", *fields]
    plain = kind in _TAGS and 2 <= len(fields) <= 3 and fields[1] and _PERMISSIONS.fullmatch(fields[1])
    if not plain or (fields[0] and kind in ("mask", "other")):
        raise DataError("an access list has an entry that cannot be read", found=line)
    bits = sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in fields[1])
    if not fields[0]:
        return _TAGS[kind][0], _NO_ID, bits
    return _TAGS[kind][1], _resolve(fields[0], fields[2:]), bits


def _resolve(name: str, number: list[str]) -> int:
    text = number[0] if number else "0" if name == "root" else name
    if not _NUMBER.fullmatch(text):
        raise DataError(
            "an access list names a user or group whose number is not in the archive",
            found=name,
            hint="write the archive with `bsdtar --acls` or with `tar --acls --xattrs --xattrs-include='*'`",
        )
    return int(text)


def _unpack_acl(value: bytes) -> list[tuple[int, int, int]]:
    """Return tag, permissions and id of every entry of a list that the kernel would take (its posix_acl_valid)."""
    body = value[_HEADER.size :]
    whole = value[: _HEADER.size] == _HEADER.pack(_VERSION) and len(body) % _ENTRY.size == 0
    entries = list(_ENTRY.iter_unpack(body)) if whole else []
    tags = [tag for tag, _, _ in entries]
    once = all(tags.count(tag) == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
    masked = tags.count(_MASK) == 1 or not {_USER, _GROUP, _MASK} & set(tags)
    known = tags == sorted(tags) and set(tags) <= {_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER}
    named = [(tag, number) for tag, _, number in entries if tag in (_USER, _GROUP)]
    numbered = len(set(named)) == len(named) and all(number < _NO_ID for _, number in named)
    if not (once and masked and known and numbered and all(bits <= 7 for _, bits, _ in entries)):
        raise DataError("an access list is not valid", found=f"{len(entries)} entries")
    return entries
