"""Checked reading: the one way in which the other modules of this package touch the image."""

from __future__ import annotations

from umldisk.errors import DataError
from umldisk.image.extfs import layout
from umldisk.image.extfs.geometry import Geometry, read_geometry
from umldisk.image.reader import Reader

_CACHED_GROUPS = 4096


class Disk:
    """A reader together with what its superblock says; never gives fewer bytes than it was asked for."""

    def __init__(self, reader: Reader, *, where: str = "") -> None:
        self.where = where
        self.geometry: Geometry = read_geometry(reader, where=where)
        self._reader = reader
        self._tables: dict[int, int] = {}

    def damaged(self, what: str, inode: int, *, expected: object = None, found: object = None) -> DataError:
        """Say what is wrong with an inode."""
        place = f"{self.where}, inode {inode}".removeprefix(", ")
        return DataError(what, where=place, expected=expected, found=found, hint="repair the file system with e2fsck")

    def unreadable(self, what: str, inode: int) -> DataError:
        """Say what is in good order and cannot be read all the same."""
        return DataError(what, where=f"{self.where}, inode {inode}".removeprefix(", "))

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes of the file system; raises DataError where the image has fewer."""
        data = self._reader.read(offset, length)
        if len(data) != length:
            place = f"{self.where}, byte {offset + len(data)}".removeprefix(", ")
            raise DataError("the file system is cut off", where=place, expected=length, found=len(data))
        return data

    def block(self, number: int, inode: int) -> bytes:
        """Return one block that belongs to `inode`."""
        self.require_blocks(number, 1, inode)
        return self.read(number * self.geometry.block_bytes, self.geometry.block_bytes)

    def require_blocks(self, number: int, count: int, inode: int) -> None:
        """Raise DataError unless a file can own these blocks; block 0 and the superblock are nobody's."""
        geometry = self.geometry
        if not geometry.first_data_block < number <= geometry.blocks - count:
            limits = f"{geometry.first_data_block + 1} to {geometry.blocks - 1}"
            raise self.damaged("a block lies outside the file system", inode, expected=limits, found=number)

    def raw_inode(self, number: int) -> bytes:
        """Return the bytes of an inode; raises DataError when there is none of this number."""
        geometry = self.geometry
        if not 1 <= number <= geometry.inodes:
            raise self.damaged("there is no such inode", number, expected=f"1 to {geometry.inodes}")
        group, index = divmod(number - 1, geometry.inodes_per_group)
        return self.read(self._table_offset(group) + index * geometry.inode_bytes, geometry.inode_bytes)

    def _table_offset(self, group: int) -> int:
        """Return the byte where the inode table of `group` begins."""
        offset = self._tables.get(group)
        if offset is None:
            offset = self._find_table(group)
            if len(self._tables) >= _CACHED_GROUPS:
                self._tables.clear()
            self._tables[group] = offset
        return offset

    def _find_table(self, group: int) -> int:
        geometry = self.geometry
        place = geometry.descriptor_offset(group)
        raw = self.read(place, geometry.descriptor_bytes)
        table: int = layout.GROUP_DESCRIPTOR.parse(raw).inode_table_low
        if geometry.descriptor_bytes >= layout.DESCRIPTOR_64BIT_BYTES:
            high = raw[layout.DESCRIPTOR_BYTES : layout.DESCRIPTOR_64BIT_BYTES]
            table |= layout.GROUP_DESCRIPTOR_HIGH.parse(high).inode_table_high << 32
        blocks = -(-geometry.inodes_per_group * geometry.inode_bytes // geometry.block_bytes)
        if not geometry.first_data_block < table <= geometry.blocks - blocks:
            where = f"{self.where}, byte {place}".removeprefix(", ")
            what = f"the inode table of group {group} lies outside the file system"
            raise DataError(what, where=where, expected=f"below block {geometry.blocks}", found=table)
        return table * geometry.block_bytes
