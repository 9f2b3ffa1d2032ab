"""A base that is an image of an ext2, ext3 or ext4 file system, plain or packed; nothing is mounted.

    root_fs        ──────────────────────────▶ Volume ──▶ entries in the order of their paths
    root_fs.bz2, - ──▶ unnamed scratch file ─▶

A packed image has to be unpacked first, because a file system cannot be read from front to back; pages of zeros become
holes on the way. The scratch file has no name, so that nothing remains of it however the process ends. A plain one is
read where it is, under the read lock that a guest takes on a backing file.

What the journal holds and nobody replayed would be missing without a word, so such an image is refused. All that is in
the file system is kept, but for its own lost+found as mke2fs makes it: the new disks get theirs. Two names of one inode
are hard links, whatever the inode counts. The digest is that of the file as the user has it, what sha256sum prints; a
plain one is read a second time for it, but for its holes.

Attributes that only special kernels make (richacl, lustre) are refused rather than lost; flags of inodes (immutable,
append only, casefold) are no part of an entry.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from umldisk.build.bases import pax
from umldisk.build.bases.base import Origin
from umldisk.build.bases.compression import CHUNK_BYTES, STDIN, Archive, open_archive
from umldisk.build.tree import EMPTY, Entry, FileType, HardLink, Inode, path_text
from umldisk.errors import DataError, from_os_error
from umldisk.image import ext
from umldisk.image.extfs.inode import ExtInode
from umldisk.image.extfs.volume import Volume
from umldisk.image.identify import ImageKind, identify
from umldisk.image.reader import DiskReader, Reader
from umldisk.system import locks, sparse, transfer
from umldisk.system.digest import contents_sha256
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.staging import nameless
from umldisk.system.swapping import explained

START_BYTES = 2048
"""How much of a file `is_disk_image` looks at."""

_LOST_AND_FOUND = "/lost+found"
_EMPTY_LOST_AND_FOUND = (stat.S_IFDIR | 0o700, 0, 0)


class ImageBase:
    """The files of an ext image; `source` is its path, or "-" for the standard input.

    `scratch` is a directory with room for a packed image, unpacked. `archive` is the source where it was opened already
    and only peeked into; it belongs to the base from then on. Raises NoInputError when there is no such file, DataError
    when it is no ext file system or its journal was not replayed, and BusyError when a guest writes to it.
    """

    def __init__(self, source: str, *, scratch: str, archive: Archive | None = None) -> None:
        self._source = source
        with archive or open_archive(source) as opened:
            _require_ext(_Start(opened.peek(START_BYTES)), opened.name)
            self._disk, self._sha256 = _open_readable(opened, scratch)
            try:
                self._volume = _open_volume(DiskReader(self._disk), opened.name)
            except BaseException:
                self._disk.close()
                raise

    @property
    def origin(self) -> Origin:
        """What was read; complete after the last entry."""
        return Origin("ext", self._source, self._sha256)

    def entries(self) -> Iterator[Entry | HardLink]:
        """Yield every path, sorted, parents first; raises DataError for what is damaged or cannot be kept."""
        first: dict[int, str] = {}
        maker = _InodeMaker(self._volume, self._disk.path)
        for path, number, is_directory in self._volume.names():
            inode = self._volume.inode(number)
            if inode.is_directory != is_directory:
                where = f"{self._disk.path}, inode {number}"
                raise DataError(
                    "a directory has a wrong file type", where=where, found=path, hint="run e2fsck -f on it"
                )
            if path == _LOST_AND_FOUND and self._is_empty_lost_and_found(inode):
                continue
            if not is_directory and first.setdefault(number, path) != path:
                yield HardLink(path, first[number])
            else:
                yield Entry(path, maker.make(path, inode))
        self._sha256 = self._sha256 or _sha256(self._disk)

    def _is_empty_lost_and_found(self, inode: ExtInode) -> bool:
        return (inode.mode, inode.uid, inode.gid) == _EMPTY_LOST_AND_FOUND and not self._volume.children(inode)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.close()


def is_disk_image(start: bytes) -> bool:
    """Whether a file that begins with these START_BYTES, unpacked, is a disk and nothing else that a base can be.

    That is an ext file system, and what ImageBase refuses with an explanation: COW files and disks with partitions.
    """
    reader = _Start(start)
    return ext.has_magic(reader) or identify(reader) is ImageKind.COW or _is_partitioned(reader)


class _Start:
    """The first bytes of a disk as a Reader."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]


def _is_partitioned(reader: Reader) -> bool:
    return reader.read(512, 8) == b"EFI PART" or reader.read(510, 2) == b"\x55\xaa"


def _require_ext(reader: Reader, where: str) -> None:
    if identify(reader) is ImageKind.COW:
        hint = "make an image of it first: umldisk merge COW NEW"
        raise DataError("the base is a COW file, which holds only what a guest changed", where=where, hint=hint)
    if ext.has_magic(reader):
        return
    if _is_partitioned(reader):
        hint = "copy the partition that holds the root file system into a file of its own, and use that"
        raise DataError("the base is a disk with partitions", where=where, expected="one file system", hint=hint)
    raise DataError("the base is no image that can be read", where=where, expected="ext2, ext3 or ext4")


