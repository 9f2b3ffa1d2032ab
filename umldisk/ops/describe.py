"""What a file is, for `info`: a COW file with all it says and stands on, a file system, swap, or nothing known.

A description is made by looking at a few KiB, plus the allocated part of a COW file's bitmap. Nothing is locked, and
nothing that is wrong with a COW file or its backing file is an error here: it is described. Judging is `check`'s part.

Paths are given as they are; whoever shows them makes them printable.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.bitmap import count
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access
from umldisk.cow.geometry import SECTORS_PER_BYTE, Geometry
from umldisk.cow.journal import MergeJournal
from umldisk.cow.layers import CowLayer, Layer
from umldisk.cow.survey import BackingState, Beside, Level, Survey, survey
from umldisk.errors import UmldiskError
from umldisk.image import ext, swap
from umldisk.image.identify import ImageKind, identify
from umldisk.image.reader import DiskReader, Reader
from umldisk.system import files, locks, sparse
from umldisk.system.files import DiskFile
from umldisk.system.locks import Holder


@dataclass(frozen=True, slots=True)
class ExtFacts:
    """What an ext file system says of itself; `size_bytes` is its own length, times are UTC in ISO form."""

    kind: str
    label: str
    uuid: str
    size_bytes: int
    block_bytes: int
    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int
    clean: bool
    has_errors: bool
    features: tuple[str, ...]
    last_mounted: str
    mount_count: int
    created: str | None
    mounted: str | None
    written: str | None


@dataclass(frozen=True, slots=True)
class SwapFacts:
    """What a swap header says."""

    label: str
    uuid: str
    size_bytes: int
    page_bytes: int
    pages: int
    bad_pages: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a disk holds: a raw image's own bytes, or what a guest sees through a COW file."""

    kind: ImageKind
    ext: ExtFacts | None = None
    swap: SwapFacts | None = None


class MergedState(Enum):
    """What became of a COW file that was merged into its backing file and kept."""

    NOTHING_SINCE = "merged, nothing written since"
    CHANGED_SINCE = "merged once, changed since"


@dataclass(frozen=True, slots=True)
class BackingFacts:
    """The file that a COW file stands on: `path` as it was looked for, `trouble` why it could not be used.

    `size_bytes` is the size of the disk it is; `mtime` in seconds. `stacked`: it is a COW file itself.
    """

    path: str
    state: BackingState
    stacked: bool
    size_bytes: int | None
    mtime: int | None
    trouble: str | None


@dataclass(frozen=True, slots=True)
class CowFacts:
    """Every field of a COW header, what follows from it, and how much is changed.

    `named_backing` is the path in the header. `alternatives` are layouts that would be plausible too. `chain` holds
    the COW files below this one.
    """

    dialect: Dialect
    label: str
    writer: str
    alternatives: tuple[Dialect, ...]
    version: int
    named_backing: bytes
    mtime: int
    size_bytes: int
    sector_bytes: int
    alignment_bytes: int | None
    geometry: Geometry
    changed_sectors: int
    changed_bytes: int
    merged: MergedState | None
    backing: BackingFacts
    chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """What a file is. `kind` is that of the file itself, `contents` that of the disk it stands for.

    `unfinished` tells of interrupted work on the file or its backing file, `holder` who has the file open.
    """

    path: str
    kind: ImageKind
    file_bytes: int
    allocated_bytes: int
    mtime: int
    cow: CowFacts | None
    contents: Contents | None
    unfinished: tuple[str, ...]
    holder: Holder | None


class LayerReader:
    """What a guest sees as a Reader, for the parsers of disk images."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at `offset`; less only at the end of the disk."""
        buffer = bytearray(max(0, min(length, self._layer.size_bytes - offset)))
        if buffer:
            self._layer.read_into(offset, memoryview(buffer))
        return bytes(buffer)


def describe(path: str | os.PathLike[str], access: Access | None = None) -> Description:
    """Describe the file. Of `access`, backing and dialect count, and only for a COW file.

    Raises NoInputError when it cannot be opened or is no regular file or block device, DataError when it begins like a
    COW file and has no believable header, StorageError when it cannot be read.
    """
    with files.open_disk(path) as disk:
        if not headers.looks_like_cow(disk.read_at(0, 4)):
            return _describe_image(disk)
    with survey(path, access) as stack:
        return _describe_cow(stack)


def _describe_image(disk: DiskFile) -> Description:
    contents = describe_contents(DiskReader(disk))
    return Description(
        path=disk.path,
        kind=contents.kind,
        file_bytes=disk.size_bytes,
        allocated_bytes=sparse.allocated_bytes(disk.fd),
        mtime=disk.mtime_seconds,
        cow=None,
        contents=contents,
        unfinished=_unfinished(disk.path, _journal_of(disk)),
        holder=_holder(disk),
    )


