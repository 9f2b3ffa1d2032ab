"""ext2, ext3 and ext4: what a superblock says, and how mke2fs is asked for a file system.

The three are one format; the features a file system uses decide its name, by the rule of libblkid:
a journal makes ext2 an ext3, and any feature that the ext3 driver does not know makes it an ext4.
Only the primary superblock is read, never its copies and never anything behind it: `info`
describes, `e2fsck` judges.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from umldisk.errors import DataError, printable
from umldisk.image import layout
from umldisk.image.reader import Reader

BLOCK_BYTES = 4096
"""The block size of every file system made here; smaller ones would mix the pages of a COW file."""

EARLIEST_SECONDS, LATEST_SECONDS = -(1 << 31), (1 << 34) - (1 << 31) - 1
"""The times that an inode of 256 bytes can hold, 1901 to 2446; the kernel takes the nearest for any other."""

_SUPERBLOCK_BYTES = 1024
_LARGEST_LOG_BLOCK_SIZE = 6
_STATE_CLEAN = 0x1
_STATE_ERRORS = 0x2
_INCOMPAT_RECOVER = "needs_recovery"
_INCOMPAT_64BIT = 0x80

# Names as in lib/e2p/feature.c of e2fsprogs.
_COMPAT = {
    0x1: "dir_prealloc",
    0x2: "imagic_inodes",
    0x4: "has_journal",
    0x8: "ext_attr",
    0x10: "resize_inode",
    0x20: "dir_index",
    0x40: "lazy_bg",
    0x100: "snapshot_bitmap",
    0x200: "sparse_super2",
    0x400: "fast_commit",
    0x800: "stable_inodes",
    0x1000: "orphan_file",
}
_INCOMPAT = {
    0x1: "compression",
    0x2: "filetype",
    0x4: "needs_recovery",
    0x8: "journal_dev",
    0x10: "meta_bg",
    0x40: "extent",
    0x80: "64bit",
    0x100: "mmp",
    0x200: "flex_bg",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x2000: "metadata_csum_seed",
    0x4000: "large_dir",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
_RO_COMPAT = {
    0x1: "sparse_super",
    0x2: "large_file",
    0x4: "btree_dir",
    0x8: "huge_file",
    0x10: "uninit_bg",
    0x20: "dir_nlink",
    0x40: "extra_isize",
    0x80: "has_snapshot",
    0x100: "quota",
    0x200: "bigalloc",
    0x400: "metadata_csum",
    0x800: "replica",
    0x1000: "read-only",
    0x2000: "project",
    0x4000: "shared_blocks",
    0x8000: "verity",
    0x10000: "orphan_file_present",
}
_EXT3_INCOMPAT = 0x2 | 0x4 | 0x10
_EXT3_RO_COMPAT = 0x1 | 0x2 | 0x4


@dataclass(frozen=True, slots=True)
class Superblock:
    """What an ext file system says of itself; times are None when they were never set.

    `kind` is ext2, ext3 or ext4. `clean` is false after an unclean stop (a journal to replay, too)
    or found errors.
    """

    kind: str
    block_bytes: int
    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    features: tuple[str, ...]
    clean: bool
    has_errors: bool
    uuid: uuid.UUID
    label: str
    last_mounted: str
    mount_count: int
    created: datetime | None
    mounted: datetime | None
    written: datetime | None

    @property
    def size_bytes(self) -> int:
        """The length of the file system, which may be less than that of its disk."""
        return self.blocks * self.block_bytes


def has_magic(reader: Reader) -> bool:
    """Whether the two bytes stand there that begin to make this an ext file system."""
    place = layout.EXT_SUPERBLOCK_OFFSET + _offset_of("magic")
    return reader.read(place, 2) == layout.EXT_MAGIC.to_bytes(2, "little")


def read_superblock(reader: Reader, *, where: str = "") -> Superblock:
    """Read the superblock.

    Raises DataError when there is none, or with the offset of the first field that cannot be true.
    """
    fields = read_fields(reader, where=where)
    features = feature_names(fields)
    return Superblock(
        kind=_kind(fields),
        block_bytes=1024 << fields.log_block_size,
        blocks=count(fields, "blocks_count"),
        free_blocks=count(fields, "free_blocks_count"),
        inodes=fields.inodes_count,
        free_inodes=fields.free_inodes_count,
        features=features,
        clean=bool(fields.state & _STATE_CLEAN) and _INCOMPAT_RECOVER not in features,
        has_errors=bool(fields.state & _STATE_ERRORS),
        uuid=uuid.UUID(bytes=fields.uuid),
        label=_text(fields.label),
        last_mounted=_text(fields.last_mounted),
        mount_count=fields.mount_count,
        created=_time(fields.mkfs_time),
        mounted=_time(fields.mount_time),
        written=_time(fields.write_time),
    )


def read_fields(reader: Reader, *, where: str = "") -> Any:
    """Read the superblock as its plain numbers, for whoever reads the rest of the file system.

    Raises DataError as `read_superblock` does.
    """
    raw = reader.read(layout.EXT_SUPERBLOCK_OFFSET, _SUPERBLOCK_BYTES)
    if len(raw) < _SUPERBLOCK_BYTES:
        raise DataError("the ext superblock is cut off", where=where, expected=_SUPERBLOCK_BYTES, found=len(raw))
    fields = layout.EXT_SUPERBLOCK.parse(raw)
    _validate(fields, where)
    return fields


def _validate(fields: Any, where: str) -> None:
    if fields.magic != layout.EXT_MAGIC:
        raise bad_field("magic", where, hex(layout.EXT_MAGIC), hex(fields.magic))
    if fields.log_block_size > _LARGEST_LOG_BLOCK_SIZE:
        raise bad_field("log_block_size", where, "0 (1 KiB) to 6 (64 KiB)", fields.log_block_size)
    if fields.inodes_count == 0 or fields.free_inodes_count > fields.inodes_count:
        raise bad_field("inodes_count", where, "more than the free inodes", fields.inodes_count)
    blocks = count(fields, "blocks_count")
    if blocks <= fields.first_data_block or count(fields, "free_blocks_count") > blocks:
        raise bad_field("blocks_count_low", where, "more than the free blocks", blocks)
    if fields.blocks_per_group == 0 or fields.inodes_per_group == 0:
        raise bad_field("blocks_per_group", where, "groups with blocks and inodes", 0)


def bad_field(field: str, where: str, expected: object, found: object) -> DataError:
    """Say which field of a superblock cannot be true, and where it stands."""
    offset = layout.EXT_SUPERBLOCK_OFFSET + _offset_of(field)
    place = f"{where}, byte {offset}".removeprefix(", ")
    return DataError(f"bad {field} in the ext superblock", where=place, expected=expected, found=found)


def _offset_of(field: str) -> int:
    offset = 0
    for part in layout.EXT_SUPERBLOCK.subcons:
        if part.name == field:
            return offset
        offset += part.sizeof()
    raise KeyError(field)


def count(fields: Any, name: str) -> int:
    """Return a number of a superblock that is kept in two halves."""
    low: int = fields[f"{name}_low"]
    high: int = fields[f"{name}_high"] if fields.feature_incompat & _INCOMPAT_64BIT else 0
    return high << 32 | low


def feature_names(fields: Any) -> tuple[str, ...]:
    """Return the names of all features that the numbers of a superblock declare."""
    named = (
        (fields.feature_compat, _COMPAT, "compat"),
        (fields.feature_incompat, _INCOMPAT, "incompat"),
        (fields.feature_ro_compat, _RO_COMPAT, "ro_compat"),
    )
    return tuple(
        names.get(1 << bit, f"{group}_{bit}") for mask, names, group in named for bit in range(32) if mask >> bit & 1
    )


def _kind(fields: Any) -> str:
    unknown_to_ext3 = fields.feature_incompat & ~_EXT3_INCOMPAT | fields.feature_ro_compat & ~_EXT3_RO_COMPAT
    if unknown_to_ext3:
        return "ext4"
    return "ext3" if fields.feature_compat & 0x4 else "ext2"


def _text(raw: bytes) -> str:
    return printable(raw.partition(b"\0")[0].decode(errors="surrogateescape"))


def _time(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def small_blocks(reader: Reader) -> bool:
    """Whether this is an ext file system with blocks below 4096 bytes, which mix COW pages.

    Anything that is no believable ext file system answers False.
    """
    if not has_magic(reader):
        return False
    try:
        return read_superblock(reader).block_bytes < BLOCK_BYTES
    except DataError:
        return False
