"""A file system as a whole: paths, inodes, contents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from umldisk.image.extfs import layout
from umldisk.image.extfs.blocks import runs
from umldisk.image.extfs.directory import names
from umldisk.image.extfs.disk import Disk
from umldisk.image.extfs.inline import inline_data
from umldisk.image.extfs.inode import ExtInode, read_inode
from umldisk.image.extfs.walk import Name, walk_names
from umldisk.image.extfs.xattrs import read_xattrs
from umldisk.image.reader import Reader

PIECE_BYTES = 256 * 1024
"""How much of a file is held at once."""

_LONGEST_TARGET_BYTES = 4095
_ELSEWHERE = layout.FLAG_EXTENTS | layout.FLAG_INLINE_DATA | layout.FLAG_ENCRYPTED


class Volume:
    """An ext2, ext3 or ext4 file system, read only; `open` makes one. Does not own its reader.

    Every method raises DataError for what is damaged or cannot be read, and nothing else but what the reader raises.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    @classmethod
    def open(cls, reader: Reader, *, where: str = "") -> Self:
        """Read the superblock; `where` names the image in errors.

        Raises DataError when this is no ext file system, is cut off, or uses a feature that cannot be read.
        """
        return cls(Disk(reader, where=where))

    @property
    def size_bytes(self) -> int:
        """The length of the file system; files together cannot have more, unless it has the feature shared_blocks."""
        return self._disk.geometry.size_bytes

    @property
    def features(self) -> frozenset[str]:
        """The features in use, by the names of e2fsprogs."""
        return self._disk.geometry.features

    @property
    def needs_recovery(self) -> bool:
        """Whether the journal holds changes that are not to be seen here."""
        return "needs_recovery" in self.features

    def walk(self) -> Iterator[tuple[str, int]]:
        """Yield every path with its inode number: "/" first, each directory before what it holds, sorted by name.

        Each hard link is yielded. Paths are UTF-8 with surrogates for bytes that are none.
        """
        for path, number, _is_directory in self.names():
            yield path, number

    def names(self) -> Iterator[Name]:
        """Yield what `walk` does, each with whether it is a directory."""
        return walk_names(self._disk)

    def inode(self, number: int) -> ExtInode:
        """Return an inode that is in use."""
        return read_inode(self._disk, number)

    def children(self, inode: ExtInode) -> dict[bytes, int]:
        """Return the names in a directory, in its own order, with their inode numbers."""
        return {name: number for name, (number, _kind) in names(self._disk, inode).items()}

    def pieces(self, inode: ExtInode) -> Iterator[tuple[int, bytes]]:
        """Yield offset and data of a regular file, ascending, at most PIECE_BYTES each; what is left out is a hole."""
        if not inode.is_file and not inode.is_symlink:
            raise self._disk.damaged("no file with contents", inode.number, found=oct(inode.mode))
        if inode.has(layout.FLAG_ENCRYPTED):
            raise self._disk.unreadable("a file is encrypted (feature encrypt)", inode.number)
        if inode.has(layout.FLAG_INLINE_DATA):
            if inode.size_bytes:
                yield 0, inline_data(self._disk, inode)
            return
        block_bytes = self._disk.geometry.block_bytes
        for run in runs(self._disk, inode):
            start = run.start * block_bytes
            shift = run.place * block_bytes - start
            end = min(start + run.length * block_bytes, inode.size_bytes)
            for offset in range(start, end, PIECE_BYTES):
                yield offset, self._disk.read(offset + shift, min(PIECE_BYTES, end - offset))

    def symlink_target(self, inode: ExtInode) -> bytes:
        """Return where a symlink leads; up to 59 bytes stand in the inode, more in a block."""
        size = inode.size_bytes
        if not inode.is_symlink or not 1 <= size <= _LONGEST_TARGET_BYTES:
            raise self._disk.damaged("a bad length of a symlink", inode.number, found=size)
        if size < layout.BLOCK_AREA_BYTES and not inode.flags & _ELSEWHERE:
            target = inode.block_area[:size]
        else:
            target = b"".join(data for _offset, data in self.pieces(inode))
        if len(target) != size or b"\0" in target:
            raise self._disk.damaged("a symlink has no readable target", inode.number, found=f"{len(target)} bytes")
        return target

    def xattrs(self, inode: ExtInode) -> tuple[tuple[str, bytes], ...]:
        """Return the extended attributes as full names and values like getxattr's, sorted by name."""
        return read_xattrs(self._disk, inode, self._xattr_value)

    def _xattr_value(self, number: int, length: int) -> bytes:
        inode = self.inode(number)
        if not inode.has(layout.FLAG_EA_INODE) or inode.size_bytes != length:
            raise self._disk.damaged("no inode of an attribute", number, expected=length, found=inode.size_bytes)
        value = bytearray(length)
        for offset, data in self.pieces(inode):
            value[offset : offset + len(data)] = data
        return bytes(value)


def inode_numbers(volume: Volume) -> dict[str, int]:
    """Return every path with its inode number; reads directories only, and so is fast."""
    return dict(volume.walk())
