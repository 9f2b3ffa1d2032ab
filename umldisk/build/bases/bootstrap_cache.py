"""Archives that were expensive to make, kept under the digest of the order that made them.

    cache/debian-bookworm-0123456789abcdef.tar      the archive
    cache/debian-bookworm-0123456789abcdef.json     what is in it, and how it was made
    cache/.debian-bookworm-0123456789abcdef.lock    locked by whoever makes it, empty

An archive is there when its record is, and the record fits its size. Whoever makes one puts the archive in place
before the record and removes an old record before the archive, so that being killed at any moment leaves the old
pair, or the new pair, or nothing that counts. Two who want the same archive make it once: the second waits.

Not guaranteed: that an archive has not been changed since. Its digest is in the record; who reads it compares.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from umldisk.build.bases.compression import open_archive
from umldisk.build.bases.tar import TarBase
from umldisk.build.tree import Entry, FileType
from umldisk.errors import CannotCreateError, DataError, from_os_error
from umldisk.progress import SILENT, Progress
from umldisk.system import locks, staging

_DIGEST_CHARACTERS = 16
_POLL_SECONDS = 0.2
_DPKG_STATUS = "/var/lib/dpkg/status"


@dataclass(frozen=True, slots=True)
class Order:
    """What an archive is made of: `source` is what the user calls it, `argv` the program with all that it depends on.

    `source_date_epoch` is what the program will find in the variable, None for nothing.
    """

    source: str
    argv: tuple[str, ...]
    source_date_epoch: str | None = None

    @property
    def name(self) -> str:
        """What its files are called before the dot: the source, and 64 bits of the digest of everything."""
        key = json.dumps([self.argv, self.source_date_epoch]).encode()
        return f"{self.source.replace(':', '-')}-{hashlib.sha256(key).hexdigest()[:_DIGEST_CHARACTERS]}"


@dataclass(frozen=True, slots=True)
class CachedArchive:
    """An archive in the cache; `packages` are sorted lines NAME=VERSION, `made_by` is a program with its version."""

    path: str
    sha256: str
    size_bytes: int
    packages: tuple[str, ...]
    made_by: str


Maker = Callable[[int, int], str]
"""Writes an archive to the first descriptor, and says what program made it. The second is the lock's, for programs
that may outlive us."""


def obtain(
    directory: str, order: Order, make: Maker, *, refresh: bool = False, progress: Progress = SILENT
) -> CachedArchive:
    """Return the archive of `order` from the cache `directory`, made first when it is missing or `refresh` says so.

    Raises what `make` raises, CannotCreateError when the cache cannot be written, and DataError when what was made is
    no archive of an installed system.
    """
    known = None if refresh else find(directory, order)
    if known is not None:
        return known
    with _locked(directory, order, progress) as (lock, had_to_wait):
        made_meanwhile = find(directory, order) if had_to_wait or not refresh else None
        return made_meanwhile or _make(directory, order, make, lock)


def find(directory: str, order: Order) -> CachedArchive | None:
    """Return the archive of `order`, or None when it is not there whole."""
    path = os.path.join(directory, order.name + ".tar")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with open(os.path.join(directory, order.name + ".json"), encoding="utf-8") as file:
            record = json.load(file)
        if record["size_bytes"] == os.stat(path).st_size:
            packages = tuple(map(str, record["packages"]))
            return CachedArchive(path, str(record["sha256"]), record["size_bytes"], packages, str(record["made_by"]))
    return None


def _make(directory: str, order: Order, make: Maker, lock: int) -> CachedArchive:
    path = os.path.join(directory, order.name + ".tar")
    record_path = os.path.join(directory, order.name + ".json")
    with staging.staged(path, replace=True, mode=0o644) as stage:
        made_by = make(stage.fd, lock)
        sha256, packages = inspect(f"/proc/self/fd/{stage.fd}", order.source)
        archive = CachedArchive(path, sha256, stage.size_bytes, packages, made_by)
        staging.remove(record_path)
    staging.write_file(record_path, _record(order, archive))
    return archive


def _record(order: Order, archive: CachedArchive) -> bytes:
    facts = asdict(order) | asdict(archive)
    del facts["path"]
    return json.dumps(facts, indent=1).encode() + b"\n"


@contextlib.contextmanager
def _locked(directory: str, order: Order, progress: Progress) -> Iterator[tuple[int, bool]]:
    """Hold the right to make the archive; give its descriptor, and whether somebody else had it before."""
    path = os.path.join(directory, f".{order.name}.lock")
    try:
        os.makedirs(directory, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=error.filename or path) from error
    try:
        yield fd, _wait_for_lock(fd, order, progress)
    finally:
        os.close(fd)


def _wait_for_lock(fd: int, order: Order, progress: Progress) -> bool:
    try:
        if locks.try_lock(fd, exclusive=True):
            return False
        with progress.task(f"waiting for another process that makes {order.source}"):
            while not locks.try_lock(fd, exclusive=True):
                time.sleep(_POLL_SECONDS)
    except OSError as error:
        raise from_os_error(error, "lock", f"{order.name}.lock") from error
    return True


def inspect(path: str, source: str) -> tuple[str, tuple[str, ...]]:
    """Read the whole archive `path` once; return its SHA-256 and its packages as sorted lines NAME=VERSION.

    Raises DataError when it is damaged or nothing is installed in it; `source` names it.
    """
    status = b""
    with open_archive(path) as archive:
        base = TarBase(archive)
        for entry in base.entries():
            if entry.path == _DPKG_STATUS and isinstance(entry, Entry) and entry.inode.type is FileType.FILE:
                status = b"".join(data for _, data in entry.inode.contents.pieces())
        sha256 = base.origin.sha256
    packages = installed_packages(status.decode(errors="replace"))
    if sha256 is None or not packages:
        raise DataError("no package is installed in the bootstrapped archive", where=source)
    return sha256, packages


def installed_packages(status: str) -> tuple[str, ...]:
    """Return NAME=VERSION of every package that dpkg's status file calls installed, sorted (dpkg-query(1))."""
    found = set()
    for stanza in status.split("\n\n"):
        lines = (line.partition(": ") for line in stanza.splitlines() if line[:1] not in (" ", "\t"))
        fields = {name: value for name, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            found.add(f"{fields['Package']}={fields['Version']}")
    return tuple(sorted(found))
