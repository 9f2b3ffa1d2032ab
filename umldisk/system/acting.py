"""Doing something with the rights of somebody else, being root.

In a directory that belongs to a guest's user, that user may put a symlink, a FIFO or another file under any name, at
any moment between two looks of ours. Whatever is done there with that user's own rights can be led astray only to
where the user gets without us.

The effective user, group and further groups change, for the whole process with all its threads; the real user stays
root, so that the other can neither trace nor signal us. Modules that are first imported meanwhile may not be readable,
so whoever uses this imports what it needs at the top.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from umldisk.system.deferring import interruptions_deferred


@contextlib.contextmanager
def acting_as(uid: int, gid: int, *, groups: Sequence[int] = ()) -> Iterator[None]:
    """Run the block with the rights of a user; when we are not root, or the user is root, with our own."""
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    own_groups, own_gid = os.getgroups(), os.getegid()
    try:
        with interruptions_deferred():
            os.setgroups(groups)
            os.setegid(gid)
            os.seteuid(uid)
        yield
    finally:
        with interruptions_deferred():
            os.seteuid(0)
            os.setegid(own_gid)
            os.setgroups(own_groups)
