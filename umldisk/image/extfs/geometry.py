"""Where the parts of a file system lie: its groups, their descriptors, their inode tables.

    group 0                                            group 1
    superblock  descriptors of all groups  ...  inodes | (copies)  ...  inodes | ...

With flex_bg the inode tables stand elsewhere, which changes nothing, as the descriptor says where. With meta_bg the
descriptors of a block's worth of groups stand in the first of these groups, behind its copy of the superblock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from umldisk.errors import DataError
from umldisk.image import ext
from umldisk.image.extfs import layout
from umldisk.image.layout import EXT_SUPERBLOCK_OFFSET
from umldisk.image.reader import Reader

_READABLE = {
    "filetype",
    "needs_recovery",
    "meta_bg",
    "extent",
    "64bit",
    "mmp",
    "flex_bg",
    "ea_inode",
    "metadata_csum_seed",
    "large_dir",
    "inline_data",
    "encrypt",
    "casefold",
}
_LARGEST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True)
class Geometry:
    """The numbers of a superblock that decide where things are."""

    block_bytes: int
    blocks: int
    first_data_block: int
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    inode_bytes: int
    first_inode: int
    descriptor_bytes: int
    first_meta_group: int | None
    backup_groups: tuple[int, int]
    features: frozenset[str]

    @property
    def size_bytes(self) -> int:
        """The length of the file system."""
        return self.blocks * self.block_bytes

    @property
    def groups(self) -> int:
        """How many groups there are; the last one may be short."""
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    def has(self, feature: str) -> bool:
        """Whether the file system uses a feature."""
        return feature in self.features

    def descriptor_offset(self, group: int) -> int:
        """Return the byte where the descriptor of `group` stands (descriptor_loc in fs/ext4/super.c)."""
        per_block = self.block_bytes // self.descriptor_bytes
        number, index = divmod(group, per_block)
        superblock = EXT_SUPERBLOCK_OFFSET // self.block_bytes
        block = superblock + 1 + number
        if self.first_meta_group is not None and number >= self.first_meta_group:
            first = self.first_data_block + number * per_block * self.blocks_per_group
            # with blocks of 1 KiB and bigalloc, group 0 begins at block 0, one before the superblock
            block = first + self._has_superblock(number * per_block) + (superblock > first)
        return block * self.block_bytes + index * self.descriptor_bytes

    def _has_superblock(self, group: int) -> bool:
        """Whether `group` begins with a copy of the superblock (ext4_bg_has_super in fs/ext4/balloc.c)."""
        if group == 0:
            return True
        if self.has("sparse_super2"):
            return group in self.backup_groups
        if group == 1 or not self.has("sparse_super"):
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def read_geometry(reader: Reader, *, where: str = "") -> Geometry:
    """Read the superblock.

    Raises DataError for what cannot be true and for a feature that cannot be read.
    """
    fields = ext.read_fields(reader, where=where)
    features = ext.feature_names(fields)
    _refuse_features(fields, features, where)
    geometry = Geometry(
        block_bytes=1024 << fields.log_block_size,
        blocks=ext.count(fields, "blocks_count"),
        first_data_block=fields.first_data_block,
        blocks_per_group=fields.blocks_per_group,
        inodes=fields.inodes_count,
        inodes_per_group=fields.inodes_per_group,
        inode_bytes=fields.inode_size if fields.revision else layout.OLD_INODE_BYTES,
        first_inode=fields.first_inode if fields.revision else 11,
        descriptor_bytes=fields.desc_size if "64bit" in features else layout.DESCRIPTOR_BYTES,
        first_meta_group=fields.first_meta_bg if "meta_bg" in features else None,
        backup_groups=tuple(fields.backup_bgs),
        features=frozenset(features),
    )
    _validate(geometry, where)
    _refuse_cut(geometry, reader, where)
    return geometry


def _refuse_features(fields: Any, features: tuple[str, ...], where: str) -> None:
    """Refuse what changes the meaning of the bytes in a way that is not known here."""
    known_to_all = bin(fields.feature_compat).count("1")
    incompatible = bin(fields.feature_incompat).count("1")
    for name in features[known_to_all : known_to_all + incompatible]:
        if name not in _READABLE:
            raise DataError("the file system uses a feature that cannot be read", where=where or None, found=name)


def _validate(geometry: Geometry, where: str) -> None:
    bits = geometry.block_bytes * 8
    descriptor = layout.DESCRIPTOR_64BIT_BYTES if geometry.has("64bit") else layout.DESCRIPTOR_BYTES
    checks = (
        ("blocks_count_low", geometry.size_bytes < _LARGEST_BYTES, "a size that a disk can have", geometry.blocks),
        ("first_data_block", geometry.first_data_block <= 1, "0 or 1", geometry.first_data_block),
        ("blocks_per_group", geometry.blocks_per_group >= 8, "at least 8", geometry.blocks_per_group),
        ("inodes_per_group", geometry.inodes_per_group <= bits, f"at most {bits}", geometry.inodes_per_group),
        ("inode_size", _fits(geometry.inode_bytes, 128, geometry), "a power of 2 from 128 on", geometry.inode_bytes),
        (
            "desc_size",
            _fits(geometry.descriptor_bytes, descriptor, geometry),
            "a power of 2",
            geometry.descriptor_bytes,
        ),
        ("first_inode", 11 <= geometry.first_inode <= geometry.inodes, "11 or a bit more", geometry.first_inode),
        (
            "inodes_count",
            geometry.inodes == geometry.groups * geometry.inodes_per_group,
            geometry.groups * geometry.inodes_per_group,
            geometry.inodes,
        ),
    )
    for field, is_good, expected, found in checks:
        if not is_good:
            raise ext.bad_field(field, where, expected, found)


def _fits(size: int, least: int, geometry: Geometry) -> bool:
    return least <= size <= geometry.block_bytes and size & (size - 1) == 0


def _refuse_cut(geometry: Geometry, reader: Reader, where: str) -> None:
    if len(reader.read(geometry.size_bytes - 1, 1)) != 1:
        raise DataError(
            "the file system is cut off",
            where=where or None,
            expected=f"{geometry.size_bytes} bytes",
            found="fewer",
            hint="take the image as it was before it was copied, or shrink it with resize2fs",
        )
