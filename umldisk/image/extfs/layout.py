"""The bytes of what lies behind the superblock of ext2/3/4; nothing here gives them meaning.

Sources, all in the kernel's fs/ext4: ext4.h (struct ext4_group_desc, ext4_inode, ext4_dir_entry_2), ext4_extents.h,
xattr.h, acl.h. What is read once a group or a file is declared with construct, what is read a hundred thousand times
with struct.
"""

from __future__ import annotations

import struct

from construct import Bytes, Int32ul, Padding
from construct import Struct as Layout

ROOT_INODE = 2

# -- group descriptors -------------------------------------------------------------------------------------------

DESCRIPTOR_BYTES = 32
DESCRIPTOR_64BIT_BYTES = 64
GROUP_DESCRIPTOR = Layout("unnamed_1" / Padding(8), "inode_table_low" / Int32ul, "unnamed_2" / Padding(20))
GROUP_DESCRIPTOR_HIGH = Layout("unnamed_3" / Padding(8), "inode_table_high" / Int32ul, "unnamed_4" / Padding(20))

# -- inodes ------------------------------------------------------------------------------------------------------

OLD_INODE_BYTES = 128
INODE = struct.Struct("<HHIiiiIHHIII60sIIIIHHHHHH")
"""mode, uid, size, atime, ctime, mtime, dtime, gid, links, sectors, flags, osd1, block, generation, file_acl,
size_high, obsolete, sectors_high, file_acl_high, uid_high, gid_high, checksum, unused."""
EXTRA_SIZE = struct.Struct("<H")
EXTRA_TIMES = (("ctime", 132), ("mtime", 136), ("atime", 140), ("crtime", 148))
"""Where the nanoseconds and the epoch of each time stand; the seconds of the birth stand before theirs."""
BIRTH_SECONDS_OFFSET = 144
BLOCK_AREA_OFFSET = 40
BLOCK_AREA_BYTES = 60

FLAG_ENCRYPTED = 0x800
FLAG_EXTENTS = 0x80000
FLAG_EA_INODE = 0x200000
FLAG_INLINE_DATA = 0x10000000

# -- extents -----------------------------------------------------------------------------------------------------

EXTENT_MAGIC = 0xF30A
EXTENT_MAX_DEPTH = 5
EXTENT_HEADER = struct.Struct("<HHHHI")
"""magic, entries, room for entries, depth, generation."""
EXTENT = struct.Struct("<IHHI")
"""First block of the file, length, first block on the disk: high and low."""
EXTENT_INDEX = struct.Struct("<IIHH")
"""First block of the file, block of the node on the disk: low and high, unused."""
EXTENT_LONGEST = 32768
"""A longer length declares an extent that is allocated but was never written."""

# -- directories -------------------------------------------------------------------------------------------------

DIRENT = struct.Struct("<IHBB")
"""inode, length of the entry, length of the name, file type."""
DIRENT_SHORTEST = 12
TYPE_UNKNOWN = 0
TYPE_DIRECTORY = 2
INLINE_PARENT_BYTES = 4
"""A directory inside its inode begins with the number of its parent and has neither "." nor ".."."""

# -- extended attributes -----------------------------------------------------------------------------------------

XATTR_MAGIC = 0xEA020000
XATTR_INODE_HEADER = struct.Struct("<I")
XATTR_BLOCK_HEADER = Layout("magic" / Int32ul, "refcount" / Int32ul, "blocks" / Int32ul, "rest" / Bytes(20))
XATTR_ENTRY = struct.Struct("<BBHIII")
"""Length of the name, index of its prefix, offset, inode and size of the value, hash."""
XATTR_LARGEST_VALUE = 65536

ACL_DISK_VERSION = 1
ACL_XATTR_VERSION = 2
ACL_HEADER = struct.Struct("<I")
ACL_SHORT = struct.Struct("<HH")
ACL_FULL = struct.Struct("<HHI")
ACL_UNDEFINED_ID = 0xFFFFFFFF
ACL_TAGS_WITH_ID = (0x02, 0x08)
ACL_TAGS = (0x01, 0x02, 0x04, 0x08, 0x10, 0x20)
