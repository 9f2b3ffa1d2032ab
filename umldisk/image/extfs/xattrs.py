"""Extended attributes: behind the fields of an inode, in a block of their own, or each in an inode.

    inode    magic | entry entry ... 0 ............ value value     offsets count from the first entry
    block    header (32 bytes) | entry ... 0 ...... value value     offsets count from the block's start

An entry's name lacks its prefix, which is a number (fs/ext4/xattr.h). With the feature ea_inode a value may be the
contents of an inode that no directory names. Values are given as getxattr gives them: access lists, which ext stores in
a shorter form of its own, are converted to that of the kernel's interface (fs/ext4/acl.c, fs/posix_acl.c). The contents
of an inline file hang on an attribute too, "system.data", which is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from umldisk.image.extfs import layout
from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inode import ExtInode

ReadInode = Callable[[int, int], bytes]
"""Gives the value of an attribute that is kept in an inode, by number and size."""

_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    5: "lustre.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
    10: "gnu.",
}
_WHOLE_NAMES = (2, 3, 8)
_ACLS = (2, 3)
_SYSTEM = 7
_ENCRYPTION = 9
_MOST_BYTES = 4 << 20
"""What one inode's values may take together; inodes with values can be shared, and would fill the memory."""


class RawXattr(NamedTuple):
    """An attribute as it is stored: the number of its prefix, the rest of its name, its value."""

    prefix: int
    name: bytes
    value: bytes


def read_xattrs(disk: Disk, inode: ExtInode, read_inode: ReadInode) -> tuple[tuple[str, bytes], ...]:
    """Return the attributes as full names and values, sorted; raises DataError for damaged ones."""
    found: dict[str, bytes] = {}
    for raw in stored_xattrs(disk, inode, read_inode):
        if raw.prefix == _ENCRYPTION or (raw.prefix == _SYSTEM and raw.name == b"data"):
            continue
        name = _full_name(disk, inode, raw)
        value = _converted_acl(disk, inode, raw.value) if raw.prefix in _ACLS else raw.value
        found.setdefault(name, value)  # the kernel looks into the inode first
    return tuple(sorted(found.items()))


def stored_xattrs(disk: Disk, inode: ExtInode, read_inode: ReadInode) -> Iterator[RawXattr]:
    """Yield the attributes of the inode itself, then those of its block."""
    header = layout.XATTR_INODE_HEADER
    if len(inode.body) >= header.size and header.unpack_from(inode.body)[0] == layout.XATTR_MAGIC:
        yield from _entries(disk, inode, inode.body[header.size :], 0, read_inode)
    if inode.xattr_block:
        raw = disk.block(inode.xattr_block, inode.number)
        fields = layout.XATTR_BLOCK_HEADER.parse(raw)
        if fields.magic != layout.XATTR_MAGIC or fields.blocks != 1:
            found = hex(fields.magic)
            raise disk.damaged("bad magic of a block of attributes", inode.number, found=found)
        yield from _entries(disk, inode, raw, layout.XATTR_BLOCK_HEADER.sizeof(), read_inode)


def _entries(disk: Disk, inode: ExtInode, area: bytes, position: int, read_inode: ReadInode) -> Iterator[RawXattr]:
    size, left_bytes = layout.XATTR_ENTRY.size, _MOST_BYTES
    while any(area[position : position + 4]):
        if position + size > len(area):
            raise disk.damaged("the attributes of an inode are cut off", inode.number)
        name_bytes, index, offset, value_inode, value_bytes, _hash = layout.XATTR_ENTRY.unpack_from(area, position)
        name = area[position + size : position + size + name_bytes]
        position += size + -(-name_bytes // 4) * 4
        left_bytes -= value_bytes
        too_long = value_bytes > layout.XATTR_LARGEST_VALUE or left_bytes < 0
        if position > len(area) or b"\0" in name or too_long:
            raise disk.damaged("a bad attribute", inode.number, found=f"name {name!r}, {value_bytes} bytes")
        if value_inode:
            value = read_inode(value_inode, value_bytes)
        elif offset + value_bytes > len(area):
            raise disk.damaged("the value of an attribute is cut off", inode.number, found=f"name {name!r}")
        else:
            value = area[offset : offset + value_bytes]
        yield RawXattr(index, name, value)


def _full_name(disk: Disk, inode: ExtInode, raw: RawXattr) -> str:
    prefix = _PREFIXES.get(raw.prefix)
    if prefix is None or bool(raw.name) == (raw.prefix in _WHOLE_NAMES):
        found = f"prefix {raw.prefix}, name {raw.name!r}"
        raise disk.damaged("an attribute of no known kind", inode.number, found=found)
    return prefix + raw.name.decode("utf-8", "surrogateescape")


def _converted_acl(disk: Disk, inode: ExtInode, raw: bytes) -> bytes:
    """Return an access list in the form of the kernel's interface."""
    if len(raw) < layout.ACL_HEADER.size or layout.ACL_HEADER.unpack_from(raw)[0] != layout.ACL_DISK_VERSION:
        raise disk.damaged("an access list of an unknown version", inode.number, found=raw[:4].hex())
    parts = [layout.ACL_HEADER.pack(layout.ACL_XATTR_VERSION)]
    position = layout.ACL_HEADER.size
    while position < len(raw):
        form, tag = layout.ACL_SHORT, int.from_bytes(raw[position : position + 2], "little")
        if tag in layout.ACL_TAGS_WITH_ID:
            form = layout.ACL_FULL
        if tag not in layout.ACL_TAGS or position + form.size > len(raw):
            raise disk.damaged("a bad entry of an access list", inode.number, found=f"tag {tag:#x}")
        fields = form.unpack_from(raw, position)
        identity = fields[2] if form is layout.ACL_FULL else layout.ACL_UNDEFINED_ID
        parts.append(layout.ACL_FULL.pack(fields[0], fields[1], identity))
        position += form.size
    return b"".join(parts)