def _open_volume(reader: Reader, where: str) -> Volume:
    volume = Volume.open(reader, where=where)
    if volume.needs_recovery:
        hint = "run e2fsck -p on the image (unpacked), or stop the guest that uses it"
        raise DataError("the journal of the base holds changes that were not replayed", where=where, hint=hint)
    return volume


def _open_readable(archive: Archive, scratch: str) -> tuple[DiskFile, str | None]:
    """Return the image as a file that can be read anywhere, and its digest where that is known already."""
    source = archive.source
    if archive.compression or source == STDIN or Path(source).is_fifo():
        return _unpack(archive, scratch), archive.sha256
    disk = open_disk(source)
    try:
        locks.lock(disk.fd, source, exclusive=False)
    except BaseException:
        disk.close()
        raise
    return disk, None


def _unpack(archive: Archive, scratch: str) -> DiskFile:
    """Write the image into a file without a name, pages of zeros as holes."""
    with contextlib.ExitStack() as unfinished:
        image, end = unfinished.enter_context(nameless(scratch, called=archive.name)), 0
        with explained("unpack the image into a scratch file", scratch):
            while chunk := archive.read(CHUNK_BYTES):
                for start, stop in transfer.nonzero_spans(chunk, len(chunk)):
                    transfer.write_all(image.fd, end + start, memoryview(chunk)[start:stop])
                end += len(chunk)
            os.ftruncate(image.fd, end)
        unfinished.pop_all()
        return image


def _sha256(disk: DiskFile) -> str:
    """Return what sha256sum says of the image."""
    try:
        return contents_sha256(_pieces(disk), disk.size_bytes).hex()
    except OSError as error:
        raise from_os_error(error, "read", disk.path) from error


def _pieces(disk: DiskFile) -> Iterator[tuple[int, bytes]]:
    for start, end in sparse.data_extents(disk.fd, 0, disk.size_bytes):
        for offset in range(start, end, CHUNK_BYTES):
            yield offset, disk.read_at(offset, min(CHUNK_BYTES, end - offset))


class _InodeMaker:
    """Makes inodes of a tree from those of a volume."""

    def __init__(self, volume: Volume, where: str) -> None:
        self._volume = volume
        self._where = where
        self._meter = _Meter(volume, where)
        self._xattrs: dict[tuple[tuple[str, bytes], ...], tuple[tuple[str, bytes], ...]] = {}

    def make(self, path: str, inode: ExtInode) -> Inode:
        """Return what `path` leads to."""
        kind = FileType(stat.S_IFMT(inode.mode))
        target = self._volume.symlink_target(inode) if kind is FileType.SYMLINK else b""
        return Inode(
            kind,
            stat.S_IMODE(inode.mode),
            inode.uid,
            inode.gid,
            inode.mtime_ns,
            contents=_FileContents(self._volume, inode, self._meter) if kind is FileType.FILE else EMPTY,
            target=path_text(target),
            device=inode.device,
            xattrs=self._kept_xattrs(path, inode),
        )

    def _kept_xattrs(self, path: str, inode: ExtInode) -> tuple[tuple[str, bytes], ...]:
        xattrs = self._volume.xattrs(inode)
        for name, _value in xattrs:
            if not pax.is_kept(name):
                raise DataError("an extended attribute cannot be kept", where=f"{self._where}, {path}", found=name)
        return self._xattrs.setdefault(xattrs, xattrs)  # labels are few and files are many


class _Meter:
    """Counts what all files hold together: more than the file system only where blocks belong to several files.

    Without it a small damaged image could fill the disk of the builder.
    """

    def __init__(self, volume: Volume, where: str) -> None:
        self._where = where
        self._size_bytes = volume.size_bytes
        self._left_bytes = volume.size_bytes
        self._is_shared = "shared_blocks" in volume.features

    def count(self, amount: int) -> None:
        """Count bytes of a file, when they are read for the first time."""
        self._left_bytes -= amount
        if self._left_bytes < 0 and not self._is_shared:
            expected = f"at most {self._size_bytes} bytes"
            what = "the files of the base hold more than its file system can"
            raise DataError(what, where=self._where, expected=expected, hint="run e2fsck -f on it")


class _FileContents:
    """The contents of a regular file in a volume."""

    def __init__(self, volume: Volume, inode: ExtInode, meter: _Meter) -> None:
        self._volume = volume
        self._inode = inode
        self._meter = meter
        self._counted = 0

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self._inode.size_bytes

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield what the file system holds of it; allocated zeros are yielded, holes are not."""
        for offset, data in self._volume.pieces(self._inode):
            if offset >= self._counted:
                self._meter.count(len(data))
                self._counted = offset + len(data)
            yield offset, data
