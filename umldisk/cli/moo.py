"""`umldisk-moo`: umldisk's merge behind the arguments of uml_moo.

Scripts written for uml_moo run unchanged: the same words mean the same, an existing output is
replaced, nothing is printed, and every failure ends with status 1. What is added is umldisk's care:
locks, outputs that appear whole or not at all, in-place merges that can be finished.

The options stand before the files, -b apart from its argument; everything else is a file's name,
`-` and `--` included. One thing differs: uml_moo takes a -d after `-b FILE` for the COW file,
against its own manual, and cannot find it. Here it is the option.

uml_moo -d leaves other COW files on the backing file unusable. Here they keep what they show.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from umldisk.cli.failures import guarded

PROGRAM = "umldisk-moo"
FAILED = 1

_USAGE = """\
usage: umldisk-moo [-b BACKING] COW NEW
       umldisk-moo [-b BACKING] -d COW
Merges the UML copy-on-write file COW and its backing file into the image NEW,
or with -d into the backing file itself. With -b the backing file is BACKING,
whatever COW says. See also: umldisk merge --help
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What the arguments ask for; `new` is None for a merge into the backing file."""

    cow: str
    new: str | None
    backing: str | None


def parse(words: Sequence[str]) -> Request | None:
    """Return the meaning of the arguments, or None when they have none."""
    rest = list(words)
    backing: str | None = None
    destructive = False
    while rest:
        if rest[0] == "-d" and not destructive:
            destructive = True
            del rest[0]
        elif rest[0] == "-b" and backing is None:
            if len(rest) == 1:
                return None
            backing = rest[1]
            del rest[:2]
        else:
            break
    if len(rest) != (1 if destructive else 2):
        return None
    return Request(rest[0], None if destructive else rest[1], backing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run umldisk-moo and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    code = guarded(PROGRAM, lambda: _run(words))
    return FAILED if 0 < code < 128 else code


def _run(words: Sequence[str]) -> int:
    request = parse(words)
    if request is None:
        sys.stderr.write(_USAGE)
        return FAILED
    from umldisk.cli.progress import terminal_progress
    from umldisk.cow.file import Access

    access, progress = Access(backing=request.backing), terminal_progress(quiet=False)
    if request.new is None:
        from umldisk.cow.inplace import InPlaceOptions, SiblingPolicy, merge_into_backing

        merge_into_backing(
            request.cow, access=access, options=InPlaceOptions(siblings=SiblingPolicy.KEEP), progress=progress
        )
    else:
        from umldisk.cow.merging import MergeOptions, merge

        merge(request.cow, request.new, access=access, options=MergeOptions(replace=True), progress=progress)
    return 0
