"""Making an empty COW file: a header that names the backing file, and room for what will change.

    header (path, size and mtime of the backing file) ── bitmap, all hole ── data, all hole ── end

The result is what uml_mkcow makes, in any of the nine dialects: sectors of 512 bytes, in version 3
an alignment of 4096, the path absolute, the file as long as header, bitmap and disk together. It
takes a few kilobytes whatever the disk's size.

Invariants. The COW file appears whole or not at all. A COW file that it replaces is locked first,
so that no guest keeps writing to a file without a name, and hands on its mode and owner. The
backing file is one that UML can use: a COW file is refused, because the kernel would show its guest
that file's raw bytes instead of the disk in it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.header import DEFAULT_SECTOR_BYTES, CowHeader
from umldisk.cow.output import held_output
from umldisk.errors import DataError
from umldisk.system import files, locks, staging
from umldisk.system.files import DiskFile

_PERMISSIONS = 0o644
"""What UML and uml_mkcow ask for when they make a COW file; the umask takes its part."""


@dataclass(frozen=True, slots=True)
class CreateReport:
    """The COW file that was made, or with `dry_run` would be.

    `backing` and `mtime` (seconds, unsigned 32 bit) are as they stand in the header.
    """

    cow: str
    backing: str
    size_bytes: int
    dialect: Dialect
    mtime: int
    dry_run: bool


def create(
    cow: str | os.PathLike[str],
    backing: str | os.PathLike[str],
    *,
    dialect: Dialect = Dialect.V3,
    replace: bool = False,
    sync: bool = True,
    dry_run: bool = False,
) -> CreateReport:
    """Make `cow`, an empty COW file over the disk image or block device `backing`.

    Raises NoInputError (no such backing file, or one of a wrong type), DataError (it is a COW file
    or `cow` itself, is in the middle of a merge, or its size or path does not fit in `dialect`),
    CannotCreateError (`cow` exists and `replace` is false) and BusyError (one of them is in use).
    """
    with open_backing(backing, cow=cow) as base:
        header = new_header(dialect, base, where=os.fspath(cow))
        if dry_run:
            with held_output(cow, replace=replace):
                pass
        else:
            with new_cow(cow, header, replace=replace, sync=sync):
                pass
        return CreateReport(
            cow=os.fspath(cow),
            backing=os.fsdecode(header.backing_path),
            size_bytes=header.size_bytes,
            dialect=dialect,
            mtime=header.mtime,
            dry_run=dry_run,
        )


@contextlib.contextmanager
def open_backing(path: str | os.PathLike[str], *, cow: str | os.PathLike[str]) -> Iterator[DiskFile]:
    """Open and read-lock `path` as the backing file of `cow`, if UML could use it as one.

    Raises NoInputError, BusyError, and DataError when it is a COW file, `cow` itself under any
    name, or in the middle of a merge.
    """
    with files.open_disk(path) as disk:
        refuse_itself(disk, cow)
        locks.lock(disk.fd, disk.path, exclusive=False)
        if headers.looks_like_cow(disk.read_at(0, 4)):
            raise DataError(
                "the backing file is a COW file itself, which UML would show to its guest as it is",
                where=disk.path,
                hint=f"merge it into an image first: umldisk merge {disk.path} NEW",
            )
        journals.refuse_unfinished_merge(disk)
        yield disk


def refuse_itself(backing: DiskFile, cow: str | os.PathLike[str]) -> None:
    """Raise DataError when `cow` leads to the open backing file."""
    if files.identify(cow) == backing.identity:
        raise DataError("a COW file cannot be its own backing file", where=os.fspath(cow), found=backing.path)


def absolute_path(path: str | os.PathLike[str]) -> bytes:
    """Return a backing file's path as UML puts it into headers.

    Its directory is resolved; a symlink as its last part stays, so that it can be pointed elsewhere
    (absolutize() in the kernel's arch/um/drivers/cow_user.c).
    """
    directory, name = os.path.split(os.fspath(path))
    return os.fsencode(os.path.join(os.path.realpath(directory), name))


def new_header(dialect: Dialect, backing: DiskFile, *, where: str) -> CowHeader:
    """Make the header of a new COW file at `where` over the open backing file.

    Raises DataError when the dialect cannot hold the path or a disk of that size.
    """
    size_bytes = backing.size_bytes
    uneven = size_bytes == 0 or size_bytes % DEFAULT_SECTOR_BYTES
    if dialect.placement is Placement.QEMU and uneven:
        raise DataError(
            f"a COW file of {dialect.label} holds whole sectors only",
            where=backing.path,
            expected=f"a multiple of {DEFAULT_SECTOR_BYTES} bytes, not 0",
            found=size_bytes,
        )
    return headers.build(
        dialect,
        backing_path=absolute_path(backing.path),
        mtime=backing.mtime_seconds,
        size_bytes=size_bytes,
        where=where,
    )


@contextlib.contextmanager
def new_cow(path: str | os.PathLike[str], header: CowHeader, *, replace: bool, sync: bool) -> Iterator[DiskFile]:
    """Give an empty COW file with this header that becomes `path` when the block ends well."""
    with held_output(path, replace=replace) as replaced:
        with staging.staged(path, replace=replace, sync=sync, like=replaced) as stage:
            if replaced is None:
                os.fchmod(stage.fd, stat.S_IMODE(stage.status.st_mode) & _PERMISSIONS)
            stage.write_at(0, header.raw)
            os.ftruncate(stage.fd, header.geometry.file_bytes)
            yield stage
        if replaced is not None:
            # Only now: until the new file was there, a torn header of the old one needed it.
            journals.remove(os.fspath(path), sync=sync)
