"""Reading the small text files of a site, whatever stands under their names."""

from __future__ import annotations

import os
import stat

from umldisk.errors import NoInputError
from umldisk.system.files import open_disk


def read_small_file(path: str, most_bytes: int) -> bytes:
    """Return the contents of a regular file, or its first `most_bytes` + 1 when it is longer than it may be.

    Never blocks. Raises NoInputError when it is missing, unreadable or of another type, StorageError when reading
    fails.
    """
    try:
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NoInputError(f"cannot open: {reason}", where=path) from error
    if not is_regular:
        raise NoInputError("not a regular file", where=path)
    with open_disk(path) as file:
        return file.read_at(0, most_bytes + 1)
