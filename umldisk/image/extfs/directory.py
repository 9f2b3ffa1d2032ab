"""The names in a directory.

Names stand one behind another in every block of a directory, each entry telling where the next begins. The tree of
hashes (htree) lives in the same blocks, dressed as entries without an inode, so that reading from end to end finds
every name with or without it; so does the checksum at a block's end. Order is that on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from umldisk.image.extfs import layout
from umldisk.image.extfs.blocks import runs
from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inline import inline_data
from umldisk.image.extfs.inode import ExtInode

_LARGE_BLOCK_BYTES = 65536
_READ_BYTES = 256 * 1024


def names(disk: Disk, inode: ExtInode) -> dict[bytes, tuple[int, int]]:
    """Return each name of a directory with its inode number and file type, without "." and "..".

    The type is layout.TYPE_UNKNOWN where the file system keeps none. Raises DataError for a damaged directory.
    """
    if not inode.is_directory:
        raise disk.damaged("a directory is something else", inode.number, found=oct(inode.mode))
    if inode.has(layout.FLAG_ENCRYPTED):
        raise disk.unreadable("a directory is encrypted (feature encrypt)", inode.number)
    found: dict[bytes, tuple[int, int]] = {}
    parse = _Entries(disk, inode, found).add
    for block in _blocks(disk, inode):
        parse(block)
    found.pop(b".", None)
    found.pop(b"..", None)
    return found


def _blocks(disk: Disk, inode: ExtInode) -> Iterator[bytes]:
    """Yield the parts of a directory in which entries stand; an entry does not reach from one into the next."""
    if inode.has(layout.FLAG_INLINE_DATA):
        data = inline_data(disk, inode)
        yield data[layout.INLINE_PARENT_BYTES : layout.BLOCK_AREA_BYTES]
        yield data[layout.BLOCK_AREA_BYTES :]
        return
    block_bytes = disk.geometry.block_bytes
    if inode.size_bytes % block_bytes or inode.size_bytes == 0:
        raise disk.damaged("a directory is not whole blocks", inode.number, found=inode.size_bytes)
    reached = 0
    for run in runs(disk, inode):
        if run.start != reached:
            raise disk.damaged("a directory has a hole", inode.number, found=f"block {reached}")
        reached += run.length
        yield from _blocks_of_run(disk, run.place * block_bytes, run.length * block_bytes)
    if reached * block_bytes != inode.size_bytes:
        raise disk.damaged("a directory has a hole", inode.number, found=f"block {reached}")


def _blocks_of_run(disk: Disk, offset: int, length: int) -> Iterator[bytes]:
    block_bytes = disk.geometry.block_bytes
    for start in range(0, length, _READ_BYTES):
        data = disk.read(offset + start, min(_READ_BYTES, length - start))
        for low in range(0, len(data), block_bytes):
            yield data[low : low + block_bytes]


class _Entries:
    """Parses entries into a dictionary."""

    def __init__(self, disk: Disk, inode: ExtInode, found: dict[bytes, tuple[int, int]]) -> None:
        self._disk = disk
        self._number = inode.number
        self._found = found
        self._has_types = disk.geometry.has("filetype")

    def add(self, block: bytes) -> None:
        """Add the names of one part."""
        unpack, found, end = layout.DIRENT.unpack_from, self._found, len(block)
        header, inodes, has_types = layout.DIRENT.size, self._disk.geometry.inodes, self._has_types
        position = 0
        while position + header <= end:
            number, length, name_bytes, kind = unpack(block, position)
            if length & 3 or not length:
                length = self._long(length, end)
            if length < header + name_bytes or length < layout.DIRENT_SHORTEST or position + length > end:
                raise self._damaged("a bad length of a directory entry", length)
            if number:
                name = block[position + header : position + header + name_bytes]
                if number > inodes or not name or b"/" in name or b"\0" in name:
                    raise self._damaged("a bad directory entry", f"inode {number}, name {name!r}")
                if name in found:
                    raise self._damaged("a directory has a name twice", repr(name))
                found[name] = (number, kind if has_types else layout.TYPE_UNKNOWN)
            position += length
        if position != end:
            raise self._damaged("the entries of a directory do not fill their block", position)

    def _long(self, length: int, end: int) -> int:
        """Decode a length in a block of 64 KiB, where 16 bits do not hold that of the whole block."""
        if end == _LARGE_BLOCK_BYTES and length in (0, 0xFFFF):
            return end
        raise self._damaged("a bad length of a directory entry", length)

    def _damaged(self, what: str, found: object) -> Exception:
        return self._disk.damaged(what, self._number, found=found)
