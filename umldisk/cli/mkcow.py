"""`umldisk-mkcow`: umldisk's create behind the arguments of uml_mkcow.

Scripts written for uml_mkcow run unchanged: -f counts as the first word only, words after the two
files are ignored, nothing is printed, and the status is 2 for too few words and 1 for a failure.
With -f the new COW file is empty; uml_mkcow -f leaves the old changes in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from umldisk.cli.failures import guarded

PROGRAM = "umldisk-mkcow"
FAILED = 1
MISUSED = 2

_USAGE = """\
usage: umldisk-mkcow [-f] COW BACKING
Makes COW, an empty UML copy-on-write file on BACKING. With -f an existing COW
is replaced. See also: umldisk create --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run umldisk-mkcow and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    replace = words[:1] == ["-f"]
    files = words[1:] if replace else words
    if len(files) < 2:
        guarded(PROGRAM, _print_usage)
        return MISUSED
    code = guarded(PROGRAM, lambda: _create(files[0], files[1], replace=replace))
    return FAILED if 0 < code < 128 else code


def _print_usage() -> int:
    sys.stderr.write(_USAGE)
    return 0


def _create(cow: str, backing: str, *, replace: bool) -> int:
    from umldisk.cow.creating import create

    create(cow, backing, replace=replace)
    return 0
