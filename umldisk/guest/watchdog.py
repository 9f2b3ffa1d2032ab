"""`python -m umldisk.guest.watchdog`: lets a paused guest go on when whoever paused it cannot.

    parent                         watchdog
      ── orders, one line ─────────▶          where the mconsole is, how long it may last, what is to be undone
      ◀───────────── "armed" ──                only now is the guest paused
      ── "done" ───────────────────▶          the guest goes on, the parent saw its answer
      ◀────────── "stood by" ──
                                               or, when the pipe ends or the time is up: it sends `go` and so on
      ◀────────────── "went" ──                until each is answered or the guest is gone

It runs in a session of its own and ignores what ends programs politely, so that neither Ctrl-C nor a service that is
stopped takes it along with its parent. Nothing holds against SIGKILL for both at once: then the guest stands still
until somebody sends it `go`, and the next take says so.

All that it needs is loaded before it says "armed".
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from dataclasses import asdict, dataclass

from umldisk.errors import NoInputError, UmldiskError
from umldisk.guest.mconsole.address import Address
from umldisk.guest.mconsole.client import Mconsole, Refused

GO, THAW = "go", "sysrq j"
ARMED, STOOD_BY, WENT, GAVE_UP = b"armed\n", b"stood by\n", b"went\n", b"gave up\n"
DONE = b"done\n"

_MOST_ORDERS_BYTES = 1 << 16
_ANSWER_SECONDS = 2.0
_PERSISTS_SECONDS = 120.0
_PATIENCE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Orders:
    """What a watchdog is told: whom to ask, when to do so unasked, and which commands undo what is going to be done."""

    address: Address
    limit_seconds: float
    commands: tuple[str, ...]

    def build(self) -> bytes:
        """Return the orders as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Orders:
        """Read what `build` wrote."""
        row = json.loads(line)
        return cls(Address(**row["address"]), row["limit_seconds"], tuple(row["commands"]))


def main() -> None:
    """Wait on stdin for the word that all is well, and act when it does not come."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    line = _read_line()
    if not line.endswith(b"\n"):
        return  # whoever wanted us is gone, and has paused nothing
    orders = Orders.parse(line)
    console = orders.address.mconsole(timeout_seconds=_ANSWER_SECONDS)
    _say(ARMED)
    if _is_dismissed(orders.limit_seconds):
        _say(STOOD_BY)
        return
    _say(WENT if _undo(console, orders.commands) else GAVE_UP)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _MOST_ORDERS_BYTES:
        piece = os.read(0, _MOST_ORDERS_BYTES)
        if not piece:
            break
        line += piece
    return line


def _is_dismissed(limit_seconds: float) -> bool:
    """Wait for DONE; False when the parent is gone without it, or the time is up."""
    deadline = time.monotonic() + limit_seconds
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    said = b""
    while waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
        piece = os.read(0, 64)
        said += piece
        if not piece or said.endswith(DONE):
            return said.endswith(DONE)
    return False


def _undo(console: Mconsole, commands: tuple[str, ...]) -> bool:
    """Send the commands one after the other, each until it is answered; False when that took too long."""
    deadline = time.monotonic() + _PERSISTS_SECONDS
    waiting = list(commands)
    while waiting and time.monotonic() < deadline:
        if _is_settled(console, waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(_PATIENCE_SECONDS)
    return not waiting


def _is_settled(console: Mconsole, command: str) -> bool:
    """Send a command; whether there is nothing left to be done, be it because it was not needed or nobody is there."""
    try:
        console.send(command)
    except (Refused, NoInputError):
        return True
    except UmldiskError:
        return False
    return True


def _say(words: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        os.write(1, words)


if __name__ == "__main__":
    main()
