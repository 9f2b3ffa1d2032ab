"""Standard output for the bytes of a disk."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from umldisk.errors import StorageError, UsageError


def binary_stdout(*, hint: str) -> BinaryIO:
    """Open standard output for bytes; raises UsageError, with the hint, for a terminal."""
    if sys.stdout is None:
        raise StorageError("standard output is closed")
    if sys.stdout.isatty():
        raise UsageError("refusing to write a disk to the terminal", hint=hint)
    return os.fdopen(os.dup(sys.stdout.fileno()), "wb")
