"""What a tree can hold and a drive cannot: refused by name before anything is written to the drive.

    lost+found that is no directory     mke2fs makes one at the top of every file system, before the files come
    a path of just 2040 bytes           mke2fs writes one byte too far (`umldisk.image.mkfs`)
    extended attributes over a block    ext keeps them in the inode and in one block besides
    more than 65,000 names of a file    the kernel gives a file no more (EXT4_LINK_MAX)
    more than 64,998 subdirectories     mke2fs counts them in 16 bits of the directory's link count
    a file of 16 TiB, on ext2/3 2 TiB   the kernel takes none that is longer, holes included

Attributes are counted as debugfs places them (xattr_array_update in lib/ext2fs/ext_attr.c): one after the other in the
order of their names, each whole in the inode if it still fits there, else whole in the block. Another order might fit
where this one does not, by less than 88 bytes; it is not tried.

Names are counted for each drive, because a file that has names on several is a file on each. ext2's own driver gives a
file no more than 32,000 names, but keeps those that it finds.

Lengths are looked at before a base's contents are read, as well: every byte of a hole is hashed, for hours if need be.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from umldisk.build.split import drive_of, guest_path
from umldisk.build.tree import Entry, FileType, HardLink, Inode, Tree, path_bytes
from umldisk.errors import DataError
from umldisk.image.drives import Content, Drive
from umldisk.image.ext import BLOCK_BYTES
from umldisk.image.mkfs import INODE_BYTES, UNSAFE_PATH_BYTES

_LOST_AND_FOUND = "/lost+found"
IN_INODE_BYTES, IN_BLOCK_BYTES = INODE_BYTES - 128 - 32 - 4 - 4, BLOCK_BYTES - 32 - 4
"""What an inode has behind its 160 bytes, and a block, each with a header and a mark at the end (fs/ext4/xattr.h)."""
_ATTRIBUTE_HEADER_BYTES = 16
_ACL_PREFIX = "system.posix_acl_"
_ACL_TAGS_WITH_ID = (0x02, 0x08)
"""ACL_USER and ACL_GROUP of linux/posix_acl.h."""
MOST_NAMES = 65_000
MOST_SUBDIRECTORIES = MOST_NAMES - 2
"""Each has one more name of its directory in it, which has two already."""

_MOST_BYTES = {Content.EXT2: 2196873666560, Content.EXT3: 2196873666560, Content.EXT4: (1 << 44) - BLOCK_BYTES}
"""The longest file of each kind: 2^32 - 1 sectors with the blocks that say where they are (ext2_max_size in
fs/ext2/super.c, ext4_max_bitmap_size in fs/ext4/super.c), and 2^32 - 1 blocks in extents (ext4_max_size)."""
_SURELY_SHORT_BYTES = min(_MOST_BYTES.values())


def require_lengths(entries: Iterable[Entry | HardLink], drives: Sequence[Drive]) -> Iterator[Entry | HardLink]:
    """Yield `entries`; raises DataError at a file that is too long for its drive, before its contents are read."""
    for entry in entries:
        if isinstance(entry, Entry) and entry.inode.contents.size_bytes > _SURELY_SHORT_BYTES:
            _require_short(drive_of(entry.path, drives)[0], entry.path, entry.inode)
        yield entry


def _require_short(drive: Drive, path: str, inode: Inode) -> None:
    size_bytes, most_bytes = inode.contents.size_bytes, _MOST_BYTES[drive.content]
    if size_bytes > most_bytes:
        raise DataError(
            "a file is longer than its drive can hold, even with holes",
            where=path,
            expected=f"at most {most_bytes} bytes on the {drive.name} drive ({drive.content.value})",
            found=size_bytes,
        )


def require_writable(drive: Drive, share: Tree) -> None:
    """Raise DataError for what of `share` could not be written to `drive`."""
    found = share.get(_LOST_AND_FOUND)
    if found is not None and found.type is not FileType.DIRECTORY:
        where, what = guest_path(drive, _LOST_AND_FOUND), found.type.name.lower()
        raise DataError("lost+found is for e2fsck, which needs a directory", where=where, found=what)
    _require_few_subdirectories(drive, share)
    _require_few_names(drive, share)
    for place, inode in share.items():
        if len(place) >= UNSAFE_PATH_BYTES // 4 and len(path_bytes(place)) == UNSAFE_PATH_BYTES:
            raise DataError(
                "a path has a length at which mke2fs breaks",
                where=guest_path(drive, place)[:80] + "...",
                expected=f"more or less than {UNSAFE_PATH_BYTES} bytes on the {drive.name} drive",
            )
        if inode.contents.size_bytes > _SURELY_SHORT_BYTES:
            _require_short(drive, guest_path(drive, place), inode)
        if inode.xattrs:
            _require_few_attributes(guest_path(drive, place), inode)


def _require_few_subdirectories(drive: Drive, share: Tree) -> None:
    counts = Counter(
        posixpath.dirname(place) for place, inode in share.items() if inode.type is FileType.DIRECTORY and place != "/"
    )
    place, found = max(counts.items(), key=lambda item: item[1], default=("/", 0))
    if found > MOST_SUBDIRECTORIES:
        raise DataError(
            "a directory has too many directories in it",
            where=guest_path(drive, place),
            expected=f"at most {MOST_SUBDIRECTORIES}",
            found=found,
        )


def _require_few_names(drive: Drive, share: Tree) -> None:
    if len(share) <= MOST_NAMES:
        return
    counts = Counter(map(id, share.values()))
    number = max(counts, key=counts.__getitem__)
    if counts[number] > MOST_NAMES:
        place = next(place for place, inode in share.items() if id(inode) == number)
        raise DataError(
            "a file has too many names",
            where=guest_path(drive, place),
            expected=f"at most {MOST_NAMES} on the {drive.name} drive",
            found=counts[number],
        )


def _require_few_attributes(path: str, inode: Inode) -> None:
    in_inode, in_block = attribute_bytes(inode)
    if in_block > IN_BLOCK_BYTES:
        raise DataError(
            "a file has more extended attributes than ext can hold",
            where=path,
            expected=f"at most {IN_INODE_BYTES} bytes of them in its inode and {IN_BLOCK_BYTES} in a block",
            found=f"{in_inode + in_block}, of which {in_block} are for the block",
        )


def attribute_bytes(inode: Inode) -> tuple[int, int]:
    """Return how many bytes of extended attributes go into the inode, and how many are left for its block."""
    in_inode = in_block = 0
    for name, value in inode.xattrs:
        needed = _ATTRIBUTE_HEADER_BYTES + _stored_bytes(name, value)
        if in_inode + needed <= IN_INODE_BYTES:
            in_inode += needed
        else:
            in_block += needed
    return in_inode, in_block


def _stored_bytes(name: str, value: bytes) -> int:
    """Return how long name and value are on a disk; of an ACL the name is a number and most ids are left out."""
    if name.startswith(_ACL_PREFIX):
        tags = (int.from_bytes(value[at : at + 2], "little") for at in range(4, len(value), 8))
        return 4 + sum(8 if tag in _ACL_TAGS_WITH_ID else 4 for tag in tags)
    return _padded(len(path_bytes(name.partition(".")[2]))) + _padded(len(value))


def _padded(length: int) -> int:
    return -(-length // 4) * 4
