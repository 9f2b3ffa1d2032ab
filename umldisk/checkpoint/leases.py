"""Holding an object store: many hosts, no kernel that all of them share, only objects that everybody sees.

    leases/5f0c….json     {"kind": "write", "guest": "web", "host": …, "pid": …, …}, put again every minute

Whoever wants the store first announces itself by a lease and then looks at the others' (S3 shows a listing that is
never older than what was acknowledged). So of two that come at the same time at least one sees the other. Whoever sees
a lease that excludes its own takes its announcement back, and waits a random time before the next try.

    adding to a guest     excludes adding to the same guest, and reclaiming
    reclaiming            excludes everything

A lease that was not put again for ten minutes counts for nothing; all times are the service's own, so that hosts'
clocks do not matter. Its holder stops trusting it much earlier: five minutes after it last began to put it, which
leaves more than any request lasts, retries included. Before every act that others rely on (an index, a record, a
removal) `confirm` asks for both, and whoever passes over an expired lease removes it first. What remains is a process
that is stopped between asking and acting for longer than five minutes and then goes on: without fencing in the
service nothing can exclude that.

A lease of a process on this machine that has ended counts for nothing at once, so that a killed writer keeps nobody out
who runs where it ran; elsewhere it does so for ten minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from umldisk.errors import BusyError, NoInputError, StorageError, UmldiskError
from umldisk.system.pids import boot_id
from umldisk.system.process_status import status_of

PREFIX = "leases/"


class Kind(Enum):
    """What a lease is for."""

    WRITE = "write"
    COLLECT = "collect"


@dataclass(frozen=True, slots=True)
class Times:
    """How long leases last, in seconds; `contest` is for how long two that met try again even without waiting."""

    expiry: float = 600
    trust: float = 300
    refresh: float = 60
    contest: float = 2


class Objects(Protocol):
    """What leases need of an object store; all raise StorageError."""

    def put(self, key: str, data: bytes) -> None:
        """Store `data`."""

    def get(self, key: str) -> bytes:
        """Return what is stored; raises NoInputError."""

    def exists(self, key: str) -> bool:
        """Whether the service has it now."""

    def delete(self, key: str) -> None:
        """Remove it."""

    def modified(self, prefix: str) -> Mapping[str, datetime]:
        """Return the keys below `prefix` with when they were last put, by the service's clock."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lease says; boot, namespace and started tell this process from all others that ever had its number."""

    kind: Kind
    guest: str
    host: str
    pid: int
    boot: str
    namespace: int
    started: int

    @classmethod
    def ours(cls, kind: Kind, guest: str = "") -> Claim:
        """Return the claim of this process."""
        pid = os.getpid()
        return cls(kind, guest, socket.gethostname(), pid, boot_id(), _namespace(), _started(pid) or 0)

    @classmethod
    def parse(cls, data: bytes) -> Claim | None:
        """Read a claim; None when it cannot be understood."""
        try:
            row = json.loads(data)
            return cls(**(row | {"kind": Kind(row["kind"])}))
        except (ValueError, KeyError, TypeError):
            return None

    def build(self) -> bytes:
        """Return the claim as an object."""
        return json.dumps(asdict(self) | {"kind": self.kind.value}).encode()

    def excludes(self, other: Claim) -> bool:
        """Whether both cannot hold at once."""
        return Kind.COLLECT in (self.kind, other.kind) or self.guest == other.guest

    @property
    def is_here(self) -> bool:
        """Whether its process number means something here."""
        return (self.boot, self.namespace) == (boot_id(), _namespace())

    @property
    def is_dead(self) -> bool:
        """Whether its process was here and has ended."""
        return self.is_here and _started(self.pid) != self.started


class Hold:
    """A lease that is held; `confirm` before whatever others rely on."""

    def __init__(self, objects: Objects, key: str, claim: Claim, times: Times) -> None:
        self._objects = objects
        self._key = key
        self._data = claim.build()
        self._times = times
        self._refreshed = _clock()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def confirm(self) -> None:
        """Raise StorageError unless the lease certainly still keeps others out."""
        if not self._is_trusted() or not self._objects.exists(self._key):
            raise StorageError(
                "the lease on the store was lost, others may have changed it",
                where=self._key,
                hint="run the command again; nothing that was recorded is lost",
            )

    def announce(self) -> None:
        """Put the lease, which makes it new."""
        began = _clock()
        self._objects.put(self._key, self._data)
        self._refreshed = began

    def keep(self) -> None:
        """Put it again from time to time, in a thread."""
        self._thread.start()

    def release(self) -> None:
        """Give it up; when the service fails it expires."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(UmldiskError):
            self._objects.delete(self._key)

    def _is_trusted(self) -> bool:
        return _clock() - self._refreshed < self._times.trust

    def _keep(self) -> None:
        while not self._released.wait(self._times.refresh) and self._is_trusted():
            with contextlib.suppress(UmldiskError):  # tried again, until it is no longer trusted
                self.announce()


@contextlib.contextmanager
def held(objects: Objects, claim: Claim, *, wait_seconds: float, where: str, times: Times) -> Iterator[Hold]:
    """Hold a lease; raises BusyError naming who has the store still after `wait_seconds`."""
    hold = _take(objects, claim, wait_seconds=wait_seconds, where=where, times=times)
    try:
        hold.keep()
        yield hold
    finally:
        hold.release()


def _take(objects: Objects, claim: Claim, *, wait_seconds: float, where: str, times: Times) -> Hold:
    deadline = time.monotonic() + max(wait_seconds, times.contest)
    while True:
        key = f"{PREFIX}{secrets.token_hex(16)}.json"
        hold = Hold(objects, key, claim, times)
        try:
            hold.announce()
            other = _in_the_way(objects, key, claim, times)
        except BaseException:
            hold.release()
            raise
        if other is None:
            return hold
        hold.release()
        if time.monotonic() >= deadline:
            raise _busy(other, where)
        time.sleep(random.uniform(0.1, 0.5))


def _in_the_way(objects: Objects, own: str, claim: Claim, times: Times) -> Claim | None:
    """Return a claim that excludes ours, having removed the leases that count for nothing."""
    found = objects.modified(PREFIX)
    if own not in found:
        raise StorageError("the service does not list what was just stored", where=own)
    for key, modified in found.items():
        if key == own:
            continue
        is_expired = (found[own] - modified).total_seconds() > times.expiry
        other = None if is_expired else _read(objects, key)
        if is_expired or (other and other.is_dead):
            objects.delete(key)
        elif other and claim.excludes(other):
            return other
    return None


def _read(objects: Objects, key: str) -> Claim | None:
    """Return the claim of a lease, None when it was given up meanwhile; one we do not understand excludes all."""
    try:
        return Claim.parse(objects.get(key)) or Claim(Kind.COLLECT, "", "an unknown host", 0, "", 0, 0)
    except NoInputError:
        return None


def _busy(other: Claim, where: str) -> BusyError:
    doing = "the store's chunks are being reclaimed" if other.kind is Kind.COLLECT else "the store is being written"
    return BusyError(
        doing if other.is_here else f"{doing} on {other.host}",
        where=where,
        pid=other.pid or None,
        hint="wait for the other process, or say how long to wait for it with --lock-wait",
    )


def _clock() -> float:
    """Seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _started(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot, None when there is none."""
    status = status_of(pid)
    return None if status is None else status.start_ticks
