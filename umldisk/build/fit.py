"""Whether a share fits on its drive, known before anything is written to it.

What a share needs is counted in blocks of 4096 bytes: pages that hold something, directories by the length of their
names, a block for whatever does not fit into an inode (extents or indirect blocks, long symlinks, extended
attributes). What a drive offers is not estimated: mke2fs makes the empty file system, sparsely, and its superblock
says how many blocks are free. So journal, tables and reserves are right for every kind and size.

The count errs on the large side by a few parts in a hundred, so that what passes here also fits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from umldisk.build.disks import PACKAGE, Workshop, make_sparse
from umldisk.build.limits import attribute_bytes
from umldisk.build.pool import Stored
from umldisk.build.tree import NAME_BYTES, FileType, Inode, Tree, path_bytes
from umldisk.errors import DataError
from umldisk.image import mkfs
from umldisk.image.drives import MIB, Drive, drive_uuid
from umldisk.image.ext import BLOCK_BYTES, read_superblock
from umldisk.image.reader import DiskReader
from umldisk.system.files import open_disk
from umldisk.system.process import run

_SHORT_SYMLINK_BYTES = 59
_POINTERS_IN_BLOCK = BLOCK_BYTES // 4
_EXTENTS_IN_BLOCK = 340
_EXTENTS_IN_INODE = 4
_DIRECT_BYTES = 12 * BLOCK_BYTES
_DIRENT_BYTES = 8
_SURELY_FITS_PART = 4


@dataclass(frozen=True, slots=True)
class Need:
    """What a share takes on a drive."""

    blocks: int
    inodes: int


def need_of(share: Tree) -> Need:
    """Count what `share` needs."""
    inodes = {id(inode): inode for inode in share.values()}
    blocks = sum(_blocks_of(inode) for inode in inodes.values())
    names: dict[str, int] = {}
    for path in share:
        parent, _slash, name = path.rpartition("/")
        names[parent] = names.get(parent, 0) + _DIRENT_BYTES + -(-len(path_bytes(name)) // 4) * 4
    return Need(blocks + sum(_directory_blocks(length) for length in names.values()), len(inodes))


def _blocks_of(inode: Inode) -> int:
    blocks = 0
    if inode.type is FileType.DIRECTORY:
        blocks += 1
    elif inode.type is FileType.SYMLINK:
        blocks += len(path_bytes(inode.target)) > _SHORT_SYMLINK_BYTES
    elif isinstance(inode.contents, Stored):
        blocks += _file_blocks(inode.contents)
    if inode.xattrs:
        _in_inode, in_block = attribute_bytes(inode)
        blocks += in_block > 0
    return blocks


def _file_blocks(stored: Stored) -> int:
    """Return pages and the blocks that say where they are.

    An extent for each page, at worst, or an indirect block for each 4 MiB in which there is one.
    """
    if stored.pages <= _EXTENTS_IN_INODE:
        return stored.pages * 2 if stored.size_bytes > _DIRECT_BYTES else stored.pages
    span = stored.size_bytes // (BLOCK_BYTES * _POINTERS_IN_BLOCK) + 2
    return stored.pages + max(stored.pages // _EXTENTS_IN_BLOCK + 1, min(stored.pages, span))


def _directory_blocks(names_bytes: int) -> int:
    """Return how many blocks names need beyond the first, which may be three quarters full on average."""
    return -(-names_bytes * 4 // (3 * (BLOCK_BYTES - NAME_BYTES))) - 1


def require_fit(guest_name: str, drive: Drive, share: Tree, workshop: Workshop) -> None:
    """Raise DataError, with a size that would do, unless `share` fits on `drive`."""
    need = need_of(share)
    if need.blocks * BLOCK_BYTES * _SURELY_FITS_PART < drive.size_bytes - 64 * MIB:
        return
    if _free_blocks(guest_name, drive, drive.size_bytes, need, workshop) >= need.blocks:
        return
    enough = _size_that_fits(guest_name, drive, need, workshop)
    raise DataError(
        f"the base does not fit on the {drive.name} drive",
        where=guest_name,
        expected=f"at most {drive.size_bytes // MIB} MiB",
        found=f"{need.inodes} files that need {enough // MIB} MiB",
        hint=f'set size = "{enough // MIB}M" in [guest.{guest_name}.drives.{drive.name}] of umldisk.toml',
    )


def _size_that_fits(guest_name: str, drive: Drive, need: Need, workshop: Workshop) -> int:
    """Return a size, in whole 16 MiB, on which there are `need` blocks free."""
    size = drive.size_bytes
    while (free := _free_blocks(guest_name, drive, size, need, workshop)) < need.blocks:
        size += (need.blocks - free) * BLOCK_BYTES * 33 // 32
        size += -size % (16 * MIB)
    return size


def _free_blocks(guest_name: str, drive: Drive, size_bytes: int, need: Need, workshop: Workshop) -> int:
    """Let mke2fs make the empty file system, read what is free, and remove it."""
    path = os.path.join(workshop.directory, f"{drive.name}.empty")
    make_sparse(path, size_bytes)
    try:
        argv = mkfs.mke2fs_argv(
            path,
            label=drive.name,
            uuid=drive_uuid(guest_name, drive),
            inodes=mkfs.inode_count(size_bytes, need.inodes),
            kind=drive.content.value,
        )
        run(argv, package=PACKAGE, environment=workshop.environment)
        with open_disk(path) as disk:
            return read_superblock(DiskReader(disk), where=path).free_blocks
    finally:
        os.unlink(path)
