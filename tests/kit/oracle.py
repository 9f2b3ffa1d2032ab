"""The old tools as oracles, and what the file system itself says about a file.

uml_moo reads the dialects in `READ_BY_MOO` rightly where the disk is whole pages long and below two tebibytes; where
it is wrong is the subject of tests/real/test_moo_faults.py. It and uml_mkcow are run with a time limit, because a FIFO
as an argument makes them wait for ever, and with freshly allocated memory filled with a pattern, so that what they
read beyond their own buffers is wrong in the same way every time.
"""

import fcntl
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from fixtures import make_cows
from tests.kit import model
from umldisk.cow.dialect import Dialect

READ_BY_MOO = (Dialect.V1_LITTLE, Dialect.V2, Dialect.V3, Dialect.V3_64)
"""What uml_moo reads on a little-endian 64-bit host; all else it refuses over the size."""

TIMEOUT_SECONDS = 60.0
_MEMORY_PATTERN = "165"
_REPOSITORY = Path(__file__).resolve().parents[2]


def run_tool(
    *argv: str | os.PathLike[str],
    cwd: Path | None = None,
    timeout: float = TIMEOUT_SECONDS,
    prepare: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run an old tool to its end, whatever its exit status; `prepare` is called in the child first.

    A status of -8 is SIGFPE. Raises TimeoutExpired, after which the tool is gone.
    """
    return subprocess.run(
        [os.fspath(word) for word in argv],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, "LC_ALL": "C", "MALLOC_PERTURB_": _MEMORY_PATTERN, "PYTHONPATH": str(_REPOSITORY)},
        preexec_fn=prepare,
        restore_signals=False,
    )


def run_umldisk(
    *words: str | os.PathLike[str],
    cwd: Path | None = None,
    timeout: float = TIMEOUT_SECONDS,
    prepare: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run umldisk as a process of its own, in the same way as an old tool."""
    return run_tool(sys.executable, "-m", "umldisk", *words, cwd=cwd, timeout=timeout, prepare=prepare)


def limit_file_size(limit_bytes: int) -> Callable[[], None]:
    """Return a `prepare` that makes writing past `limit_bytes` of any file fail, as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))


def moo(cow: Path, new: Path) -> None:
    """Let uml_moo merge `cow` into the image `new`; it must succeed."""
    _succeed(run_tool("uml_moo", cow, new, cwd=cow.parent))


def moo_in_place(cow: Path) -> None:
    """Let uml_moo merge `cow` into its backing file; it must succeed."""
    _succeed(run_tool("uml_moo", "-d", cow, cwd=cow.parent))


def mkcow(cow: Path, backing: Path) -> None:
    """Let uml_mkcow make an empty COW file; it must succeed."""
    _succeed(run_tool("uml_mkcow", cow, backing))


def _succeed(finished: subprocess.CompletedProcess[bytes]) -> None:
    assert finished.returncode == 0, finished.stderr.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Sample:
    """A COW file, its backing file, and what a guest sees."""

    cow: Path
    backing: Path
    merged: bytes


def sample(
    directory: Path,
    dialect: Dialect = Dialect.V3,
    *,
    size_bytes: int = 16384,
    changed: Set[int] = make_cows.CHANGED_SECTORS,
    cleared: Set[int] = make_cows.CLEARED_SECTORS,
    absolute: bool = False,
) -> Sample:
    """Make files as those in fixtures/, of any size and with any sectors changed or cleared.

    What is zeros in the COW file is holes, as UML leaves it; the backing file has none. The header names the backing
    file without a directory, or with `absolute` as UML does.
    """
    cow, backing = directory / f"{dialect.value}.cow", directory / f"{dialect.value}.base"
    layout = next(layout for layout in make_cows.LAYOUTS if layout.name == dialect.value)
    layout = replace(layout, size_bytes=size_bytes, path=os.fsencode(backing) if absolute else b"")
    files = make_cows.make(layout, changed=changed, cleared=cleared)
    model.write_image(cow, files["cow"])
    backing.write_bytes(files["base"])
    os.utime(backing, (make_cows.MTIME, make_cows.MTIME))
    return Sample(cow, backing, files["merged"])


def twins(
    directory: Path,
    dialect: Dialect = Dialect.V3,
    *,
    size_bytes: int = 16384,
    changed: Set[int] = make_cows.CHANGED_SECTORS,
    cleared: Set[int] = make_cows.CLEARED_SECTORS,
) -> tuple[Sample, Sample]:
    """Make the same sample twice: one for the old tool to change, one for umldisk."""
    pair = []
    for name in ("theirs", "ours"):
        (directory / name).mkdir()
        pair.append(sample(directory / name, dialect, size_bytes=size_bytes, changed=changed, cleared=cleared))
    return pair[0], pair[1]


def allocated_bytes(path: Path) -> int:
    """Return how much room a file takes, after the file system has decided about it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def data_bytes(path: Path) -> int:
    """Return how many bytes of a file are no holes, in whole blocks of the file system."""
    with path.open("rb") as file:
        return sum(end - start for start, end in _data_spans(file.fileno()))


def equal(left: Path, right: Path) -> bool:
    """Whether two files hold the same bytes; skips what is a hole in both, so that huge sparse files are quick."""
    if left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        spans = sorted([*_data_spans(one.fileno()), *_data_spans(other.fileno())])
        return all(
            os.pread(one.fileno(), length, start) == os.pread(other.fileno(), length, start)
            for low, high in spans
            for start, length in _chunks(low, high)
        )


def _chunks(low: int, high: int, grain: int = 1 << 20) -> Iterator[tuple[int, int]]:
    return ((start, min(grain, high - start)) for start in range(low, high, grain))


def _data_spans(fd: int) -> Iterator[tuple[int, int]]:
    end = position = 0
    size = os.fstat(fd).st_size
    while position < size:
        try:
            position = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        end = os.lseek(fd, position, os.SEEK_HOLE)
        yield position, end
        position = end


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a file that lies in one piece on its file system; `shared` with another file or place."""

    offset: int
    length: int
    shared: bool


# linux/fiemap.h: struct fiemap and struct fiemap_extent
_FIEMAP = struct.Struct("=QQIIII")
_FIEMAP_EXTENT = struct.Struct("=QQQQQIIII")
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_FLAG_SYNC = 1
_EXTENT_SHARED = 0x2000
_EXTENT_LIMIT = 4096


def extents(path: Path) -> list[Extent]:
    """Return the extents that the file system lists for a file (FIEMAP), after a sync."""
    request = bytearray(_FIEMAP.size + _EXTENT_LIMIT * _FIEMAP_EXTENT.size)
    _FIEMAP.pack_into(request, 0, 0, (1 << 64) - 1, _FIEMAP_FLAG_SYNC, 0, _EXTENT_LIMIT, 0)
    with path.open("rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, request)
    count = _FIEMAP.unpack_from(request)[3]
    assert count < _EXTENT_LIMIT, "the file has more extents than one call returns"
    return [_extent(request, number) for number in range(count)]


def _extent(answer: bytearray, number: int) -> Extent:
    fields = _FIEMAP_EXTENT.unpack_from(answer, _FIEMAP.size + number * _FIEMAP_EXTENT.size)
    logical, _physical, length, flags = fields[0], fields[1], fields[2], fields[5]
    return Extent(logical, length, bool(flags & _EXTENT_SHARED))


def shared_bytes(path: Path) -> int:
    """Return how many bytes of a file share their place with another file."""
    return sum(extent.length for extent in extents(path) if extent.shared)


def unshared_spans(path: Path) -> Sequence[tuple[int, int]]:
    """Return the stretches (start, end) of a file that are its own alone."""
    return [(extent.offset, extent.offset + extent.length) for extent in extents(path) if not extent.shared]
