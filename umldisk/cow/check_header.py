"""Findings about what a header says, and what the kernel makes of it.

The kernel's side is arch/um/drivers/cow_user.c and ubd_kern.c of Linux 6.1 on x86: it reads version 1 in the machine's
byte order and version 2 in one layout only, takes sectors of 512 bytes for granted whatever the header says, and keeps
the data's offset in an int. The option ubd is split at commas and colons; before that the whole command line of 4096
bytes is split at blanks, of which byte 0xa0 is one (lib/ctype.c), unless they stand in double quotes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from umldisk.cow.dialect import Dialect, Placement
from umldisk.cow.findings import Finding, Severity, finding
from umldisk.cow.survey import Level
from umldisk.system.transfer import PAGE_BYTES

_BOOTABLE = (Dialect.V1_LITTLE, Dialect.V2, Dialect.V3, Dialect.V3_64)
_KERNEL_SECTOR_BYTES = 512
_LARGEST_INT = (1 << 31) - 1
_TINY_SECTORS = 64
_SEPARATORS = b',:"'
_BLANKS = b" \t\n\v\f\r\xa0"
_COMMAND_LINE_BYTES = 4096
_NEW_COW = "merge it into a new image and make a new COW file: umldisk merge COW NEW"


def dialect(level: Level) -> Iterator[Finding]:
    """Layouts that the kernel does not read, or treats badly."""
    header = level.header
    if header.dialect not in _BOOTABLE:
        yield finding(
            "dialect-unbootable",
            f"the kernel does not read the layout {header.dialect.label} ({header.dialect.value})",
            where=level.path,
            hint=_NEW_COW,
        )
    elif header.dialect.placement is Placement.V1_V2:
        yield finding(
            "old-dialect",
            f"{header.dialect.label}: a guest started with another backing file than the header's destroys the file",
            where=level.path,
            hint="start guests with the COW file alone, as in ubd0=COW",
        )


def ambiguous_dialect(level: Level) -> Iterator[Finding]:
    """Layouts that are as plausible as the one chosen."""
    header = level.header
    if header.alternatives:
        others = ", ".join(other.value for other in header.alternatives)
        yield finding(
            "ambiguous-dialect",
            f"read as {header.dialect.value}, whose backing file fits; the header could also be {others}",
            where=level.path,
            hint="choose one with --dialect",
        )


def sector_size(level: Level) -> Iterator[Finding]:
    """Sectors that the kernel counts differently."""
    if level.header.sector_bytes != _KERNEL_SECTOR_BYTES:
        yield finding(
            "sector-size",
            f"sectors of {level.header.sector_bytes} bytes, where the kernel counts in {_KERNEL_SECTOR_BYTES}",
            where=level.path,
            hint=_NEW_COW,
        )


def alignment(level: Level) -> Iterator[Finding]:
    """Data that does not begin at a page of the file, or does by chance only."""
    offset, grain = level.geometry.data_offset, level.header.alignment_bytes
    chosen = level.header.dialect.has_alignment
    if offset % PAGE_BYTES or (chosen and grain < PAGE_BYTES):
        effect = ": discarding frees less room, and nothing can be shared" if offset % PAGE_BYTES else ""
        yield finding(
            "alignment",
            f"aligned to {grain} bytes, less than a page; the data begins at byte {offset}{effect}",
            where=level.path,
            severity=None if chosen else Severity.NOTE,
            hint=_NEW_COW,
        )


def data_offset(level: Level) -> Iterator[Finding]:
    """A bitmap so long that the kernel cannot reach what is behind it."""
    if level.geometry.data_offset > _LARGEST_INT:
        yield finding(
            "data-offset",
            f"the data begins at byte {level.geometry.data_offset}, past the {_LARGEST_INT} that the kernel can hold",
            where=level.path,
        )


def disk_size(level: Level) -> Iterator[Finding]:
    """Sizes that the kernel has trouble with."""
    geometry = level.geometry
    if 0 < geometry.size_bytes <= _TINY_SECTORS * _KERNEL_SECTOR_BYTES:
        yield finding(
            "tiny-disk",
            f"{geometry.size_bytes} bytes: the first write to a disk of at most {_TINY_SECTORS} sectors hangs a guest",
            where=level.path,
        )
    if geometry.mapped_sectors < geometry.sectors:
        yield _tail_sectors(level)
    if geometry.size_bytes % _KERNEL_SECTOR_BYTES:
        yield finding(
            "partial-last-sector",
            f"{geometry.size_bytes} bytes are no whole sectors; a guest sees a disk that ends with its last sector",
            where=level.path,
        )


def _tail_sectors(level: Level) -> Finding:
    geometry = level.geometry
    touching = geometry.bitmap_end == geometry.data_offset
    return finding(
        "tail-sectors",
        f"the last {geometry.sectors - geometry.mapped_sectors} sectors have no bit: what a guest writes to them is "
        f"lost{' and damages sector 0' if touching else ''}",
        where=level.path,
        hint=_NEW_COW,
        sector=geometry.mapped_sectors,
        count=geometry.sectors - geometry.mapped_sectors,
    )


def ubd_path(level: Level) -> Iterator[Finding]:
    """Names that cannot be said on UML's command line. The backing file's need not be: it stands in the header."""
    cow = os.fsencode(os.path.abspath(level.path))
    backing = os.fsencode(level.backing_path)
    yield from _unspeakable(level.path, cow, "rename it, or start UML in another directory", Severity.ERROR)
    yield from _unspeakable(level.backing_path, backing, "name the COW file alone, as in ubd0=COW", Severity.WARNING)
    both = len(b"ubd0=,") + len(cow) + len(backing)
    if both >= _COMMAND_LINE_BYTES:
        yield finding(
            "ubd-path",
            f"with both paths the option has {both} bytes, and UML's whole command line holds {_COMMAND_LINE_BYTES}",
            where=level.path,
            hint="name the COW file alone, or start UML in its directory",
            severity=Severity.WARNING,
        )


def _unspeakable(where: str, path: bytes, hint: str, severity: Severity) -> Iterator[Finding]:
    """Split characters are final; blanks can be saved by quotes."""
    bad = sorted({chr(byte) for byte in path if byte in _SEPARATORS})
    blanks = [byte for byte in path if byte in _BLANKS]
    if bad:
        message = f"the path holds {' '.join(bad)}, where the option ubd is split"
        yield finding("ubd-path", message, where=where, hint=hint, severity=severity)
    elif blanks:
        kind = "a blank" if 0xA0 not in blanks else "the byte 0xa0, a blank to the kernel"
        message = f"the path holds {kind}, where UML's command line is split"
        hint = f'{hint}, or quote it for the kernel: ubd0="..."'
        yield finding("ubd-path", message, where=where, hint=hint, severity=Severity.WARNING)


def relative_backing(level: Level) -> Iterator[Finding]:
    """A path that means one file to umldisk and may mean another to a guest."""
    named = level.header.backing_path
    if not named.startswith(b"/"):
        yield finding(
            "relative-backing",
            f"the header names {os.fsdecode(named)!r}, which umldisk seeks from the COW file's directory and UML from "
            "where it is started",
            where=level.path,
            hint="write the whole path: umldisk rebase -u COW BACKING",
        )


def merged(level: Level) -> Iterator[Finding]:
    """A COW file that a destructive merge left behind and nobody has written to since."""
    if level.header.merged_ns is not None and level.header.merged_ns == level.disk.status.st_mtime_ns:
        yield finding(
            "merged",
            "merged into its backing file, and nothing was written to it since",
            where=level.path,
            hint="it can be removed, or emptied with: umldisk merge -d --reset COW",
        )


def on_tmpfs(level: Level) -> Iterator[Finding]:
    """A file system on which punching holes fails the kernel."""
    if _file_system_type(level.disk.status.st_dev) == "tmpfs":
        yield finding(
            "on-tmpfs",
            "on tmpfs the kernel never notes what a guest discards or zeroes: after a restart the old data is back",
            where=level.path,
            hint="keep COW files on a real file system",
        )


def _file_system_type(device: int) -> str | None:
    """Return the type of the file system with that device number; see proc_pid_mountinfo(5)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                fields = line.split()
                if fields[2] == wanted:
                    return fields[fields.index("-") + 1]
    except (OSError, ValueError, IndexError):
        pass
    return None
