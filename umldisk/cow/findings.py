"""What `check` can find: a code that never changes its meaning, how bad it is, and what to do.

    ERROR      the data are damaged, the guest would be refused its disk or read it wrongly, or a guest that writes is
               certain to run into trouble
    WARNING    it goes wrong under some circumstances, which the message names
    NOTE       good to know; nothing is wrong

Scripts tell findings by their code. The sentences in CODES are its documentation; a message says the same about one
file, with numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """The place in a list that begins with the worst."""
        return _WORST_FIRST.index(self)


_WORST_FIRST = (Severity.ERROR, Severity.WARNING, Severity.NOTE)


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for; `severity` is the highest that its findings have."""

    severity: Severity
    meaning: str


_ERROR, _WARNING, _NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

CODES: dict[str, Code] = {
    # the bitmap and the data
    "mixed-pages": Code(_ERROR, "Pages of 4 KiB hold changed and unchanged sectors; the kernel reads these wrongly."),
    "bitmap-cut": Code(_ERROR, "The file ends inside its bitmap; the sectors that lack a bit count as unchanged."),
    "data-cut": Code(_ERROR, "The file ends before the data of changed sectors, which then read as zeros."),
    "short-file": Code(_NOTE, "The file ends before its data area does, but no changed sector is missing."),
    "bits-past-end": Code(_WARNING, "The bitmap marks sectors as changed that the disk does not have."),
    "small-blocks": Code(_ERROR, "The disk holds an ext file system with blocks below 4 KiB, which makes mixed pages."),
    # the header
    "dialect-unbootable": Code(_ERROR, "The header has a layout that the kernel refuses or misreads."),
    "ambiguous-dialect": Code(_WARNING, "The header can be read in several layouts; the one that fits was taken."),
    "old-dialect": Code(_WARNING, "Version 1 or 2: another backing file on UML's command line destroys the COW file."),
    "sector-size": Code(_ERROR, "The sector size is not 512 bytes, which the kernel takes for granted."),
    "alignment": Code(_WARNING, "The data does not begin at a page of the file, so that discarding frees less room."),
    "data-offset": Code(_ERROR, "The data begins at or after 2 GiB, an offset that the kernel cannot hold."),
    "tiny-disk": Code(_ERROR, "A disk of at most 64 sectors on a COW file hangs the guest at its first write."),
    "tail-sectors": Code(_WARNING, "Version 1 or 2: the last sectors have no bit, writes to them are lost."),
    "partial-last-sector": Code(_NOTE, "The size is no multiple of the sector; the guest sees a slightly larger disk."),
    "ubd-path": Code(_ERROR, "UML's option ubd cannot carry the path of the COW file or of its backing file."),
    "relative-backing": Code(_WARNING, "The path of the backing file is relative; UML seeks it in its own directory."),
    "on-tmpfs": Code(_WARNING, "The COW file lies on tmpfs, where the kernel forgets what a guest discards or zeroes."),
    "merged": Code(_NOTE, "The COW file was merged into its backing file, and nothing was written to it since."),
    # the backing file
    "backing-missing": Code(_ERROR, "The backing file is not there, may not be read, or is no disk image."),
    "backing-damaged": Code(_ERROR, "The backing file claims to be a COW file but cannot be read as one."),
    "backing-loop": Code(_ERROR, "The COW file stands on itself, or more COW files are stacked than umldisk follows."),
    "backing-size": Code(_ERROR, "The backing file has another size than the header says."),
    "backing-mtime": Code(_ERROR, "The backing file was changed or touched after the COW file was made."),
    "mtime-range": Code(_ERROR, "The backing file's time of change lies outside of what a COW header can hold."),
    "stacked": Code(_ERROR, "The backing file is a COW file too; the kernel shows the guest its raw bytes."),
    "siblings": Code(_NOTE, "Other COW files stand on the same backing file; a destructive merge concerns them."),
    # work that goes on, or was interrupted
    "locked": Code(_WARNING, "A guest or another program uses the COW file; what is found may change meanwhile."),
    "backing-locked": Code(_ERROR, "Somebody has the backing file open for writing."),
    "unfinished-merge": Code(_ERROR, "A destructive merge into the backing file was interrupted."),
    "unfinished-header": Code(_ERROR, "The rewriting of a COW header was interrupted."),
    "foreign-journal": Code(_ERROR, "The note of an unfinished change beside a file cannot be read, or is another's."),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a COW file.

    `where` is the file it is about, `sector` the first one concerned and `count` how many there are, where that means
    something.
    """

    code: str
    severity: Severity
    message: str
    hint: str | None = None
    where: str | None = None
    sector: int | None = None
    count: int | None = None


def finding(
    code: str,
    message: str,
    *,
    where: str | None = None,
    hint: str | None = None,
    sector: int | None = None,
    count: int | None = None,
    severity: Severity | None = None,
) -> Finding:
    """Make a finding of a code from the table, of that code's severity unless it is a milder case."""
    return Finding(code, severity or CODES[code].severity, message, hint, where, sector, count)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found, worst first; `ok` when there is no error among it."""

    path: str
    ok: bool
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, path: str, found: Iterable[Finding]) -> Self:
        """Sort what was found; findings of one severity keep their order."""
        findings = tuple(sorted(found, key=lambda one: one.severity.rank))
        return cls(path, all(one.severity is not Severity.ERROR for one in findings), findings)
