"""The files of a disk that its guest may not have unmounted.

What stands in a journal and was not replayed is not seen by `umldisk.image.extfs`, and is often the newest of all: a
guest that was killed, or was copied while it ran, has the last seconds only there. Then the disk is copied into a file
without a name, sparse, and e2fsck replays the journal of the copy, and does nothing else to it.
"""

from __future__ import annotations

import os

from umldisk.cow.execute import Executor, Manner
from umldisk.cow.layers import Layer
from umldisk.cow.plan import coalesce, thicken
from umldisk.errors import DataError, from_os_error
from umldisk.image.extfs.volume import Volume
from umldisk.image.reader import DiskReader
from umldisk.ops.changes.rows import Row, file_rows
from umldisk.progress import SILENT
from umldisk.system.files import DiskFile
from umldisk.system.process import run
from umldisk.system.staging import nameless

PACKAGE = "e2fsprogs"
_REPLAYED = 0
"""What e2fsck ends with after a replay. With 1 it corrected something: it removed a journal that it could not read."""


class LayerReader:
    """What a guest sees through a layer, as a Reader; does not own it."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`; less only at the end of the disk."""
        data = bytearray(max(0, min(length, self._layer.size_bytes - offset)))
        if data:
            try:
                self._layer.read_into(offset, memoryview(data))
            except OSError as error:
                raise from_os_error(error, "read", self._layer.disk.path) from error
        return bytes(data)


def rows_of_layer(layer: Layer, mount_point: str, *, scratch: str) -> dict[str, Row]:
    """Return the files of a disk by their paths, its journal replayed in a copy below the directory `scratch`.

    Raises DataError when the file system is damaged, CannotCreateError and StorageError when it cannot be copied,
    NoInputError without e2fsck.
    """
    where = layer.disk.path
    volume = Volume.open(LayerReader(layer), where=where)
    if not volume.needs_recovery:
        return dict(file_rows(volume, mount_point))
    with nameless(scratch, called=where) as copy:
        _copy(layer, copy)
        return rows_of_copy(copy, mount_point)


def rows_of_copy(copy: DiskFile, mount_point: str) -> dict[str, Row]:
    """Return the files of a disk by their paths; it is ours, and its journal is replayed where it is.

    Raises DataError when the file system or its journal is damaged, NoInputError without e2fsck.
    """
    if Volume.open(DiskReader(copy), where=copy.path).needs_recovery:
        name = f"/proc/{os.getpid()}/fd/{copy.fd}"
        argv = ["e2fsck", "-E", "journal_only", "-p", name]
        status = run(argv, package=PACKAGE, accepted=range(256)).status
        if status != _REPLAYED:
            raise DataError("the journal cannot be replayed", where=copy.path, found=f"e2fsck ended with {status}")
    return dict(file_rows(Volume.open(DiskReader(copy), where=copy.path), mount_point))


def _copy(layer: Layer, copy: DiskFile) -> None:
    try:
        os.ftruncate(copy.fd, layer.size_bytes)
        with SILENT.task("copy") as task:
            segments = layer.segments(0, layer.size_bytes)
            Executor(copy, Manner(), task).assemble(coalesce(thicken(segments, layer)))
    except OSError as error:
        raise from_os_error(error, "copy", layer.disk.path) from error
