"""The program `umldisk`: as little as possible between its start and a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from umldisk import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run umldisk with the given arguments, or those of the process, and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"] and sys.stdout is not None:  # the group knows it too; this needs no import
        sys.stdout.write(f"umldisk {__version__}\n")
        return 0
    from umldisk.cli.failures import guarded

    return guarded("umldisk", lambda: _run(words))


def _run(words: list[str]) -> int:
    from umldisk.cli.group import run

    return run(words)
