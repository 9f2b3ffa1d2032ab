"""What is known of a drive's backing file: which index it equals, and how the file looked when that was known.

While the file looks the same, only what the COW file's bitmap touches can differ from the index, and only that is read.
Size, both times, inode and device together change with every write through the file system, with a replaced file and
with a restored copy: ctime cannot be set back. A block device has no such times, so that nothing is ever known of one.
Whoever writes to a file while it is mapped or in the page cache alone has it noticed at the next sync; a take comes
after the guest has stopped, which syncs.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackingIdentity:
    """How a regular file looked: its size in bytes, its times in nanoseconds, which file it was."""

    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> BackingIdentity | None:
        """Describe the file that `status` is of; None when that is no regular file, which can change unseen."""
        if not stat.S_ISREG(status.st_mode):
            return None
        return cls(status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns, status.st_dev)


@dataclass(frozen=True, slots=True)
class BaseState:
    """A drive's backing file equalled the index under `base_key(guest, drive)` when it looked like `identity`.

    `index_sha256` is that index's digest, so that an index put there by another host is noticed.
    """

    guest: str
    drive: str
    index_sha256: str
    identity: BackingIdentity

    def holds_for(self, status: os.stat_result) -> bool:
        """Whether the backing file, which now looks like `status`, is unchanged since."""
        return BackingIdentity.of(status) == self.identity
