"""How mke2fs is asked for a file system whose bytes depend on nothing but what is said here.

mke2fs takes its defaults from the machine's /etc/mke2fs.conf, times from the clock and UUIDs from chance. All three
are given: a configuration of our own (`CONFIGURATION`, through MKE2FS_CONFIG), the time (E2FSPROGS_FAKE_TIME, which
e2fsprogs has for its own tests), UUID and hash seed. Directories are read in the order of their names in any case
(scandir in misc/create_inode.c).

What makes the images small: the file is a hole from end to end before mke2fs sees it, and mke2fs is told so. Inode
tables and journal are declared zeroed without being written. Otherwise they cost 33 MB of each image, and the kernel
zeroes them after the first mount, into the COW file. Needs e2fsprogs 1.47 or newer (`no_copy_xattrs`: attributes come
from the script, never from the scratch tree).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from umldisk.image.ext import BLOCK_BYTES

INODE_BYTES = 256
BYTES_PER_INODE = 16384
UNSAFE_PATH_BYTES = 2040
"""A length that no path below the tree may have, counted from its first slash.

mke2fs doubles the 255 bytes that it keeps a path in one byte too late (path_append in misc/create_inode.c); at this
length the byte behind them is another's, and mke2fs may crash.
"""
_LATEST_SECONDS = (1 << 32) - 1

CONFIGURATION = f"""\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = {BLOCK_BYTES}
inode_size = {INODE_BYTES}
inode_ratio = {BYTES_PER_INODE}
[fs_types]
ext2 = {{
}}
ext3 = {{
features = has_journal
}}
ext4 = {{
features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}}
"""


def inode_count(size_bytes: int, needed: int) -> int:
    """Return how many inodes a file system gets: one for 16 KiB, or an eighth more than `needed`, if that is more."""
    return max(size_bytes // BYTES_PER_INODE, needed + needed // 8 + 64)


def mke2fs_argv(
    image: str,
    *,
    label: str,
    uuid: uuid.UUID,
    inodes: int,
    tree: str | None = None,
    kind: str = "ext4",
    reserved_percent: int = 1,
) -> Sequence[str]:
    """Return the command that makes a file system of the whole file `image`, filled with `tree`.

    The image must read as zeros. To be run in the environment of `environment`.
    """
    return [
        "mke2fs",
        "-q",
        "-F",
        *("-t", kind),
        *("-T", "default"),
        *("-b", str(BLOCK_BYTES)),
        *("-I", str(INODE_BYTES)),
        *("-N", str(inodes)),
        *("-m", str(reserved_percent)),
        *("-L", label),
        *("-U", str(uuid)),
        *("-E", _extended_options(uuid)),
        *(("-d", tree) if tree else ()),
        image,
    ]


def _extended_options(hash_seed: uuid.UUID) -> str:
    options = ["assume_storage_prezeroed=1", "root_owner=0:0", f"hash_seed={hash_seed}", "no_copy_xattrs", "nodiscard"]
    return ",".join(options)


def environment(configuration: str, time_ns: int) -> Mapping[str, str]:
    """Return what e2fsprogs needs to know: the path of a file with CONFIGURATION, and the time it is to believe in.

    A superblock counts unsigned seconds, and the second 0 means the clock to e2fsprogs.
    """
    seconds = min(max(time_ns // 1_000_000_000, 1), _LATEST_SECONDS)
    return {"MKE2FS_CONFIG": configuration, "E2FSPROGS_FAKE_TIME": str(seconds), "E2FSCK_TIME": str(seconds)}
