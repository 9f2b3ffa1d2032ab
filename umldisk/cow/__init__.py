"""UML copy-on-write files: formats, merged view, merge, difference, repair. Knows nothing of guests.

    from umldisk.cow import CowFile, merge

    with CowFile.open("root_cow") as cow:
        print(cow.header.dialect.label, cow.size_bytes)
        superblock = cow.read(1024, 1024)
    merge("root_cow", "new_root_fs")

The names below are loaded when they are first used, because a command should only pay for what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from umldisk.cow.aligning import AlignReport, align
    from umldisk.cow.checking import CheckReport, check
    from umldisk.cow.creating import CreateReport, create
    from umldisk.cow.dialect import Dialect
    from umldisk.cow.differencing import DifferenceReport, difference
    from umldisk.cow.file import Access, CowFile
    from umldisk.cow.findings import Finding, Severity
    from umldisk.cow.inplace import InPlaceOptions, InPlaceReport, SiblingPolicy, merge_into_backing
    from umldisk.cow.merging import MergeOptions, MergeReport, merge, merge_to_stream
    from umldisk.cow.rebasing import RebaseReport, rebase

_HOMES = {
    "aligning": ("AlignReport", "align"),
    "checking": ("CheckReport", "check"),
    "creating": ("CreateReport", "create"),
    "dialect": ("Dialect",),
    "differencing": ("DifferenceReport", "difference"),
    "file": ("Access", "CowFile"),
    "findings": ("Finding", "Severity"),
    "inplace": ("InPlaceOptions", "InPlaceReport", "SiblingPolicy", "merge_into_backing"),
    "merging": ("MergeOptions", "MergeReport", "merge", "merge_to_stream"),
    "rebasing": ("RebaseReport", "rebase"),
}

__all__ = [
    "Access",
    "AlignReport",
    "CheckReport",
    "CowFile",
    "CreateReport",
    "Dialect",
    "DifferenceReport",
    "Finding",
    "InPlaceOptions",
    "InPlaceReport",
    "MergeOptions",
    "MergeReport",
    "RebaseReport",
    "Severity",
    "SiblingPolicy",
    "align",
    "check",
    "create",
    "difference",
    "merge",
    "merge_into_backing",
    "merge_to_stream",
    "rebase",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
