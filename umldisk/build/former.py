"""What lies in a guest's directory before a new set of disks comes, and how much of it is worth keeping.

Nothing here touches a file: names go in, names come out.

    root_cow                    always kept: it is the guest's work
    root_fs beside root_cow     kept: a COW file means nothing without the very base it was made on
    root_fs alone               replaced: a base that no guest has written to
    swap_fs, tmp_fs             replaced: what a guest loses at every reset
    srv_fs, no COW file ever    kept: the guest wrote on the disk itself
    old_fs, known to nobody     kept
    test_cow without a test_fs  kept, with every base, because it may stand on any of them
    manifest.json               kept as long as a disk is

Which disks had a COW file, and which were thrown away, is said by the former manifest; without one by the layout that
the guest has now. A guest that shares a base of this one from a directory of its own is not seen here: while it runs,
its lock on the base stops the build.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from umldisk.build.manifest import FILE_NAME as MANIFEST
from umldisk.cow.journal import SUFFIX as JOURNAL_SUFFIX
from umldisk.image.drives import Content, Drive

DRIVES_WITHIN_BYTES = 4 << 20
"""How much of a manifest is looked at: its list of drives stands before the long list of files."""

_SCRATCH_MOUNTS = {"/tmp", None}


@dataclass(frozen=True, slots=True)
class FormerDisk:
    """What is known of a disk: the name of its COW file or None, whether what is on it may be thrown away."""

    cow: str | None
    is_scratch: bool


def is_part(name: str) -> bool:
    """Whether a file of that name belongs to a set of disks: disks, COW files, their journals, the manifest."""
    stem = name.removesuffix(JOURNAL_SUFFIX)
    return name == MANIFEST or (stem.endswith(("_fs", "_cow")) and not name.startswith("."))


def is_disk(name: str) -> bool:
    """Whether a file of that name is a disk or COW file of a set."""
    return is_part(name) and name != MANIFEST and not name.endswith(JOURNAL_SUFFIX)


def from_layout(drives: Iterable[Drive]) -> dict[str, FormerDisk]:
    """Map the file of each drive to what the layout says of it."""
    return {
        drive.file_name: FormerDisk(
            drive.cow_name, drive.content is Content.SWAP or drive.mount_point in _SCRATCH_MOUNTS
        )
        for drive in drives
    }


def from_manifest(head: bytes) -> dict[str, FormerDisk]:
    """Map each disk's file to what a manifest says of it; `head` is the manifest or its first part.

    Empty when that cannot be read: an old manifest is help, not a condition.
    """
    text = head.decode(errors="replace")
    start = text.find("[", text.find('"drives"'))
    try:
        rows = json.JSONDecoder().raw_decode(text, start)[0] if start > 0 and '"drives"' in text else []
    except (ValueError, RecursionError):
        return {}
    return dict(_read_row(row) for row in rows if isinstance(row, dict) and isinstance(row.get("file"), str))


def _read_row(row: Mapping[str, object]) -> tuple[str, FormerDisk]:
    cow = row.get("cow")
    is_scratch = row.get("filesystem") == Content.SWAP.value or ("mount" in row and row["mount"] in _SCRATCH_MOUNTS)
    return str(row["file"]), FormerDisk(cow if isinstance(cow, str) else None, is_scratch)


def replaceable(names: Collection[str], known: Mapping[str, FormerDisk]) -> list[str]:
    """Return which of `names`, the parts of a former set, nobody needs any more: see the table above.

    The manifest comes last: removing them can be cut off anywhere and decided again.
    """
    cows = {name for name in names if is_disk(name) and name.endswith("_cow")}
    bases = {name for name in names if is_disk(name) and not name.endswith("_cow")}
    owned = {cow for base in bases for cow in _cows_of(base, known) if cow in cows}
    if cows - owned:
        return []
    gone = {base for base in bases if not _is_needed(base, cows, names, known)}
    manifest = [MANIFEST] if MANIFEST in names and gone == bases and not cows else []
    return [*sorted(gone), *manifest]


def _cows_of(base: str, known: Mapping[str, FormerDisk]) -> set[str]:
    disk = known.get(base)
    recorded = {disk.cow} if disk and disk.cow else set()
    return recorded | {base.removesuffix("_fs") + "_cow"}


def _is_needed(base: str, cows: set[str], names: Collection[str], known: Mapping[str, FormerDisk]) -> bool:
    if cows & _cows_of(base, known) or base + JOURNAL_SUFFIX in names:
        return True
    disk = known.get(base)
    return disk is None or (disk.cow is None and not disk.is_scratch)
