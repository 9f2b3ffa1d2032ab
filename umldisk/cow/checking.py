"""Looking a COW file over: everything that is wrong with it, or soon will be, worst first.

The file is opened leniently (see `survey`) and nothing is locked or changed. Each kind of finding is a small function
in one of the three tables below; what only other packages can know comes as *probes* over the merged view. The bitmap
is walked through a window, so that memory and time follow what is allocated and not the size of the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from umldisk.cow import check_backing, check_bitmap, check_header
from umldisk.cow.file import Access
from umldisk.cow.findings import CheckReport, Finding
from umldisk.cow.layers import Layer
from umldisk.cow.survey import Level, Survey, survey
from umldisk.errors import from_os_error

__all__ = ["CheckReport", "Finding", "Probe", "check"]

Probe = Callable[[Layer], Iterable[Finding]]
"""Looks at what a guest would see and says what is wrong with it."""

Finder = Callable[[Level], Iterable[Finding]]

_AS_A_GUEST_SEES_IT: tuple[Finder, ...] = (
    check_bitmap.mixed_pages,
    check_header.dialect,
    check_header.ambiguous_dialect,
    check_header.sector_size,
    check_header.alignment,
    check_header.data_offset,
    check_header.disk_size,
    check_header.ubd_path,
    check_header.relative_backing,
    check_header.on_tmpfs,
    check_backing.stacked,
)
"""Asked of the COW file alone: no guest meets those below it."""

_AS_IT_LIES_THERE: tuple[Finder, ...] = (
    check_backing.locked,
    check_backing.siblings,
    check_header.merged,
    check_bitmap.short_file,
)
"""Asked of the COW file alone: of no consequence further down."""

_AS_A_LAYER: tuple[Finder, ...] = (
    check_backing.backing_state,
    check_backing.unfinished_header,
    check_backing.foreign_journal,
    check_backing.backing_locked,
    check_bitmap.cuts,
    check_bitmap.bits_past_end,
)
"""Asked of every COW file of a stack."""


def check(path: str | os.PathLike[str], *, access: Access | None = None, probes: Sequence[Probe] = ()) -> CheckReport:
    """Look the COW file over. Of `access`, backing, dialect and ignore_mtime count; `probes` see the merged view.

    Raises NoInputError when the file cannot be opened, DataError when it has no believable COW header, StorageError
    when reading fails; whatever else is wrong is in the report.
    """
    with survey(path, access) as stack:
        try:
            return CheckReport.of(os.fspath(path), _look_over(stack, probes))
        except OSError as error:
            raise from_os_error(error, "read", path) from error


def _look_over(stack: Survey, probes: Sequence[Probe]) -> Iterator[Finding]:
    for level in stack.levels:
        for find in _AS_A_LAYER:
            yield from find(level)
    for find in (*_AS_A_GUEST_SEES_IT, *_AS_IT_LIES_THERE):
        yield from find(stack.top)
    if stack.view is not None:
        for probe in probes:
            yield from probe(stack.view)
