"""A COW file and all it stands on, opened only to be looked at.

`CowFile.open` refuses a stack with anything wrong in it, which is right for work and useless for whoever wants to know
what is wrong. A survey takes no locks, follows the stack as far as it goes and keeps what is amiss as facts:

    levels[0]    the COW file, with the state of the pair it makes with what it names as backing file
    levels[1]    that backing file, if it is a COW file itself, with the state of its pair
    ...
    view         what a guest would see through all of them; None when a file of the stack is not there

Only the COW file itself must open and have a believable header. A file that is cut off is followed like any other: what
is missing reads as zeros and unchanged, as UML has it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.detect import detect
from umldisk.cow.file import Access, backing_path_of, read_header
from umldisk.cow.geometry import Geometry
from umldisk.cow.header import CowHeader
from umldisk.cow.journal import HeaderJournal, Journal, MergeJournal
from umldisk.cow.layers import CowLayer, Layer, RawLayer
from umldisk.errors import NoInputError, UmldiskError
from umldisk.system import files
from umldisk.system.files import DiskFile

_DEEPEST_STACK = 64


class BackingState(Enum):
    """How a COW file and its backing file go together."""

    FITS = "fits"
    MISSING = "missing"
    DAMAGED = "damaged"
    LOOP = "loop"
    OTHER_SIZE = "other size"
    OTHER_MTIME = "other mtime"
    MERGING = "unfinished merge"


@dataclass(frozen=True, slots=True)
class Beside:
    """The journal beside a file; `trouble` says why one that is there cannot be believed."""

    journal: Journal | None = None
    trouble: UmldiskError | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One COW file of the stack and what it makes of its backing file.

    `backing` is None when it is MISSING or DAMAGED, and `trouble` then says why. `beside` and `backing_beside` are the
    journals of the two files.
    """

    layer: CowLayer
    beside: Beside
    backing_path: str
    backing: DiskFile | None
    backing_beside: Beside
    state: BackingState
    trouble: UmldiskError | None
    stacked: bool

    @property
    def disk(self) -> DiskFile:
        """The open COW file."""
        return self.layer.disk

    @property
    def header(self) -> CowHeader:
        """The header's fields."""
        return self.layer.header

    @property
    def geometry(self) -> Geometry:
        """Where bitmap and data lie."""
        return self.layer.geometry

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self.layer.disk.path


@dataclass(frozen=True, slots=True)
class Survey:
    """The stack, top first; `view` is None when nobody could read through it."""

    levels: tuple[Level, ...]
    view: Layer | None

    @property
    def top(self) -> Level:
        """The COW file that was asked about."""
        return self.levels[0]


@dataclass(frozen=True, slots=True)
class _Opened:
    disk: DiskFile
    header: CowHeader
    beside: Beside
    backing_path: str


@dataclass(frozen=True, slots=True)
class _Bottom:
    """What lies below the last COW file: a disk image, or the reason why there is none."""

    disk: DiskFile | None = None
    state: BackingState | None = None
    trouble: UmldiskError | None = None


@contextlib.contextmanager
def survey(path: str | os.PathLike[str], access: Access | None = None) -> Iterator[Survey]:
    """Open the COW file `path` and what it stands on; of `access` backing, dialect and ignore_mtime count.

    Raises NoInputError when the file itself cannot be opened, DataError when it has no believable header.
    """
    access = access or Access()
    with ExitStack() as resources:
        opened, bottom = _descend(os.fspath(path), access, resources)
        yield _join(opened, bottom, access)


def _descend(path: str, access: Access, resources: ExitStack) -> tuple[list[_Opened], _Bottom]:
    opened = [_open_cow(resources.enter_context(files.open_disk(path)), access)]
    while True:
        name = opened[-1].backing_path
        try:
            disk = resources.enter_context(files.open_disk(name))
        except UmldiskError as error:
            state = BackingState.MISSING if isinstance(error, NoInputError) else BackingState.DAMAGED
            return opened, _Bottom(None, state, error)
        if len(opened) >= _DEEPEST_STACK or any(disk.identity == above.disk.identity for above in opened):
            return opened, _Bottom(disk, BackingState.LOOP)
        try:
            if not headers.looks_like_cow(disk.read_at(0, 4)):
                return opened, _Bottom(disk)
            opened.append(_open_cow(disk, Access()))
        except UmldiskError as error:
            return opened, _Bottom(None, BackingState.DAMAGED, error)


def _open_cow(disk: DiskFile, access: Access) -> _Opened:
    backing = None if access.backing is None else os.fspath(access.backing)
    beside = _look_beside(disk)
    if beside.trouble is None:
        header = read_header(disk, dialect=access.dialect, backing=backing)
    else:
        raw = disk.read_at(0, headers.HEADER_READ_BYTES)
        header = detect(raw, file_bytes=disk.size_bytes, where=disk.path, wanted=access.dialect)
    return _Opened(disk, header, beside, backing_path_of(disk, header) if backing is None else backing)


def _look_beside(disk: DiskFile) -> Beside:
    """Find the journal of `disk`, and whether it can be this file's."""
    try:
        pending = journals.read(disk.path)
        if isinstance(pending, HeaderJournal):
            pending.mend(disk.read_at(0, headers.HEADER_READ_BYTES), where=disk.path)
    except UmldiskError as error:
        return Beside(None, error)
    return Beside(pending)


def _join(opened: list[_Opened], bottom: _Bottom, access: Access) -> Survey:
    whole = bottom.disk is not None and bottom.state is None
    below: Layer | None = RawLayer(bottom.disk) if whole and bottom.disk else None
    under = bottom
    levels: list[Level] = []
    for one in reversed(opened):
        level = _level(one, under, below, ignore_mtime=access.ignore_mtime)
        levels.insert(0, level)
        below, under = level.layer, _Bottom(one.disk)
    return Survey(tuple(levels), levels[0].layer if whole else None)


def _level(one: _Opened, under: _Bottom, below: Layer | None, *, ignore_mtime: bool) -> Level:
    beside = Beside() if under.disk is None else _look_beside(under.disk)
    state, trouble = under.state, under.trouble
    if state is None and under.disk is not None and below is not None:
        state = _pair_state(one, under.disk, below.size_bytes, beside, ignore_mtime=ignore_mtime)
    return Level(
        layer=CowLayer(one.disk, one.header, below),
        beside=one.beside,
        backing_path=one.backing_path,
        backing=under.disk,
        backing_beside=beside,
        state=state or BackingState.MISSING,
        trouble=trouble,
        stacked=isinstance(below, CowLayer),
    )


def _pair_state(
    cow: _Opened, backing: DiskFile, backing_bytes: int, beside: Beside, *, ignore_mtime: bool
) -> BackingState:
    """Judge a pair as `check_pair` does, without raising."""
    if backing_bytes != cow.header.size_bytes:
        return BackingState.OTHER_SIZE
    if isinstance(beside.journal, MergeJournal):
        return BackingState.MERGING
    if backing.mtime_seconds & 0xFFFFFFFF != cow.header.mtime and not ignore_mtime:
        return BackingState.OTHER_MTIME
    return BackingState.FITS


def utc(seconds: int) -> str:
    """Return a time of change for people, and in the seconds that headers and messages of the kernel have."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC ({seconds})"
    except (ValueError, OverflowError, OSError):  # a year that the calendar does not have
        return str(seconds)
