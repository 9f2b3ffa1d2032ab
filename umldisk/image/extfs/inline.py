"""Contents small enough to stand in the inode: 60 bytes in place of the pointers, the rest in an attribute."""

from __future__ import annotations

from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inode import ExtInode
from umldisk.image.extfs.xattrs import stored_xattrs

_SYSTEM_PREFIX = 7


def inline_data(disk: Disk, inode: ExtInode) -> bytes:
    """Return the contents of an inode with inline data; what its size goes beyond them is a hole (fs/ext4/inline.c)."""
    data = inode.block_area
    if inode.size_bytes > len(data):
        data += _rest(disk, inode)
    return data[: inode.size_bytes]


def _rest(disk: Disk, inode: ExtInode) -> bytes:
    def refuse(_number: int, _length: int) -> bytes:
        raise disk.damaged("inline data lies in another inode", inode.number)

    for raw in stored_xattrs(disk, inode, refuse):
        if raw.prefix == _SYSTEM_PREFIX and raw.name == b"data":
            return raw.value
    return b""
