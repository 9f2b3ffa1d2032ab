"""What is kept of a guest that was broken into.

    SITE/evidence/GUEST-20261120T031500Z/     0500
        var_cow  var_fs  root_cow ...         0400, moved, never copied: sparse, with the times they had
        evidence.json                         of each file its size, times, former owner and mode, SHA-256;
                                              of each base that stayed its digest; which plan it was kept for,
                                              and from which checkpoints drives came back
        records.jsonl                         the guest's history of checkpoints, a record a line with its digest
        SHA256SUMS                            of all of these; `sha256sum -c SHA256SUMS` checks them

A COW file means nothing without its base. Where the base stays in place (root, home) its digest tells whether it is
still the one; a base that a checkpoint replaces is kept here, and `umldisk merge -b var_fs var_cow NEW` gives what the
guest last saw. As root everything here becomes root's, out of reach of the guest's user.

Nothing here is ever removed by umldisk. The directory appears whole, by one rename from the guest's own, which is why
both must lie on one file system.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from umldisk.checkpoint.assemble import in_parallel
from umldisk.checkpoint.record import Record
from umldisk.errors import CannotCreateError, DataError
from umldisk.progress import SILENT, Progress
from umldisk.system import sparse
from umldisk.system.digest import contents_sha256, sparse_sha256
from umldisk.system.files import DiskFile, open_disk
from umldisk.system.staging import write_file
from umldisk.system.swapping import Directory, Standing, explained, make_directories

DIRECTORY = "evidence"
FACTS, RECORDS, SUMS = "evidence.json", "records.jsonl", "SHA256SUMS"
FORMAT = 1
_FILE_MODE, _DIRECTORY_MODE = 0o400, 0o500
_PIECE_BYTES = 1 << 20
_WORKERS = 2


@dataclass(frozen=True, slots=True)
class EvidenceFile:
    """A file that is kept, as it was in the guest's directory; times in nanoseconds.

    `sha256` is of all its bytes, `digest` the one that manifests of disks have (`umldisk.system.digest`).
    """

    name: str
    size_bytes: int
    allocated_bytes: int
    mtime_ns: int
    ctime_ns: int
    mode: str
    uid: int
    gid: int
    sha256: str
    digest: str


def directory_of(site_directory: str) -> str:
    """Return where a site keeps its evidence."""
    return os.path.join(site_directory, DIRECTORY)


def require_movable(directory: str, names: Iterable[str]) -> None:
    """Raise DataError unless each is a regular file, no symlink or device, which is all that goes away as a whole."""
    for name in names:
        path = os.path.join(directory, name)
        with explained("look at", path):
            mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise DataError("cannot be removed: not a regular file", where=path)


def require_keepable(directory: str, names: Iterable[str]) -> None:
    """Raise DataError unless each file can be moved and made read-only without touching anything else.

    That is: it is a regular file, no symlink or device, and has no second name.
    """
    for name in names:
        path = os.path.join(directory, name)
        with explained("look at", path):
            status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("cannot be kept as evidence: not a regular file", where=path)
        if status.st_nlink != 1:
            raise DataError("cannot be kept as evidence: it has another name too", where=path, found=status.st_nlink)


def require_one_file_system(guest_directory: str, site_directory: str) -> None:
    """Raise CannotCreateError when files of the guest could not be renamed into the site's evidence."""
    place = directory_of(site_directory)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    with explained("look at", place):
        same = os.stat(place).st_dev == os.stat(guest_directory).st_dev
    if not same:
        raise CannotCreateError(
            "evidence is moved, not copied, and its directory lies on another file system than the guest",
            where=place,
            found=guest_directory,
        )


def taken_names(site_directory: str) -> list[str]:
    """Return the names in the site's directory of evidence."""
    path = directory_of(site_directory)
    with explained("list", path):
        return os.listdir(path) if os.path.isdir(path) else []


