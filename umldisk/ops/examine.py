"""Checking a COW file with everything that the packages below know: its format, and what the disk holds."""

from __future__ import annotations

import os
from collections.abc import Iterator

from umldisk.cow.checking import check
from umldisk.cow.file import Access
from umldisk.cow.findings import CheckReport, Finding, finding
from umldisk.cow.layers import Layer
from umldisk.image import ext
from umldisk.ops.describe import LayerReader


def examine(path: str | os.PathLike[str], access: Access | None = None) -> CheckReport:
    """Look the COW file over, and the file system that a guest sees through it. Raises what `check` raises."""
    return check(path, access=access, probes=[small_blocks])


def small_blocks(view: Layer) -> Iterator[Finding]:
    """An ext file system whose blocks are smaller than the unit in which the kernel can read a COW file."""
    reader = LayerReader(view)
    if ext.small_blocks(reader):
        block_bytes = ext.read_superblock(reader).block_bytes
        yield finding(
            "small-blocks",
            f"the disk holds an ext file system with blocks of {block_bytes} bytes: what a guest writes to it makes "
            "mixed pages, which it then reads wrongly",
            where=view.disk.path,
            hint="make the file system with 4 KiB blocks (mke2fs -b 4096), or use the disk without a COW file",
        )
