"""Scratch trees: the directories that `mke2fs -d` copies into a disk.

A scratch tree carries names, contents, and which names are one file. Owners, modes and times in it are whatever suits
the builder (directories 0700, files 0600, or an ordinary user could not read them back), and device nodes are missing,
because only root could make them. `umldisk.build.attributes` puts all that right inside the disk.

Nothing that a base says can leave the tree. It is empty at first, everything in it is made by us relative to its open
top directory, every directory of a path is a directory that we made (a Tree has no path through a symlink), and
nothing is ever opened by a name that exists.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable

from umldisk.build.pool import Pool, Stored
from umldisk.build.tree import FileType, Inode, Tree, in_order, path_bytes
from umldisk.errors import from_os_error

_SPECIAL = {FileType.FIFO: stat.S_IFIFO, FileType.SOCKET: stat.S_IFSOCK}


class Layout:
    """Lays out the shares of one guest; knows which contents are needed on several drives."""

    def __init__(self, shares: Iterable[Tree]) -> None:
        self._uses = Counter(stored.path for share in shares for stored in _contents(share))

    def write(self, directory: str, share: Tree) -> None:
        """Write `share` below the new directory `directory`, for us alone; its contents leave the pool.

        Raises StorageError when the file system does not take it.
        """
        try:
            os.mkdir(directory)
            os.chmod(directory, 0o700)
            _drop_inherited_acl(directory)
            top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._fill(top, share, directory)
            finally:
                os.close(top)
        except OSError as error:
            raise from_os_error(error, "write scratch files", directory) from error

    def _fill(self, top: int, share: Tree, directory: str) -> None:
        first_names: dict[int, bytes] = {}
        for path, inode in in_order(share):
            name = path_bytes(path[1:])
            if not name or inode.type.is_device:
                continue
            first = first_names.setdefault(id(inode), name)
            try:
                if first is name:
                    self._make(top, name, inode)
                else:
                    os.link(first, name, src_dir_fd=top, dst_dir_fd=top, follow_symlinks=False)
            except OSError as error:
                raise from_os_error(error, "write scratch files", f"{directory}{path}") from error

    def _make(self, top: int, name: bytes, inode: Inode) -> None:
        if inode.type is FileType.DIRECTORY:
            os.mkdir(name, dir_fd=top)
            os.chmod(name, 0o700, dir_fd=top)
        elif inode.type is FileType.SYMLINK:
            os.symlink(path_bytes(inode.target), name, dir_fd=top)
        elif isinstance(inode.contents, Stored) and inode.type is FileType.FILE:
            self._uses[inode.contents.path] -= 1
            Pool.place(inode.contents, name, dir_fd=top, again=self._uses[inode.contents.path] > 0)
        else:
            os.mknod(name, _SPECIAL[inode.type] | 0o600, dir_fd=top)


def _contents(share: Tree) -> Iterable[Stored]:
    inodes = {id(inode): inode for inode in share.values()}
    return (inode.contents for inode in inodes.values() if isinstance(inode.contents, Stored))


def _drop_inherited_acl(directory: str) -> None:
    """Keep a default ACL of the place that we build in from getting into every file."""
    with contextlib.suppress(OSError):
        os.removexattr(directory, "system.posix_acl_default")
