"""Contents that a file of this host has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.build.tree import Entry, FileType, Inode
from umldisk.system.files import open_disk
from umldisk.system.transfer import CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class HostFile:
    """The contents of the regular file at `path`, read anew whenever they are asked for."""

    path: str
    size_bytes: int

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield the file in pieces, up to the size it had; raises NoInputError when it has gone."""
        with open_disk(self.path) as found:
            for offset in range(0, self.size_bytes, CHUNK_BYTES):
                yield offset, found.read_at(offset, min(CHUNK_BYTES, self.size_bytes - offset))


def host_file(path: str, source: str, mode: int = 0o644) -> Entry:
    """Make an entry of root with size, contents and time of the host's file `source`; raises NoInputError."""
    with open_disk(source) as found:
        status = found.status
    contents = HostFile(source, status.st_size)
    return Entry(path, Inode(FileType.FILE, mode, mtime_ns=status.st_mtime_ns, contents=contents))
