"""How a guest is kept from writing to its drives while they are recorded.

A take asks a `Quiesce` for quiet and reads the drives inside the block. What comes back says how good the quiet is:

    OFF        nobody runs: the take itself locks COW and backing files, and a running guest makes that fail (exit 75)
    FROZEN     the guest runs and has the locks; its file systems are frozen for as long as the block lasts
    JOURNAL    the guest runs and has the locks; its disks stand still, its file systems have a journal to replay

Only OFF is made here. Whoever answers something else answers for the disks: they must not change within the block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from umldisk.checkpoint.record import Consistency
from umldisk.config.guest import Guest
from umldisk.image.drives import Drive


class Quiesce(Protocol):
    """Makes a guest's drives stand still."""

    def __call__(self, guest: Guest, drives: Sequence[Drive], /) -> AbstractContextManager[Consistency]:
        """Hold the drives still for a block; raises BusyError when that cannot be had."""


@contextlib.contextmanager
def stopped(_guest: Guest, _drives: Sequence[Drive]) -> Iterator[Consistency]:
    """Leave it to the locks: whoever opens the disks finds a running guest by them."""
    yield Consistency.OFF
