"""What a tree can hold and a drive cannot: refused by name before anything is written to the drive.

    lost+found that is no directory     mke2fs makes one at the top of every file system, before the files come
    a path of just 2040 bytes           mke2fs writes one byte too far (`umldisk.image.mkfs`)
    extended attributes over a block    ext keeps them in the inode and in one block besides
    more than 64,998 subdirectories     mke2fs counts them in 16 bits of the directory's link count

Attributes are counted as if they could be packed without a gap. Where they cannot, by less than one of them, it is
debugfs that refuses them.
"""

from __future__ import annotations

import posixpath
from collections import Counter

from umldisk.build.split import guest_path
from umldisk.build.tree import FileType, Inode, Tree, path_bytes
from umldisk.errors import DataError
from umldisk.image.drives import Drive
from umldisk.image.ext import BLOCK_BYTES
from umldisk.image.mkfs import INODE_BYTES, UNSAFE_PATH_BYTES

_LOST_AND_FOUND = "/lost+found"
_ATTRIBUTES_BYTES = (BLOCK_BYTES - 32 - 4) + (INODE_BYTES - 128 - 32 - 4 - 4)
"""A block and what an inode has behind its 160 bytes, each with a header and a mark at the end (fs/ext4/xattr.h)."""
_ATTRIBUTE_HEADER_BYTES = 16
MOST_SUBDIRECTORIES = 64998
"""With the directory's own two names, what the kernel takes as a count of links (EXT4_LINK_MAX)."""
_ACL_PREFIX = "system.posix_acl_"


def require_writable(drive: Drive, share: Tree) -> None:
    """Raise DataError for what of `share` could not be written to `drive`."""
    found = share.get(_LOST_AND_FOUND)
    if found is not None and found.type is not FileType.DIRECTORY:
        where, what = guest_path(drive, _LOST_AND_FOUND), found.type.name.lower()
        raise DataError("lost+found is for e2fsck, which needs a directory", where=where, found=what)
    _require_few_subdirectories(drive, share)
    for place, inode in share.items():
        if len(place) >= UNSAFE_PATH_BYTES // 4 and len(path_bytes(place)) == UNSAFE_PATH_BYTES:
            raise DataError(
                "a path has a length at which mke2fs breaks",
                where=guest_path(drive, place)[:80] + "...",
                expected=f"more or less than {UNSAFE_PATH_BYTES} bytes on the {drive.name} drive",
            )
        if inode.xattrs and (needed := _attributes_bytes(inode)) > _ATTRIBUTES_BYTES:
            raise DataError(
                "a file has more extended attributes than ext can hold",
                where=guest_path(drive, place),
                expected=f"at most {_ATTRIBUTES_BYTES} bytes",
                found=needed,
            )


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


def _attributes_bytes(inode: Inode) -> int:
    return sum(_ATTRIBUTE_HEADER_BYTES + _stored_bytes(name, len(value)) for name, value in inode.xattrs)


def _stored_bytes(name: str, value_bytes: int) -> int:
    """Return how long name and value are on a disk; of an ACL the name is a number and most ids are left out."""
    if name.startswith(_ACL_PREFIX):
        return value_bytes // 2
    return _padded(len(path_bytes(name.partition(".")[2]))) + _padded(value_bytes)


def _padded(length: int) -> int:
    return -(-length // 4) * 4
