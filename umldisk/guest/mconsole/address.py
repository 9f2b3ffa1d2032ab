"""Where the mconsole of a guest is, and how one comes to speak with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umldisk.guest.mconsole.client import Mconsole
    from umldisk.guest.state import RunState

ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """A guest's mconsole socket, whose it must be (None: anybody's), and where it finds the sockets for answers.

    Without `reply_directory` that is the socket's UML_DIR.
    """

    socket_path: str
    owner_uid: int | None = None
    reply_directory: str | None = None

    @classmethod
    def of(cls, run: RunState) -> Address:
        """Return where the mconsole of a run is."""
        return cls(run.mconsole_path, run.uid, run.socket_directory)

    def mconsole(self, *, timeout_seconds: float = ANSWER_SECONDS) -> Mconsole:
        """Return the mconsole; nobody is asked yet."""
        from umldisk.guest.mconsole.client import Mconsole

        return Mconsole(
            self.socket_path,
            reply_directory=self.reply_directory,
            timeout_seconds=timeout_seconds,
            owner_uid=self.owner_uid,
        )


def mconsole_of(run: RunState, *, timeout_seconds: float = ANSWER_SECONDS) -> Mconsole:
    """Return the mconsole of a run."""
    return Address.of(run).mconsole(timeout_seconds=timeout_seconds)
