"""The bytes of a Linux swap header and of an ext2/3/4 superblock; nothing here gives them meaning.

Sources: union swap_header in the kernel's include/linux/swap.h (the magic stands in the last ten
bytes of the first page, which makes the whole page the header); struct ext4_super_block in
fs/ext4/ext4.h. Of the superblock only the fields that are shown or that decide something are named;
the rest is skipped.
"""

from __future__ import annotations

from typing import Any

from construct import Array, Bytes, Construct, ConstructError, Int16ul, Int32ul, Padding, Struct

SWAP_MAGIC = b"SWAPSPACE2"
SWAP_BOOT_BYTES = 1024
SWAP_MAX_BAD_PAGES = 637

EXT_SUPERBLOCK_OFFSET = 1024
EXT_MAGIC = 0xEF53


def swap_header(page_bytes: int, nr_badpages: int) -> Construct[Any, Any]:
    """Return the layout of a swap header with room for `nr_badpages` numbers of bad pages."""
    fields = SWAP_BOOT_BYTES + SWAP_FIXED.sizeof() + 4 * nr_badpages
    return Struct(
        "boot" / Bytes(SWAP_BOOT_BYTES),
        "fixed" / SWAP_FIXED,
        "badpages" / Array(nr_badpages, Int32ul),
        "unused" / Padding(page_bytes - fields - len(SWAP_MAGIC)),
        "magic" / Bytes(len(SWAP_MAGIC)),
    )


SWAP_FIXED = Struct(
    "version" / Int32ul,
    "last_page" / Int32ul,
    "nr_badpages" / Int32ul,
    "uuid" / Bytes(16),
    "label" / Bytes(16),
    "padding" / Padding(4 * 117),
)
"""The numbers of a swap header, from byte 1024 on."""

EXT_SUPERBLOCK = Struct(
    "inodes_count" / Int32ul,
    "blocks_count_low" / Int32ul,
    "reserved_blocks_count_low" / Int32ul,
    "free_blocks_count_low" / Int32ul,
    "free_inodes_count" / Int32ul,
    "first_data_block" / Int32ul,
    "log_block_size" / Int32ul,
    "log_cluster_size" / Int32ul,
    "blocks_per_group" / Int32ul,
    "clusters_per_group" / Int32ul,
    "inodes_per_group" / Int32ul,
    "mount_time" / Int32ul,
    "write_time" / Int32ul,
    "mount_count" / Int16ul,
    "max_mount_count" / Int16ul,
    "magic" / Int16ul,
    "state" / Int16ul,
    "errors" / Int16ul,
    "minor_revision" / Int16ul,
    "last_check" / Int32ul,
    "check_interval" / Int32ul,
    "creator_os" / Int32ul,
    "revision" / Int32ul,
    "reserved_uid" / Int16ul,
    "reserved_gid" / Int16ul,
    "first_inode" / Int32ul,
    "inode_size" / Int16ul,
    "block_group" / Int16ul,
    "feature_compat" / Int32ul,
    "feature_incompat" / Int32ul,
    "feature_ro_compat" / Int32ul,
    "uuid" / Bytes(16),
    "label" / Bytes(16),
    "last_mounted" / Bytes(64),
    "unnamed_1" / Padding(54),
    "desc_size" / Int16ul,
    "unnamed_2" / Padding(4),
    "first_meta_bg" / Int32ul,
    "mkfs_time" / Int32ul,
    "unnamed_3" / Padding(68),
    "blocks_count_high" / Int32ul,
    "reserved_blocks_count_high" / Int32ul,
    "free_blocks_count_high" / Int32ul,
    "unnamed_4" / Padding(240),
    "backup_bgs" / Array(2, Int32ul),
    "unnamed_5" / Padding(428),
)
"""The superblock, 1024 bytes from byte 1024 of the file system on."""

LayoutError = ConstructError
