"""One mconsole command for a guest, whoever started it.

a guest of the site       where its run file says that the socket is, and as the user that it says
a umid and a directory    UML_DIR/UMID/mconsole, as UML itself names it: ~/.uml for most
a path                    that socket
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from umldisk.errors import NoInputError, UsageError
from umldisk.guest.mconsole.address import Address
from umldisk.guest.mconsole.client import NoAnswerError

if TYPE_CHECKING:
    from umldisk.config.site import Site


@dataclass(frozen=True, slots=True)
class ConsoleReport:
    """What a guest answered to a command; without its end when it is not `complete`."""

    guest: str | None
    socket: str
    command: str
    text: str
    complete: bool = True


def address_of_guest(site: Site, guest: str) -> Address:
    """Return where the mconsole is of a guest that umldisk started.

    Raises UsageError when that is no name for a guest, NoInputError when it does not run, DataError and StorageError
    when its run file cannot be read.
    """
    from umldisk.guest.state import running

    state = running(site.run_directory(guest))
    if state is None:
        raise NoInputError(
            "the guest does not run, or umldisk did not start it",
            where=guest,
            hint=f"umldisk start {guest}; or name its socket with --uml-dir or --socket",
        )
    return Address.of(state)


def address_of_umid(uml_dir: str, umid: str) -> Address:
    """Return where the mconsole is of a guest by its umid; raises UsageError when that is no name."""
    if umid in ("", ".", "..") or "/" in umid:
        raise UsageError("not a umid", expected="a name without a slash", found=umid or '""')
    return Address(os.path.join(uml_dir, umid, "mconsole"))


def ask(
    target: Address,
    command: str,
    *,
    raw: bool = False,
    timeout_seconds: float,
    guest: str | None = None,
    cut_off: Callable[[ConsoleReport], None],
) -> ConsoleReport:
    """Send a command and report the answer; one that is cut off goes to `cut_off` before it is raised.

    Raises what `Mconsole.send` raises.
    """
    try:
        text = target.mconsole(timeout_seconds=timeout_seconds).send(command, raw=raw)
    except NoAnswerError as error:
        if error.partial:
            cut_off(ConsoleReport(guest, target.socket_path, command, error.partial, complete=False))
        raise
    return ConsoleReport(guest, target.socket_path, command, text)