def _describe_cow(stack: Survey) -> Description:
    top = stack.top
    unfinished = _unfinished(top.path, top.beside) + _unfinished(top.backing_path, top.backing_beside)
    return Description(
        path=top.path,
        kind=ImageKind.COW,
        file_bytes=top.disk.size_bytes,
        allocated_bytes=sparse.allocated_bytes(top.disk.fd),
        mtime=top.disk.mtime_seconds,
        cow=_cow_facts(stack),
        contents=None if stack.view is None else describe_contents(LayerReader(stack.view)),
        unfinished=unfinished,
        holder=_holder(top.disk),
    )


def _cow_facts(stack: Survey) -> CowFacts:
    top = stack.top
    header = top.header
    sectors = top.layer.changed_sectors()
    return CowFacts(
        dialect=header.dialect,
        label=header.dialect.label,
        writer=header.dialect.writer,
        alternatives=header.alternatives,
        version=header.dialect.version,
        named_backing=header.backing_path,
        mtime=header.mtime,
        size_bytes=header.size_bytes,
        sector_bytes=header.sector_bytes,
        alignment_bytes=header.alignment_bytes if header.dialect.has_alignment else None,
        geometry=top.geometry,
        changed_sectors=sectors,
        changed_bytes=sectors * header.sector_bytes - _missing_from_last_sector(top.layer),
        merged=_merged(top),
        backing=_backing_facts(top),
        chain=tuple(level.path for level in stack.levels[1:]),
    )


def _missing_from_last_sector(layer: CowLayer) -> int:
    """Return how much shorter than a sector the last one is, if it is changed."""
    geometry = layer.geometry
    missing = geometry.sectors * geometry.sector_bytes - geometry.size_bytes
    if not missing or geometry.mapped_sectors < geometry.sectors:
        return 0
    last = geometry.sectors - 1
    byte = layer.disk.read_at(geometry.bitmap_offset + last // SECTORS_PER_BYTE, 1)
    return missing if count(byte) and byte[0] >> last % SECTORS_PER_BYTE & 1 else 0


def _merged(level: Level) -> MergedState | None:
    stamp = level.header.merged_ns
    if stamp is None:
        return None
    untouched = stamp == level.disk.status.st_mtime_ns
    return MergedState.NOTHING_SINCE if untouched else MergedState.CHANGED_SINCE


def _backing_facts(level: Level) -> BackingFacts:
    usable = level.backing is not None and level.state is not BackingState.LOOP
    return BackingFacts(
        path=level.backing_path,
        state=level.state,
        stacked=level.stacked,
        size_bytes=level.layer.below.size_bytes if usable else None,
        mtime=level.backing.mtime_seconds if level.backing is not None else None,
        trouble=None if level.trouble is None else level.trouble.what,
    )


def describe_contents(reader: Reader) -> Contents:
    """Say what a disk holds."""
    kind = identify(reader)
    if kind in (ImageKind.EXT2, ImageKind.EXT3, ImageKind.EXT4):
        return Contents(kind, ext=_ext_facts(ext.read_superblock(reader)))
    if kind is ImageKind.SWAP:
        return Contents(kind, swap=_swap_facts(swap.read_header(reader)))
    return Contents(kind)


def _ext_facts(block: ext.Superblock) -> ExtFacts:
    return ExtFacts(
        kind=block.kind,
        label=block.label,
        uuid=str(block.uuid),
        size_bytes=block.size_bytes,
        block_bytes=block.block_bytes,
        blocks=block.blocks,
        free_blocks=block.free_blocks,
        inodes=block.inodes,
        free_inodes=block.free_inodes,
        clean=block.clean,
        has_errors=block.has_errors,
        features=block.features,
        last_mounted=block.last_mounted,
        mount_count=block.mount_count,
        created=_iso(block.created),
        mounted=_iso(block.mounted),
        written=_iso(block.written),
    )


def _swap_facts(header: swap.SwapHeader) -> SwapFacts:
    return SwapFacts(
        label=header.label,
        uuid=str(header.uuid),
        size_bytes=header.size_bytes,
        page_bytes=header.page_bytes,
        pages=header.pages,
        bad_pages=len(header.bad_pages),
    )


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _journal_of(disk: DiskFile) -> Beside:
    try:
        return Beside(journals.read(disk.path))
    except UmldiskError as error:
        return Beside(None, error)


def _unfinished(path: str, beside: Beside) -> tuple[str, ...]:
    if beside.trouble is not None:
        return (f"the note beside {path} does not fit: {beside.trouble.what}",)
    if isinstance(beside.journal, MergeJournal):
        return (f"a merge of {beside.journal.cow} into {path}",)
    return () if beside.journal is None else (f"the rewriting of the header of {path}",)


def _holder(disk: DiskFile) -> Holder | None:
    with contextlib.suppress(OSError):  # a file system without locks has no holders
        return locks.holder(disk.fd, exclusive=True)
    return None
