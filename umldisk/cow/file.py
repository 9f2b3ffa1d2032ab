"""A COW file opened together with everything it stands on.

Opening checks what the kernel checks before it lets a guest see the disk, and more: the header is plausible, the
backing file is there with the very size and mtime the header names, bitmap and data reach as far as the set bits say,
nothing in the stack stands on itself. Each file of the stack is opened once and locked as UML locks it, so that a
running guest and a running umldisk exclude each other for as long as the `CowFile` is open.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.bitmap import Run
from umldisk.cow.detect import detect
from umldisk.cow.dialect import Dialect
from umldisk.cow.geometry import SECTORS_PER_BYTE, Geometry
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.cow.view import ViewFile
from umldisk.errors import DataError, UmldiskError
from umldisk.system import files, locks
from umldisk.system.files import DiskFile

_DEEPEST_STACK = 64


@dataclass(frozen=True, slots=True)
class Access:
    """How a stack is opened.

    `backing` takes the place of the path in the top header. `ignore_mtime` accepts a backing file that was touched,
    `accept_truncated` reads a cut file as UML would (missing data as zeros, missing bits as unchanged). `change_cow`
    and `change_backing` open for writing and lock exclusively. `lock` False is for looking only.
    """

    backing: str | os.PathLike[str] | None = None
    dialect: Dialect | None = None
    ignore_mtime: bool = False
    accept_truncated: bool = False
    change_cow: bool = False
    change_backing: bool = False
    lock: bool = True


class CowFile:
    """A COW file over its backing file, as a context manager. See `open`."""

    def __init__(self, layer: CowLayer, resources: ExitStack) -> None:
        self.layer = layer
        self._resources = resources

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        backing: str | os.PathLike[str] | None = None,
        *,
        access: Access | None = None,
    ) -> CowFile:
        """Open and lock the COW file `path` and all it stands on, for reading unless `access` says otherwise.

        `backing` takes the place of the path in the header (a relative one is seen from the current directory; one in
        the header from the COW file's directory). A backing file that is a COW file itself is followed downwards.

        Raises NoInputError (a file is missing or of a wrong type), DataError (damaged, or the two do not belong
        together) and BusyError (a guest or another umldisk uses one of them).
        """
        access = access or Access()
        if backing is not None:
            access = replace(access, backing=backing)
        resources = ExitStack()
        try:
            return cls(_open_stack(os.fspath(path), access, resources), resources)
        except BaseException:
            resources.close()
            raise

    @classmethod
    def over(cls, disk: DiskFile, below: Layer, *, accept_truncated: bool = False) -> CowFile:
        """Join a COW file that is open already with the layer that it stands on; both stay the caller's.

        Nothing is locked or opened. Of a file that a guest is writing to, the end moves between two looks; whoever
        only wants to look at one accepts that. Raises DataError when it is damaged, or the two do not belong together.
        """

        def fits(header: CowHeader) -> bool:
            return header.size_bytes == below.size_bytes

        raw = disk.read_at(0, headers.HEADER_READ_BYTES)
        header = detect(raw, file_bytes=disk.size_bytes, where=disk.path, backing_fits=fits)
        check_pair(disk, header, below.disk, below.size_bytes)
        _check_reach(disk, header, Access(accept_truncated=accept_truncated))
        return cls(CowLayer(disk, header, below), ExitStack())

    @property
    def header(self) -> CowHeader:
        """The header's fields."""
        return self.layer.header

    @property
    def geometry(self) -> Geometry:
        """Where bitmap and data lie in the file."""
        return self.layer.geometry

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self.layer.disk.path

    @property
    def backing(self) -> Layer:
        """The layer below: a raw image, or another COW file."""
        return self.layer.below

    @property
    def size_bytes(self) -> int:
        """The size of the disk, exact to the byte."""
        return self.layer.size_bytes

    def runs(self) -> Iterator[Run]:
        """Yield the changed sectors as maximal runs, in order, in constant memory."""
        return self.layer.runs()

    def read(self, offset: int, length: int) -> bytes:
        """Return what a guest sees at byte `offset`: up to `length` bytes, fewer at the end of the disk."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length must not be negative")
        buffer = bytearray(max(0, min(length, self.size_bytes - offset)))
        if buffer:
            self.layer.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def raw(self) -> io.RawIOBase:
        """Return a read-only, seekable raw file over what a guest sees; it is valid while this is open."""
        return ViewFile(self.layer)

    def close(self) -> None:
        """Close all files of the stack, which also unlocks them."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_header(disk: DiskFile, *, dialect: Dialect | None = None, backing: str | None = None) -> CowHeader:
    """Read the header of the open file, detecting its dialect; one torn by a killed rewrite is taken from its journal.

    Raises DataError when it is none, or damaged.
    """
    raw = disk.read_at(0, headers.HEADER_READ_BYTES)
    pending = journals.read(disk.path)
    if isinstance(pending, HeaderJournal):
        raw = pending.mend(raw, where=disk.path)
    base = os.path.dirname(os.path.realpath(disk.path))

    def fits(header: CowHeader) -> bool:
        try:
            with files.open_disk(resolve(header.backing_path, base) if backing is None else backing) as candidate:
                return candidate.size_bytes == header.size_bytes
        except UmldiskError:
            return False

    return detect(raw, file_bytes=disk.size_bytes, where=disk.path, wanted=dialect, backing_fits=fits)


def resolve(backing_path: bytes, directory: str) -> str:
    """Return the path a header names; a relative one is seen from the COW file's own directory."""
    return os.path.join(directory, os.fsdecode(backing_path))


def backing_path_of(disk: DiskFile, header: CowHeader) -> str:
    """Return the path of the backing file that the header of the open file names."""
    return resolve(header.backing_path, os.path.dirname(os.path.realpath(disk.path)))


def _open_stack(path: str, access: Access, resources: ExitStack) -> CowLayer:
    """Open the stack top down, then join it bottom up."""
    opened: list[tuple[DiskFile, CowHeader]] = []
    name, change = path, access.change_cow
    backing: str | None = None if access.backing is None else os.fspath(access.backing)
    while True:
        disk = resources.enter_context(files.open_disk(name, writable=change))
        _refuse_loop(disk, opened)
        if access.lock:
            locks.lock(disk.fd, name, exclusive=change)
        if opened and not headers.looks_like_cow(disk.read_at(0, 4)):
            break
        top = not opened
        header = read_header(disk, dialect=access.dialect if top else None, backing=backing if top else None)
        _check_reach(disk, header, access)
        opened.append((disk, header))
        name = backing if top and backing is not None else backing_path_of(disk, header)
        change = access.change_backing if top else False
    return _join(RawLayer(disk), opened, access)


def _refuse_loop(disk: DiskFile, opened: list[tuple[DiskFile, CowHeader]]) -> None:
    if any(disk.identity == above.identity for above, _header in opened):
        raise DataError("the COW file is its own backing file", where=opened[0][0].path, found=disk.path)
    if len(opened) >= _DEEPEST_STACK:
        raise DataError("too many COW files on top of each other", where=opened[0][0].path, found=len(opened))


def _join(bottom: Layer, opened: list[tuple[DiskFile, CowHeader]], access: Access) -> CowLayer:
    below = bottom
    for disk, header in reversed(opened):
        check_pair(disk, header, below.disk, below.size_bytes, ignore_mtime=access.ignore_mtime)
        below = CowLayer(disk, header, below)
    assert isinstance(below, CowLayer)
    return below


def check_pair(
    cow: DiskFile, header: CowHeader, backing: DiskFile, backing_bytes: int, *, ignore_mtime: bool = False
) -> None:
    """Raise DataError unless the open backing file is the one that the header was written for.

    The size must be the same. So must the mtime, in whole seconds, unless it is ignored or an unfinished merge of this
    very COW file explains it (its view is right all the same).
    """
    if backing_bytes != header.size_bytes:
        raise DataError(
            "the backing file has another size than the COW file says",
            where=backing.path,
            expected=header.size_bytes,
            found=backing_bytes,
        )
    if journals.refuse_unfinished_merge(backing, unless_of=cow.path):
        return
    found = backing.mtime_seconds & 0xFFFFFFFF
    if found != header.mtime and not ignore_mtime:
        raise DataError(
            "the backing file was changed after the COW file was made",
            where=backing.path,
            expected=f"mtime {header.mtime}",
            found=f"mtime {found}",
            hint="if its contents are the same: umldisk rebase -u COW BACKING, or --ignore-mtime",
        )


def _check_reach(disk: DiskFile, header: CowHeader, access: Access) -> None:
    """Raise DataError when the file ends inside its bitmap or before the data of a changed sector."""
    geometry, file_bytes = header.geometry, disk.size_bytes
    if access.accept_truncated or disk.is_block_device or file_bytes >= geometry.file_bytes:
        return
    hint = "read what is there with --accept-truncated"
    if geometry.bitmap_bytes and file_bytes < geometry.bitmap_end:
        raise DataError(
            "the COW file is cut off inside its bitmap",
            where=disk.path,
            expected=f"at least {geometry.bitmap_end} bytes",
            found=file_bytes,
            hint=hint,
        )
    missing = first_missing_sector(CowLayer(disk, header, None))
    if missing is not None:
        raise DataError(
            "the COW file is cut off before the data of a changed sector",
            where=disk.path,
            expected=f"data of sector {missing}",
            found=f"{file_bytes} bytes",
            hint=hint,
        )


def first_missing_sector(layer: CowLayer) -> int | None:
    """Return the first changed sector whose data lies past the end of the file, or None."""
    geometry = layer.geometry
    present_bytes = max(0, layer.disk.size_bytes - geometry.data_offset)
    present = geometry.sectors if present_bytes >= geometry.size_bytes else present_bytes // geometry.sector_bytes
    for run in layer.runs(present - present % SECTORS_PER_BYTE):
        if run.end > present:
            return max(run.start, present)
    return None
