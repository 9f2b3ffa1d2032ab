"""Findings about a COW file's place in the world: its backing file, others on it, locks, interrupted work."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator

from umldisk.cow import journal as journals
from umldisk.cow import siblings as sibling_files
from umldisk.cow.findings import Finding, finding
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.cow.survey import BackingState, Level, utc
from umldisk.errors import UmldiskError
from umldisk.system import locks
from umldisk.system.locks import Holder

_LATEST_MTIME = (1 << 32) - 1
_NAMED_SIBLINGS = 5


def backing_state(level: Level) -> Iterator[Finding]:
    """The pair as umldisk and the kernel judge it."""
    describe = _OF_STATE.get(level.state)
    if describe is not None:
        yield describe(level)
    elif level.backing is not None and not 0 <= level.backing.mtime_seconds <= _LATEST_MTIME:
        yield finding(
            "mtime-range",
            "the backing file's time of change is before 1970 or after 2106, which no COW header can hold",
            where=level.backing_path,
            hint="touch the backing file, then: umldisk rebase -u COW BACKING",
        )


def _missing(level: Level) -> Finding:
    return finding(
        "backing-missing",
        f"the backing file cannot be used: {_reason(level.trouble)}",
        where=level.backing_path,
        hint="give its place with -b, or write it into the header: umldisk rebase -u COW BACKING",
    )


def _damaged(level: Level) -> Finding:
    return finding(
        "backing-damaged", f"the backing file cannot be read: {_reason(level.trouble)}", where=level.backing_path
    )


def _reason(error: UmldiskError | None) -> str:
    if error is None:
        return "unknown"
    return error.what if error.found is None else f"{error.what}, found {error.found}"


def _loop(level: Level) -> Finding:
    return finding("backing-loop", "the COW file stands on itself, or on too many others", where=level.backing_path)


def _other_size(level: Level) -> Finding:
    found = "?" if level.backing is None else level.layer.below.size_bytes
    return finding(
        "backing-size",
        f"the backing file has {found} bytes, the header says {level.header.size_bytes}",
        where=level.backing_path,
        hint="this is another file, or one that was grown or cut; no tool and no kernel takes this pair",
    )


def _other_mtime(level: Level) -> Finding:
    found = "?" if level.backing is None else utc(level.backing.mtime_seconds)
    return finding(
        "backing-mtime",
        f"the backing file was last changed at {found}, the header says {utc(level.header.mtime)}",
        where=level.backing_path,
        hint="if its contents are the same: umldisk rebase -u COW BACKING",
    )


def _merging(level: Level) -> Finding:
    journal = level.backing_beside.journal
    assert isinstance(journal, MergeJournal)
    command = f"umldisk merge -d {'--reset ' if journal.reset else ''}{shlex.quote(journal.cow)}"
    if level.backing is not None and not journal.covers(level.path, level.backing.identity):
        command += f" (or, if the file was replaced since, remove {journals.path_for(level.backing_path)})"
    return finding(
        "unfinished-merge",
        f"a merge of {journal.cow} into the backing file goes on or was interrupted",
        where=level.backing_path,
        hint=f"finish it with: {command}",
    )


_OF_STATE: dict[BackingState, Callable[[Level], Finding]] = {
    BackingState.MISSING: _missing,
    BackingState.DAMAGED: _damaged,
    BackingState.LOOP: _loop,
    BackingState.OTHER_SIZE: _other_size,
    BackingState.OTHER_MTIME: _other_mtime,
    BackingState.MERGING: _merging,
}


def stacked(level: Level) -> Iterator[Finding]:
    """A chain, which umldisk reads and UML does not."""
    if level.stacked:
        yield finding(
            "stacked",
            "the backing file is a COW file itself; umldisk reads through it, a guest sees its raw bytes",
            where=level.backing_path,
            hint="flatten the chain: umldisk merge COW NEW",
        )


def unfinished_header(level: Level) -> Iterator[Finding]:
    """A header whose rewriting stopped half-way."""
    if isinstance(level.beside.journal, HeaderJournal):
        yield finding(
            "unfinished-header",
            "the rewriting of the header goes on or was interrupted; umldisk sees the new one, a guest may see the old",
            where=level.path,
            hint="run the same command again",
        )


def foreign_journal(level: Level) -> Iterator[Finding]:
    """Notes of unfinished changes that say nothing about the file that they lie beside."""
    if level.beside.trouble is not None:
        yield _foreign(level.path, _reason(level.beside.trouble))
    if isinstance(level.beside.journal, MergeJournal):
        yield _foreign(level.path, "it is about a merge into this file, which is a COW file")
    if level.stacked:
        return  # then the file below tells about itself
    if level.backing_beside.trouble is not None:
        yield _foreign(level.backing_path, _reason(level.backing_beside.trouble))
    if isinstance(level.backing_beside.journal, HeaderJournal):
        yield _foreign(level.backing_path, "it is about a COW header, which this file does not have")


def _foreign(path: str, reason: str) -> Finding:
    return finding(
        "foreign-journal",
        f"the note of an unfinished change beside the file does not fit: {reason}",
        where=path,
        hint=f"if the file was replaced since, remove {journals.path_for(path)}",
    )


def locked(level: Level) -> Iterator[Finding]:
    """Who uses the COW file."""
    holder = _holder(level.disk.fd, exclusive=True)
    if holder is not None:
        yield finding(
            "locked", f"the COW file is in use{_by(holder)}; what is found may change meanwhile", where=level.path
        )


def backing_locked(level: Level) -> Iterator[Finding]:
    """Who writes to the backing file; that guests read it is as it should be."""
    holder = None if level.backing is None else _holder(level.backing.fd, exclusive=False)
    if holder is not None:
        yield finding(
            "backing-locked",
            f"the backing file is open for writing{_by(holder)}",
            where=level.backing_path,
            hint="a backing file that is written to spoils every COW file on it, unless this is a merge",
        )


def _holder(fd: int, *, exclusive: bool) -> Holder | None:
    with contextlib.suppress(OSError):  # a file system without locks has no holders
        return locks.holder(fd, exclusive=exclusive)
    return None


def _by(holder: Holder) -> str:
    if holder.pid is None:
        return ", by whom cannot be seen from here"
    return f" by PID {holder.pid}" + ("" if holder.umid is None else f", umid {holder.umid}")


def siblings(level: Level) -> Iterator[Finding]:
    """Others on the same backing file."""
    if level.backing is None or level.state is BackingState.LOOP:
        return
    try:
        found = sibling_files.find(level.path, level.backing)
    except UmldiskError:  # a file beside this one cannot be read, which is for others to find
        return
    if not found:
        return
    names = [os.path.basename(one.path) + ("" if one.fits else " (does not fit)") for one in found[:_NAMED_SIBLINGS]]
    more = f" and {len(found) - len(names)} more" if len(found) > len(names) else ""
    yield finding(
        "siblings",
        f"{len(found)} other COW {'file stands' if len(found) == 1 else 'files stand'} on the backing file: "
        f"{', '.join(names)}{more}",
        where=level.backing_path,
        hint="umldisk merge -d asks what to do about them: --keep-siblings or --orphan-siblings",
        count=len(found),
    )
