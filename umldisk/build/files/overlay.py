"""Files of the user's own, laid over everything else.

The directory is read like a base that is one, with two differences. In the guest all of it belongs to root: such a
directory is kept with the site by whoever keeps the site, and that user's number means nothing in the guest, or
somebody else. And of the attributes only those stay that everyone can see and set for a guest (user's own, access
lists, capabilities): labels and trusted attributes are the host's. So root and an ordinary user build the same.

Modes, times and links stay. The top directory itself changes nothing: / keeps the base's mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from umldisk.build.tree import Entry, HardLink, Inode

_KEPT = ("user.", "system.posix_acl_", "security.capability")


def overlay_entries(directory: str, *, scratch: str = "") -> Iterator[Entry | HardLink]:
    """Yield what is in `directory`, every inode owned by root, without the directory `scratch` should it lie below.

    Raises what DirectoryBase raises: NoInputError when there is no such directory.
    """
    from umldisk.build.bases.directory import DirectoryBase

    with DirectoryBase(directory, scratch=scratch) as base:
        for entry in base.entries():
            if isinstance(entry, HardLink):
                yield entry
            elif entry.path != "/":
                yield Entry(entry.path, _of_root(entry.inode))


def _of_root(inode: Inode) -> Inode:
    kept = tuple(pair for pair in inode.xattrs if pair[0].startswith(_KEPT))
    return replace(inode, uid=0, gid=0, xattrs=kept)
