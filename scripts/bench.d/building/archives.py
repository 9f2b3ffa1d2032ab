"""The archives that are built from: Debian as mmdebstrap makes it, and made-up trees, the same ones every time.

Contents are pseudo-random without pages of zeros, so that nothing becomes a hole. Names, sizes and times depend on
numbers alone.
"""

import io
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from disks import KIB, MIB

_MTIME_SECONDS = 1_600_000_000
_SOURCE_BYTES = 4 * MIB
_FILES_IN_DIRECTORY = 100
_PACKAGES = "e2fsprogs,ifupdown,iproute2,kmod,login,netbase,passwd,sysvinit-core"


def bootstrap_debian(path: Path) -> bool:
    """Let mmdebstrap write Debian bookworm to `path`; False when it is missing or does not come to an end."""
    program = shutil.which("mmdebstrap")
    if program is None:
        return False
    command = [
        program,
        "--quiet",
        "--variant=essential",
        f"--include={_PACKAGES}",
        "--format=tar",
        "bookworm",
        str(path),
    ]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 0


def write_like_debian(path: Path, *, files: int, total_bytes: int) -> None:
    """Write a tree of the shape that a small Debian has: few files have most of the bytes; directories, symlinks."""
    source = random.Random(71)
    weights = [source.lognormvariate(0, 2) for _ in range(files)]
    sizes = [max(1, int(total_bytes * weight / sum(weights))) for weight in weights]
    with _Writer(path) as archive:
        for number, size in enumerate(sizes):
            top = ("usr/lib", "usr/share", "usr/bin", "var/lib", "etc")[number % 5]
            archive.file(f"{top}/package-{number // 8 % 200}/file-{number}", size)
            if number % 16 == 0:
                archive.symlink(f"{top}/package-{number // 8 % 200}/link-{number}", f"file-{number}")


def write_small_files(path: Path, files: int) -> None:
    """Write `files` files of 1 to 4096 bytes, a hundred in each directory."""
    source = random.Random(72)
    with _Writer(path) as archive:
        for number in range(files):
            directory = number // _FILES_IN_DIRECTORY
            archive.file(f"srv/data/{directory // 100:03}/{directory:05}/file-{number}", source.randint(1, 4 * KIB))


def write_one_file(path: Path, size_bytes: int) -> None:
    """Write one file of that size."""
    with _Writer(path) as archive:
        archive.file("srv/large", size_bytes)


class _Writer:
    """A tar archive in the making; parents are made when they are first needed."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.TarFile(path, "w", format=tarfile.GNU_FORMAT)
        self._known: set[str] = set()
        self._source = random.Random(73)
        self._bytes = memoryview(self._source.randbytes(2 * _SOURCE_BYTES))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_error: object) -> None:
        self._tar.close()

    def file(self, name: str, size_bytes: int) -> None:
        """Add a file with contents of its own."""
        self._add_parents(name)
        contents = _Endless(self._bytes, self._source.randrange(_SOURCE_BYTES))
        self._tar.addfile(_member(name, 0o644, size=size_bytes), contents)

    def symlink(self, name: str, target: str) -> None:
        """Add a symlink."""
        self._add_parents(name)
        self._tar.addfile(_member(name, 0o777, kind=tarfile.SYMTYPE, target=target))

    def _add_parents(self, name: str) -> None:
        for parent in _parents(name):
            if parent not in self._known:
                self._known.add(parent)
                self._tar.addfile(_member(parent, 0o755, kind=tarfile.DIRTYPE))


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _member(name: str, mode: int, *, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, size, target
    member.mtime = _MTIME_SECONDS
    return member


class _Endless(io.RawIOBase):
    """A file of any length: the same bytes from a place of its own on, over and over."""

    def __init__(self, data: memoryview, start: int) -> None:
        self._data = data
        self._place = start

    def read(self, count: int = -1) -> bytes:
        """Return `count` bytes, at most 4 MiB."""
        assert 0 <= count <= _SOURCE_BYTES
        piece = bytes(self._data[self._place : self._place + count])
        self._place = (self._place + count) % _SOURCE_BYTES
        return piece
