"""The headers of COW files before a start: whole, and naming their backing files as UML will be told them.

Told another path, UML writes a header of its own, in version 3 whatever it was (arch/um/drivers/ubd_kern.c).

Rewriting a header makes a journal beside the file, in a directory that may belong to the guest's user. So it is done
with that user's rights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from umldisk.config.guest import Guest
from umldisk.cow import journal as journals
from umldisk.cow.file import read_header
from umldisk.cow.journal import HeaderJournal
from umldisk.cow.rebasing import rebase
from umldisk.cow.writing import replace_header
from umldisk.guest.state import RunDisk
from umldisk.system import locks
from umldisk.system.files import open_disk


def finish_headers(guest: Guest) -> None:
    """Finish the rewriting of headers that was cut off, for instance in an earlier start.

    Raises BusyError when it goes on, DataError when the note of it is another file's.
    """
    for drive in guest.drives:
        path = guest.cow_path(drive)
        if path is None or not isinstance(journals.read(path), HeaderJournal):
            continue
        with open_disk(path, writable=True) as cow:
            locks.lock(cow.fd, path, exclusive=True)
            if isinstance(journals.read(path), HeaderJournal):
                header = read_header(cow)
                replace_header(cow, header, header)


def settle_headers(disks: Sequence[RunDisk]) -> None:
    """Let each COW header name its backing file as UML will be told it; its layout stays."""
    for disk in disks:
        if disk.backing is None:
            continue
        with open_disk(disk.path) as cow:
            named = os.fsdecode(read_header(cow).backing_path)
        if named != disk.backing:
            rebase(disk.path, disk.backing, header_only=True)
