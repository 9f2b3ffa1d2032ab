"""The note that an in-place change leaves until it is finished.

    no journal ──▶ journal durable ──▶ the file changes, step by step ──▶ file durable ──▶ journal removed

A COW file is its own redo log: as long as it is there, a destructive merge can be done again from the start and comes
out the same. What a killed merge loses is the right to: the backing file's mtime has moved, so that every tool, the
kernel included, refuses the pair. The journal keeps that right. It lies beside the file that is being changed, says
which COW goes into it, with which options, and which mtime the result will have; whoever opens either file finds it.

Rewriting a header in place is journaled in the same way, with the old and the new header inside, because a header
reaches over two pages and could be torn.

Invariants. A journal appears and disappears atomically, and is durable before the first byte that it covers changes.
Every state between is completed by running the same command again. Left out: rolling back. A half-merged backing file
cannot be unmerged, and needs not: the guest's view never changed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

from umldisk.errors import DataError
from umldisk.system import files, staging
from umldisk.system.files import DiskFile, Identity

SUFFIX = ".umldisk-journal"
_FORMAT = 1
_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MergeJournal:
    """An unfinished destructive merge, kept beside the backing file.

    `cow` is the COW file's path, `inode` the backing file's number (its device may get another after a reboot),
    `old_mtime` and `mtime` its time of change before and after, in seconds; `adopted` are the COW files beside it that
    were made ready for the change and will get the new mtime.
    """

    cow: str
    inode: int
    size_bytes: int
    mtime: int
    reset: bool
    adopted: tuple[str, ...] = ()
    old_mtime: int = 0

    def covers(self, cow: str, backing: Identity) -> bool:
        """Whether this is the unfinished merge of that COW file into that backing file."""
        return os.path.realpath(cow) == self.cow and backing.inode == self.inode


@dataclass(frozen=True, slots=True)
class HeaderJournal:
    """An unfinished rewriting of a COW header, kept beside the COW file; both headers as hexadecimal digits."""

    old: str
    new: str

    def mend(self, found: bytes, *, where: str) -> bytes:
        """Return `found`, the start of the file, with the new header in it, however much of that was written already.

        Raises DataError when `found` is neither of the two headers nor a mixture: then the journal is another file's.
        """
        old, new = bytes.fromhex(self.old), bytes.fromhex(self.new)
        start = found[: len(new)]
        if len(start) < len(new) or any(is_ not in (was, will) for is_, was, will in zip(start, old, new, strict=True)):
            raise DataError(
                "the journal beside the COW file belongs to another file",
                where=where,
                hint=f"if the file was replaced, remove {path_for(where)}",
            )
        return new + found[len(new) :]


Journal = MergeJournal | HeaderJournal
_KINDS: dict[str, type[MergeJournal] | type[HeaderJournal]] = {"merge": MergeJournal, "header": HeaderJournal}


def path_for(changed: str) -> str:
    """Return where the journal of an in-place change of `changed` lies."""
    return os.path.realpath(changed) + SUFFIX


def write(changed: str, journal: Journal, *, sync: bool = True) -> None:
    """Put the journal of `changed` in place, durably."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(journal, cls))
    record = {"umldisk journal": _FORMAT, "kind": kind, **dataclasses.asdict(journal)}
    text = json.dumps(record, indent=2, ensure_ascii=True)
    staging.write_file(path_for(changed), (text + "\n").encode("ascii"), mode=0o600, sync=sync)


def read(changed: str) -> Journal | None:
    """Return the journal of `changed`, or None when there is no unfinished change.

    Raises DataError when there is one that cannot be understood.
    """
    path = path_for(changed)
    if not os.path.lexists(path):
        return None
    with files.open_disk(path) as disk:
        raw = disk.read_at(0, _LARGEST_BYTES)
    try:
        return _decode(json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            "the journal of an unfinished change cannot be read", where=path, found=str(error) or "nonsense"
        ) from error


def _decode(record: dict[str, object]) -> Journal:
    if record.pop("umldisk journal") != _FORMAT:
        raise ValueError("another format version")
    cls = _KINDS[str(record.pop("kind"))]
    wanted = {field.name: field.type for field in dataclasses.fields(cls)}
    if set(record) != set(wanted):
        raise ValueError("other fields than expected")
    for name, kind in wanted.items():
        expected = {"str": str, "int": int, "bool": bool}.get(str(kind), list)
        if not isinstance(record[name], expected):
            raise TypeError(f"{name} is of another type")
    if isinstance(record.get("adopted"), list):
        record["adopted"] = tuple(str(path) for path in record["adopted"])  # type: ignore[attr-defined]
    for name in {"old", "new"} & set(record):
        bytes.fromhex(str(record[name]))
    return cls(**record)  # type: ignore[arg-type]


def refuse_unfinished_merge(backing: DiskFile, *, unless_of: str | None = None) -> bool:
    """Raise DataError when the open backing file is in the middle of a merge, unless of the COW file `unless_of`.

    Returns whether it is in the middle of that one.
    """
    pending = read(backing.path)
    if not isinstance(pending, MergeJournal):
        return False
    if unless_of is not None and pending.covers(unless_of, backing.identity):
        return True
    raise DataError(
        "a merge into the backing file is unfinished",
        where=backing.path,
        hint=f"finish it with: umldisk merge -d {pending.cow} (or, if the file was replaced since, "
        f"remove {path_for(backing.path)})",
    )


def remove(changed: str, *, sync: bool = True) -> None:
    """Remove the journal of `changed`: the change is complete."""
    staging.remove(path_for(changed), sync=sync)
