"""A tar archive as a base: v7, ustar, GNU and pax, read once from its start to its end.

    header ─┬─ x, g: pax records       ─┐
            ├─ L, K: GNU's long names  ─┴─▶ belong to the next member (g: to all that follow)
            └─ 0 1 2 3 4 5 6 7 S: a member ─▶ Entry or HardLink ─▶ its data, up to whole blocks of 512 bytes
    a block of zeros, then nothing but zeros: the end

The reader is our own. Python's tarfile was weighed: it ends quietly at a header that is damaged or cut, keeps every
member it has seen, rounds times to floats, takes numbers as int() does, and allocates what a size claims. All that is
right for rescuing what can be had; a base is whole or it is none.

So a member is refused, by name and place, when a check sum, number or size is wrong; when its name has "..", a NUL or
nothing in it; when it has data and is no file; when its type is not known, or one of multi-volume or incremental
archives. An archive that ends in a header, in data or without its end is refused too: GNU tar only warns when the end
is missing, but a download that stopped between two members looks just so. One block of zeros is end enough (GNU writes
two); data behind it is refused.

Kept as they are: absolute names (/etc/x is the guest's /etc/x), names of any bytes, `.wh.` names as container layers
have them (plain files here), duplicates (the later wins, see plant), the holes of all four sparse forms (GNU's own, pax
0.0, 0.1, 1.0). Left out: names of users and groups, which mean something only where the archive was written; times
of access and change; volume labels. What `docker save` writes holds archives, not a tree, and is recognised.

Memory stays constant: records, long names and sparse maps have limits, data passes through in pieces.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from umldisk.build.bases import pax
from umldisk.build.bases.base import Origin
from umldisk.build.bases.compression import CHUNK_BYTES, Archive
from umldisk.build.tree import EMPTY, PATH_BYTES, Entry, FileType, HardLink, Inode, path_text
from umldisk.errors import DataError

BLOCK_BYTES = 512
_EXTENSION_BYTES = 4 << 20
"""The longest pax header or GNU name that is read."""

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s64s8s8s155s12x")
_ZEROS = bytes(BLOCK_BYTES)
_USTAR, _GNU = b"ustar\0", b"ustar  \0"
_HARD_LINK, _SPARSE, _LABEL = b"1", b"S", b"V"
_EXTENSIONS = (b"x", b"g", b"L", b"K")
_PLAIN = (b"0", b"\0", b"7")
_TYPES = {
    b"2": FileType.SYMLINK,
    b"3": FileType.CHARACTER_DEVICE,
    b"4": FileType.BLOCK_DEVICE,
    b"5": FileType.DIRECTORY,
    b"6": FileType.FIFO,
} | dict.fromkeys((*_PLAIN, _SPARSE), FileType.FILE)

_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*", re.ASCII)


@dataclass(slots=True)
class Member:
    """One header with what extends it; `stored_bytes` is how much data follows, `block` the header as it is."""

    type: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    stored_bytes: int
    mtime_ns: int
    block: bytes
    records: Mapping[str, bytes] = field(default_factory=dict)


class TarBase:
    """The files of a tar archive; owns the archive. See Base.

    Raises DataError, naming member and offset, for everything that is damaged or cannot be kept.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._place = ""
        self._globals: dict[str, bytes] = {}
        self._left_bytes = 0
        self._current: _StoredContents | None = None
        self._docker_parts: set[str] = set()

    @property
    def origin(self) -> Origin:
        """What was read; the digest is there after the last entry."""
        return Origin("tar", self._archive.source, self._archive.sha256)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def entries(self) -> Iterator[Entry | HardLink]:
        """Yield every member in the order of the archive; the archive is read to its very end."""
        while (entry := self._next_entry()) is not None:
            yield entry

    def _next_entry(self) -> Entry | HardLink | None:
        try:
            self._current = None
            self._pass_over()
            member = self._read_member()
            if member is not None:
                return self._entry(member)
            while rest := self._archive.read(CHUNK_BYTES):
                if rest.strip(b"\0"):
                    raise DataError("there is data behind the end of the archive")
        except DataError as error:
            if error.where is None:
                raise self._placed(error) from error
            raise
        return None

    def _placed(self, error: DataError) -> DataError:
        where = f"{self._archive.name}, {self._place}"
        return DataError(error.what, where=where, expected=error.expected, found=error.found, hint=error.hint)

    def _read_member(self) -> Member | None:
        """Return the next member with what stands before it, or None at the end of the archive."""
        names: dict[bytes, bytes] = {}
        records: dict[str, bytes] | None = None
        while (member := self._read_header()) is not None:
            if member.type not in (*_EXTENSIONS, _LABEL):
                return self._extend(member, names, records or {})
            data = self._read_extension(member)
            if member.type == b"g":
                self._globals |= pax.parse_records(data, of_all=True)
            elif member.type in names or (member.type == b"x" and records is not None):
                raise DataError("two extended headers of one kind for one member")
            elif member.type == b"x":
                records = pax.parse_records(data)
            elif member.type != _LABEL:
                names[member.type] = data.split(b"\0")[0]
        if names or records is not None:
            raise DataError("the archive ends behind an extended header")
        return None

    def _read_header(self) -> Member | None:
        self._place = f"byte {self._archive.position}"
        block = self._archive.read(BLOCK_BYTES)
        if block == _ZEROS:
            return None
        if len(block) < BLOCK_BYTES:
            raise DataError(
                "the archive is cut short", expected="a header or the end mark", found=f"{len(block)} bytes"
            )
        member = parse_header(block)
        self._place += f", member {path_text(member.name)}"
        return member

    def _read_extension(self, member: Member) -> bytes:
        size = member.stored_bytes
        if size > _EXTENSION_BYTES:
            raise DataError("an extended header is too long", expected=f"at most {_EXTENSION_BYTES}", found=size)
        self._left_bytes = _padded(size)
        data = self._take(size)
        self._pass_over()
        return data

    def _extend(self, member: Member, names: Mapping[bytes, bytes], own: Mapping[str, bytes]) -> Member:
        """Give `member` what the headers before it say; pax has the last word, an empty value none."""
        member.records = records = {**self._globals, **own}
        member.name = records.get("GNU.sparse.name") or records.get("path") or names.get(b"L", member.name)
        member.link = records.get("linkpath") or names.get(b"K", member.link)
        self._place = f"byte {self._archive.position - BLOCK_BYTES}, member {path_text(member.name)}"
        member.uid = pax.parse_decimal(records.get("uid"), member.uid)
        member.gid = pax.parse_decimal(records.get("gid"), member.gid)
        member.stored_bytes = pax.parse_decimal(records.get("size"), member.stored_bytes)
        if value := records.get("mtime"):
            member.mtime_ns = pax.parse_time(value)
        return member

    def _entry(self, member: Member) -> Entry | HardLink:
        path, kind = _normal_path(member.name), _TYPES.get(member.type)
        self._refuse_docker_save(path)
        unknown = kind is None and member.type != _HARD_LINK
        if unknown or (member.type == _SPARSE and member.block[257:265] != _GNU):
            raise DataError("a member is of a type that cannot be kept", found=f"type {path_text(member.type)}")
        if member.type in _PLAIN and member.name.endswith(b"/"):  # as v7 archives have directories
            kind = FileType.DIRECTORY
        if kind is not FileType.FILE and member.stored_bytes:
            raise DataError("a member that is no file has data", expected="size 0", found=member.stored_bytes)
        self._left_bytes = _padded(member.stored_bytes)
        if kind is None:
            return HardLink(path, _normal_path(member.link))
        if path == "/" and kind is not FileType.DIRECTORY:
            raise DataError("the root of the tree is no directory")
        return Entry(path, self._inode(member, kind))

    def _inode(self, member: Member, kind: FileType) -> Inode:
        attributes = pax.pax_attributes(member.records, is_directory=kind is FileType.DIRECTORY)
        mode = member.mode & 0o7777
        if attributes.permissions is not None:
            mode = mode & ~0o777 | attributes.permissions
        if not all(0 <= owner < 0xFFFFFFFF for owner in (member.uid, member.gid)):
            raise DataError("not an owner", expected="numbers of 32 bits", found=f"{member.uid}:{member.gid}")
        if kind is FileType.SYMLINK and (not member.link or b"\0" in member.link or len(member.link) > PATH_BYTES):
            raise DataError("a symlink has no target that a guest can hold", found=f"{len(member.link)} bytes")
        return Inode(
            kind,
            0o777 if kind is FileType.SYMLINK else mode,
            member.uid,
            member.gid,
            member.mtime_ns,
            self._stored_contents(member) if kind is FileType.FILE else EMPTY,
            path_text(member.link) if kind is FileType.SYMLINK else "",
            _device(member) if kind.is_device else (0, 0),
            attributes.xattrs,
        )

    def _refuse_docker_save(self, path: str) -> None:
        if path in ("/manifest.json", "/oci-layout"):
            self._docker_parts.add("manifest")
        elif path.startswith("/blobs/sha256/") or (path.endswith("/layer.tar") and path.count("/") == 2):
            self._docker_parts.add("layer")
        if len(self._docker_parts) == 2:
            raise DataError(
                "layers of a container image, not a tree of files",
                found="what `docker save` writes",
                hint="make a container of the image and use `docker export` or `podman export`",
            )

    def _stored_contents(self, member: Member) -> _StoredContents:
        records, stored = member.records, member.stored_bytes
        if member.type == _SPARSE:
            size, numbers = _number(member.block[483:495]), self._read_old_map(member.block)
        elif "GNU.sparse.major" in records:
            size, numbers = pax.read_sparse_map(records, lambda: self._take(BLOCK_BYTES))
            stored -= _padded(stored) - self._left_bytes
        elif "GNU.sparse.size" in records:
            size, numbers = pax.sparse_map(records)
        else:
            size, numbers = stored, [0, stored]
        self._current = _StoredContents(self, size, pax.sparse_extents(numbers, size, stored))
        return self._current

    def _read_old_map(self, block: bytes) -> list[int]:
        """Read the map of GNU's old form: four entries in the header, 21 in every block that follows it."""
        table, more, numbers = block[386:482], block[482], list[int]()
        while True:
            used = (at for at in range(0, len(table) - 23, 24) if table[at + 12])
            numbers += [_number(table[low : low + 12]) for at in used for low in (at, at + 12)]
            if not more:
                return numbers
            pax.limit_extents(len(numbers) // 2)
            self._left_bytes += BLOCK_BYTES  # the size of the member does not count them
            table = self._take(BLOCK_BYTES)
            table, more = table[:504], table[504]

    def pieces_of(self, contents: _StoredContents) -> Iterator[tuple[int, bytes]]:
        """Yield the data of the current member, once; RuntimeError when its time is over."""
        extents, contents.extents = contents.extents, None
        if extents is None:
            raise RuntimeError("the contents of an entry are read twice")
        for offset, length in extents:
            for done in range(0, length, CHUNK_BYTES):
                if self._current is not contents:
                    raise RuntimeError("the contents of an entry are read after the next one was asked for")
                yield offset + done, self._take(min(length - done, CHUNK_BYTES))

    def _take(self, length: int) -> bytes:
        """Read data of the current member."""
        data = self._archive.read(min(length, self._left_bytes))
        self._left_bytes -= len(data)
        if len(data) < length:
            raise self._placed(DataError("the archive is cut short", expected=f"{length - len(data)} bytes more"))
        return data

    def _pass_over(self) -> None:
        """Skip what is left of the current member's data and padding."""
        missing = self._left_bytes - self._archive.skip(self._left_bytes)
        self._left_bytes = 0
        if missing:
            raise DataError("the archive is cut short", expected=f"{missing} bytes more")


@dataclass(slots=True, eq=False)
class _StoredContents:
    """The data of the archive's current member; `extents` are (offset, length) and gone once they were read."""

    base: TarBase
    size_bytes: int
    extents: list[tuple[int, int]] | None

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and data of everything that is stored."""
        return self.base.pieces_of(self)


def parse_header(block: bytes) -> Member:
    """Read one block as the header of a member; DataError when its check sum or a number is wrong."""
    name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, _, prefix = _FIELDS.unpack(block)
    found = sum(block) - sum(checksum) + 8 * ord(" ")
    if (expected := _number(checksum)) != found:
        high = sum(byte >= 0x80 for byte in block) - sum(byte >= 0x80 for byte in checksum)
        if expected != found - 256 * high:  # some writers of old added signed bytes
            raise DataError("the check sum of a header is wrong", expected=expected, found=found)
    name = name.split(b"\0")[0]
    if magic.startswith(_USTAR) and prefix[0]:
        name = prefix.split(b"\0")[0] + b"/" + name
    if (stored := _number(size)) < 0:
        raise DataError("a member has a negative size", found=stored)
    link = link.split(b"\0")[0]
    mtime_ns = _number(mtime) * 1_000_000_000
    return Member(kind, name, link, _number(mode), _number(uid), _number(gid), stored, mtime_ns, block)


def _number(raw: bytes) -> int:
    """Read a number of a header: octal digits, nothing for 0, or GNU's base 256, whose first byte is 0x80 or 0xff."""
    if match := _OCTAL.fullmatch(raw):
        return int(match[1] or b"0", 8)
    value = int.from_bytes(raw[1:], "big") - (0 if raw[0] == 0x80 else 1 << 8 * (len(raw) - 1))
    if raw[0] not in (0x80, 0xFF) or not -(1 << 63) <= value < 1 << 63:
        raise DataError("a header has a number that cannot be read", found=path_text(raw))
    return value


def _normal_path(raw: bytes) -> str:
    """Return the one spelling of a name; a relative one is taken from the root, as an absolute one is."""
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if not raw or b".." in parts or b"\0" in raw:
        found = path_text(raw) or "no name"
        raise DataError("a name is no path of a guest", expected="neither .. nor NUL in it", found=found)
    return "/" + path_text(b"/".join(parts))


def _device(member: Member) -> tuple[int, int]:
    """Return major and minor, of which Linux has 12 and 20 bits."""
    major = pax.parse_decimal(member.records.get("SCHILY.devmajor"), _number(member.block[329:337]))
    minor = pax.parse_decimal(member.records.get("SCHILY.devminor"), _number(member.block[337:345]))
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise DataError("a device has numbers that Linux cannot hold", found=f"{major}, {minor}")
    return major, minor


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