def examine(directory: str, names: Sequence[str], *, progress: Progress = SILENT) -> list[EvidenceFile]:
    """Read the files that will be kept, where possible without changing the time of their last reading.

    Raises StorageError when one cannot be read.
    """
    paths = [os.path.join(directory, name) for name in names]
    with progress.task("reading the evidence", len(paths)) as task:
        found = []
        for file in in_parallel(_examine, paths, workers=_WORKERS):
            found.append(file)
            task.add(1)
    return found


def _examine(path: str) -> EvidenceFile:
    with open_disk(path) as disk, explained("read", path):
        with contextlib.suppress(PermissionError):  # the files of others
            fcntl.fcntl(disk.fd, fcntl.F_SETFL, fcntl.fcntl(disk.fd, fcntl.F_GETFL) | os.O_NOATIME)
        status = disk.status
        size_bytes = status.st_size
        sha256 = contents_sha256(_pieces(disk, size_bytes), size_bytes).hex()
        digest = sparse_sha256(disk)
    return EvidenceFile(
        name=os.path.basename(path),
        size_bytes=size_bytes,
        allocated_bytes=status.st_blocks * 512,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        mode=f"{stat.S_IMODE(status.st_mode):04o}",
        uid=status.st_uid,
        gid=status.st_gid,
        sha256=sha256,
        digest=digest,
    )


def _pieces(disk: DiskFile, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    for start, end in sparse.data_extents(disk.fd, 0, size_bytes):
        for offset in range(start, end, _PIECE_BYTES):
            yield offset, disk.read_at(offset, min(_PIECE_BYTES, end - offset))


# -- writing ----------------------------------------------------------------------------------------------------------


def write_texts(
    directory: str,
    files: Sequence[EvidenceFile],
    *,
    facts: Mapping[str, object],
    records: Iterable[tuple[Record, str]],
) -> str:
    """Write evidence.json, records.jsonl and SHA256SUMS into `directory`; return the SHA-256 of SHA256SUMS.

    `facts` go into evidence.json beside the files. Raises StorageError.
    """
    texts = {
        FACTS: _facts(files, facts),
        RECORDS: b"".join(_record_line(record, digest) for record, digest in records),
    }
    sums = {file.name: file.sha256 for file in files}
    for name, text in texts.items():
        write_file(os.path.join(directory, name), text)
        sums[name] = hashlib.sha256(text).hexdigest()
    lines = b"".join(_sum_line(name, sums[name]) for name in sorted(sums))
    write_file(os.path.join(directory, SUMS), lines)
    return hashlib.sha256(lines).hexdigest()


def _facts(files: Sequence[EvidenceFile], facts: Mapping[str, object]) -> bytes:
    row = {"format": FORMAT, **facts, "files": [dataclasses.asdict(file) for file in files]}
    return json.dumps(row, indent=1).encode() + b"\n"


def _record_line(record: Record, digest: str) -> bytes:
    row = {"digest": digest, "record": json.loads(record.build())}
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def _sum_line(name: str, sha256: str) -> bytes:
    return f"{sha256}  ".encode() + os.fsencode(name) + b"\n"


# -- keeping ----------------------------------------------------------------------------------------------------------


def make_place(site_directory: str) -> str:
    """Make the site's directory of evidence, for its owner alone, and return its path."""
    path = directory_of(site_directory)
    make_directories(path, parents_at_least=0)
    return path


def close_files(kept: Directory) -> None:
    """Make every file in the directory read-only, durably."""
    owner = _owner()
    for name in kept.names():
        kept.dress(name, Standing(_FILE_MODE, owner, owner))
    kept.sync()


def close_directory(above: Directory, name: str) -> None:
    """Make the directory of evidence read-only, durably."""
    owner = _owner()
    with above.open(name) as kept:
        kept.give(Standing(_DIRECTORY_MODE, owner, owner))
        kept.sync()
    above.sync()


def _owner() -> int | None:
    return 0 if os.geteuid() == 0 else None
