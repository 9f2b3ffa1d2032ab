"""Copies of disks that their guest has open, made while it stands still for a moment.

    before the pause     room: a file without a name in the disk's own directory, and how it will be filled
    in the pause         fill
    after it             read at leisure; the room is gone with its descriptor, however we end

Where the file system can share data, filling is one reflink and takes a few milliseconds whatever the size. It was
tried before, which also wrote out what was waiting: a file system writes that before it shares it. Elsewhere only what
a reader could come to see is copied: header, bitmap and the data of changed sectors; of a disk without a COW file,
whatever is no hole. The pause then grows with the changed bytes, never with the disk.

The bitmap is read in the pause, too: what it declared before is older than the data.

As root we work in a directory of the guest's user. It is opened once, the disk and the copy by one name below it and
through no symlink; the copy has no name that anybody else could open it by.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from umldisk.cow.layers import CowLayer, Kind, Layer, RawLayer
from umldisk.errors import CannotCreateError, DataError, NoInputError, StorageError, from_os_error
from umldisk.system import sparse, transfer
from umldisk.system.files import DiskFile
from umldisk.system.swapping import Directory

_PIECE_BYTES = 16 << 20
"""How much is copied between two looks at the clock."""
_SPARE_BYTES = 16 << 20
"""Room beyond what a copy takes now: the guest goes on writing until it is paused."""

Check = Callable[[], None]
"""Raises when the pause has become too long."""
Span = tuple[int, int]


def open_in_use(directory: Directory, name: str) -> DiskFile:
    """Open a regular file directly below `directory` for reading, through no symlink.

    Raises NoInputError when it is not there, DataError when it is anything else.
    """
    path = directory.inside(name)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        disk = DiskFile(path, os.open(name, flags, dir_fd=directory.fd))
    except OSError as error:
        raise NoInputError(f"cannot open: {error.strerror}", where=path) from error
    if not stat.S_ISREG(disk.status.st_mode):
        disk.close()
        raise DataError(
            "not a disk that can be recorded while its guest runs",
            where=path,
            expected="a regular file",
            hint="stop the guest first",
        )
    return disk


@dataclass(frozen=True, slots=True)
class Room:
    """Where the frozen copy of `layer`'s own file goes; `shares` tells whether that is by reflink."""

    layer: Layer
    copy: DiskFile
    shares: bool

    @classmethod
    def prepare(cls, layer: Layer, directory: Directory, resources: ExitStack) -> Room:
        """Make room beside the file, while the guest still runs; `resources` gives it up.

        Raises CannotCreateError when the directory takes no file, StorageError when there is too little room.
        """
        source = layer.disk
        copy = resources.enter_context(_unnamed(source, directory))
        try:
            shares = transfer.reflink(source.fd, copy.fd)
            os.ftruncate(copy.fd, 0)
            if not shares:
                _require_room(layer, copy)
        except OSError as error:
            raise from_os_error(error, "make room for a copy of", source.path) from error
        return cls(layer, copy, shares)

    def fill(self, check: Check) -> None:
        """Copy the file as it is now, the guest standing still; calls `check` now and then.

        Raises StorageError, and what `check` raises.
        """
        try:
            if not (self.shares and transfer.reflink(self.layer.disk.fd, self.copy.fd)):
                self._copy(check)
        except BaseException as error:
            with contextlib.suppress(OSError):  # on a full disk the guest needs the room, and so does its mconsole
                os.ftruncate(self.copy.fd, 0)
            if isinstance(error, OSError):
                raise from_os_error(error, "copy", self.layer.disk.path) from error
            raise

    def _copy(self, check: Check) -> None:
        os.ftruncate(self.copy.fd, self.layer.disk.size_bytes)
        for start, end in _pieces(_spans(self.layer)):
            check()
            transfer.copy(self.layer.disk.fd, start, self.copy.fd, start, end - start)


def _unnamed(source: DiskFile, directory: Directory) -> DiskFile:
    """Make a file without a name, for us alone; it is called as its source in errors, and looked for beside it."""
    try:
        return DiskFile(source.path, _open_unnamed(os.path.basename(source.path), directory))
    except OSError as error:
        raise CannotCreateError(f"cannot make a copy of the disk: {error.strerror}", where=directory.path) from error


def _open_unnamed(name: str, directory: Directory) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=directory.fd)
    except OSError:  # the file system has none: one that loses its name at once (staging's sweep knows that name)
        hidden = f".{name[:200]}.umldisk-stage-{secrets.token_hex(4)}"
        fd = os.open(hidden, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory.fd)
        os.unlink(hidden, dir_fd=directory.fd)
        return fd


def _require_room(layer: Layer, copy: DiskFile) -> None:
    needed = sum(end - start for start, end in _spans(layer)) + _SPARE_BYTES
    system = os.fstatvfs(copy.fd)
    free = system.f_bavail * system.f_frsize
    if free < needed:
        raise StorageError(
            "too little room for a copy of what was changed",
            where=layer.disk.path,
            expected=f"{needed} bytes free",
            found=free,
            hint="make room, or stop the guest: then nothing is copied",
        )


def _spans(layer: Layer) -> Iterator[Span]:
    """Yield what of the layer's own file a reader could come to see, in order; the rest is holes or never looked at."""
    layer = _anew(layer)
    size_bytes = layer.disk.size_bytes
    yield from sparse.data_extents(layer.disk.fd, 0, min(layer.data_offset, size_bytes))
    segments = layer.changed() if isinstance(layer, CowLayer) else layer.own_segments(0, size_bytes)
    for segment in segments:
        start, end = segment.file_offset, min(layer.data_offset + segment.end, size_bytes)
        if segment.kind is not Kind.ZERO and start < end:
            yield start, end


def _anew(layer: Layer) -> Layer:
    """Return a layer over the same file that remembers nothing of where it had data."""
    if isinstance(layer, CowLayer):
        return CowLayer(layer.disk, layer.header, layer.below)
    return RawLayer(layer.disk)


def _pieces(spans: Iterable[Span]) -> Iterator[Span]:
    """Join spans that touch, and cut them where they are too long for one go."""
    start = end = 0
    for low, high in spans:
        if low > end > start:
            yield start, end
        if low > end:
            start = low
        end = high
        while end - start >= _PIECE_BYTES:
            yield start, start + _PIECE_BYTES
            start += _PIECE_BYTES
    if end > start:
        yield start, end
