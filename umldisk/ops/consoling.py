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
from umldisk.guest.mconsole.client import Mconsole, NoAnswerError

if TYPE_CHECKING:
    from umldisk.config.site import Site


@dataclass(frozen=True, slots=True)
class Socket:
    """A guest's mconsole socket, whose it must be (None: anybody's), and where it finds the sockets for answers."""

    path: str
    owner_uid: int | None = None
    reply_directory: str | None = None


@dataclass(frozen=True, slots=True)
class ConsoleReport:
    """What a guest answered to a command; without its end when it is not `complete`."""

    guest: str | None
    socket: str
    command: str
    text: str
    complete: bool = True


def socket_of_guest(site: Site, guest: str) -> Socket:
    """Return the socket of a guest that umldisk started.

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
    return Socket(state.mconsole_path, state.uid, state.socket_directory)


def socket_of_umid(uml_dir: str, umid: str) -> Socket:
    """Return the socket of a guest by its umid; raises UsageError when that is no name."""
    if umid in ("", ".", "..") or "/" in umid:
        raise UsageError("not a umid", expected="a name without a slash", found=umid or '""')
    return Socket(os.path.join(uml_dir, umid, "mconsole"))


def ask(
    target: Socket,
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
    console = Mconsole(
        target.path,
        reply_directory=target.reply_directory,
        timeout_seconds=timeout_seconds,
        owner_uid=target.owner_uid,
    )
    try:
        text = console.send(command, raw=raw)
    except NoAnswerError as error:
        if error.partial:
            cut_off(ConsoleReport(guest, target.path, command, error.partial, complete=False))
        raise
    return ConsoleReport(guest, target.path, command, text)
