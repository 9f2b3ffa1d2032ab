"""Looking at a file system with e2fsck, without changing the disk that it is on.

    no journal to replay     e2fsck -f -n on the disk itself, which is only read
    a journal to replay      e2fsck -p on a copy, which replays it as a mounting kernel would; then e2fsck -f -n

A checkpoint of a running guest has a journal to replay, and so has a disk whose guest was killed: the superblock says
so, and is asked instead of the record. e2fsck -p corrects what is safe to correct without asking, which the report
tells: after a replay that is freeing what was deleted while open.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from umldisk.errors import DataError, printable
from umldisk.image.ext import read_superblock
from umldisk.image.reader import DiskReader
from umldisk.ops.drilling.steps import Found, failed, passed
from umldisk.system import sparse, transfer
from umldisk.system.files import open_disk
from umldisk.system.process import Completed, run
from umldisk.system.staging import staged
from umldisk.system.swapping import explained

PACKAGE = "e2fsprogs"
_REPLAYED = (0, 1)
"""What e2fsck -p ends with when all is well, or is so now."""
_NO_FINDING = ("Pass ", "e2fsck ")
_MOST_LINES = 5


def check_file_system(image: str, copy: str) -> Found:
    """Let e2fsck look at the file system in `image`, on a copy named `copy` when it has a journal to replay.

    Raises NoInputError without e2fsck, StorageError when it cannot be read or copied.
    """
    try:
        if not has_journal_to_replay(image):
            return _judged(_look(image), "clean")
    except DataError as error:
        return failed(f"no file system that can be mounted: {error.line()}")
    copy_disk(image, copy)
    replayed = run(["e2fsck", "-p", copy], package=PACKAGE, accepted=range(256))
    if replayed.status not in _REPLAYED:
        return _judged(replayed, "")
    corrected = " and small corrections" if replayed.status else ""
    return _judged(_look(copy), f"clean after the replay of its journal{corrected}")


def has_journal_to_replay(image: str) -> bool:
    """Whether the superblock asks for a replay; raises DataError when there is none that makes sense."""
    with open_disk(image) as disk:
        return "needs_recovery" in read_superblock(DiskReader(disk), where=image).features


def _look(image: str) -> Completed:
    return run(["e2fsck", "-f", "-n", image], package=PACKAGE, accepted=range(256))


def _judged(finished: Completed, when_clean: str) -> Found:
    if finished.status == 0:
        return passed(when_clean)
    lines = finding_lines(finished.stdout.decode(errors="replace"), finished.stderr.decode(errors="replace"))
    what = f"e2fsck ended with status {finished.status}"
    return failed(f"{what}: {lines[0]}" if lines else what, lines[:_MOST_LINES])


def finding_lines(*said: str) -> Sequence[str]:
    """Return the lines of e2fsck's output that say what is wrong."""
    lines = (line.strip() for text in said for line in text.splitlines())
    return [printable(line) for line in lines if line and not line.startswith(_NO_FINDING)]


def copy_disk(source: str, target: str) -> None:
    """Copy a disk to the new file `target`, sharing its blocks where the file system can, else without its holes."""
    with open_disk(source) as disk, staged(target, sync=False, mode=0o600) as copy, explained("copy", source):
        if transfer.reflink(disk.fd, copy.fd):
            return
        size_bytes = disk.size_bytes
        os.ftruncate(copy.fd, size_bytes)
        for start, end in sparse.data_extents(disk.fd, 0, size_bytes):
            transfer.copy(disk.fd, start, copy.fd, start, end - start)
