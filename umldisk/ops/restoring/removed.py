"""What is lost when files of a guest are removed rather than kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from umldisk.cow.file import Access, CowFile
from umldisk.errors import UmldiskError
from umldisk.system.swapping import explained


@dataclass(frozen=True, slots=True)
class RemovedFile:
    """A file that is removed.

    `changed_bytes` is how much the guest had changed in a COW file that can be read; of anything else, and of a COW
    file that cannot, it is the room that the file takes.
    """

    name: str
    changed_bytes: int


def measure(directory: str, names: Sequence[str], bases: Mapping[str, str]) -> tuple[RemovedFile, ...]:
    """Look at the files of `directory` that will be removed; `bases` are the paths of the bases by their COW files."""
    return tuple(RemovedFile(name, _changed_bytes(os.path.join(directory, name), bases.get(name))) for name in names)


def _changed_bytes(path: str, base: str | None) -> int:
    if base is not None:
        access = Access(lock=False, ignore_mtime=True, accept_truncated=True)
        try:
            with CowFile.open(path, base, access=access) as cow:
                changed_bytes = sum(run.sectors for run in cow.runs()) * cow.geometry.sector_bytes
                return min(changed_bytes, cow.size_bytes)
        except UmldiskError:  # damaged, or on another base: gone it will be all the same
            pass
    with explained("look at", path):
        return os.lstat(path).st_blocks * 512
