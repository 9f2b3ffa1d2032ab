"""From a plan to a running kernel, and the process that stays with it.

    start ── plan, as JSON ──▶ supervisor ── kernel, in a jail bubblewrap and in it the kernel
      ◀── "started", or why not ──┘

The supervisor is a process of its own, because somebody has to read the console, to see how the kernel ends, and to put
away what was for this run alone. When it is killed the guest goes on; its console is then no longer recorded. When it
is killed before the guest is known in state.json, start ends what it had begun: bubblewrap would have the claim for
ever, or run a kernel that nobody can stop.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from umldisk.errors import StorageError, printable
from umldisk.guest.rundir import Claim
from umldisk.guest.state import RunDisk, read_state
from umldisk.system.deferring import interruptions_deferred
from umldisk.system.process import PIPE, launch

STARTED = b"started\n"
"""What the supervisor says when the kernel's program runs and state.json is written."""

_MODULE = "umldisk.guest.supervisor"
_ANSWER_SECONDS = 60.0
_MOST_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All that the supervisor needs to know.

    `argv` is complete and `environment` all of the kernel's. `uid`, `gid` and `groups` are whom it runs as, `marker` is
    the ready marker, "" where the guest writes none.
    """

    guest: str
    run_directory: str
    socket_directory: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    disks: tuple[RunDisk, ...]
    uid: int
    gid: int
    groups: tuple[int, ...]
    jailed: bool
    memory_bytes: int
    has_agent: bool
    marker: str
    started_at: datetime

    def build(self, *, lock_fd: int) -> bytes:
        """Return the plan as one line of JSON, with the number under which the supervisor finds the claim."""
        row = asdict(self) | {"started_at": self.started_at.isoformat(), "lock_fd": lock_fd}
        return json.dumps(row).encode() + b"\n"


def parse_plan(data: bytes) -> tuple[RunPlan, int]:
    """Read what `build` wrote."""
    row: dict[str, Any] = json.loads(data)
    lock_fd = row.pop("lock_fd")
    row["started_at"] = datetime.fromisoformat(row["started_at"]).astimezone(UTC)
    row["disks"] = tuple(RunDisk(**disk) for disk in row["disks"])
    return RunPlan(**{**row, "argv": tuple(row["argv"]), "groups": tuple(row["groups"])}), lock_fd


def start_supervised(plan: RunPlan, claim: Claim) -> None:
    """Start the supervisor and through it the kernel; return when the kernel's program runs and state.json is written.

    Both inherit the claim. Raises StorageError with the supervisor's last words when that was not to be.
    """
    with interruptions_deferred():  # else a kernel could run that nobody looks after
        said = _handed_over(plan, claim)
        if not said and read_state(plan.run_directory) is None:
            claim.end_others()
    if said != STARTED:
        lines = said.decode(errors="replace").strip().splitlines()
        last = printable(lines[-1]) if lines else "the supervisor said nothing"
        raise StorageError(f"the guest cannot be started: {last}", where=plan.guest)


def _handed_over(plan: RunPlan, claim: Claim) -> bytes:
    """Hand the plan to a new supervisor and return its answer."""
    child = launch([sys.executable, "-P", "-m", _MODULE], stdin=PIPE, stdout=PIPE, pass_fds=[claim.lock.fd])
    try:
        child.write(plan.build(lock_fd=claim.lock.fd))
        child.close_stdin()
        return b"".join(iter(lambda: child.read(_MOST_ANSWER_BYTES, timeout_seconds=_ANSWER_SECONDS), b""))
    except TimeoutError as error:  # it is not killed, because a kernel may run already that only it knows
        raise StorageError(
            "the supervisor of the guest does not answer",
            where=plan.guest,
            hint=f"see what comes of it: umldisk status {plan.guest}; or end PID {child.pid}",
        ) from error
    except OSError as error:
        child.kill()
        raise StorageError("the supervisor of the guest did not start", where=plan.guest) from error
    finally:
        child.let_go()
