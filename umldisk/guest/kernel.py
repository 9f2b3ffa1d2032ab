"""A UML kernel: the program, the libraries that it is loaded with, and the network transports built into it.

The libraries are those that the dynamic loader names (ldd(1)); a static kernel has none. Nothing else of the host is
needed to run one.

What a kernel can do, it says itself: its configuration is kept in the program as text, which `linux --showconfig`
prints (arch/um/kernel/config.c.in). The old transports (eth0=tuntap,...) are an option each. The vector transports
(vec0:transport=tap,...) are one option all together, whose members came with different versions: they are told by the
messages of their start (arch/um/drivers/vector_user.c). The bare names would not do. Linkers keep one string as the
tail of another, "tap" as that of "ethertap", and other drivers have names such as "raw" too.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
import struct
from dataclasses import dataclass
from functools import lru_cache

from umldisk.errors import DataError, NoInputError
from umldisk.system.process import find_program, run

_PACKAGE = "user-mode-linux"
_HINT = f"apt-get install {_PACKAGE}, or name the kernel in umldisk.toml"
_ELF_START_BYTES = 18
"""What of an ELF file's header is looked at: e_ident and e_type (elf(5))."""
_ELF_MAGIC = b"\x7fELF"
_EXECUTABLE_TYPES = (2, 3)
"""ET_EXEC, and ET_DYN, which position-independent executables are."""
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.ASCII | re.MULTILINE)
_MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)

_OPTIONS = {
    "ethertap": b"CONFIG_UML_NET_ETHERTAP=y\n",
    "tuntap": b"CONFIG_UML_NET_TUNTAP=y\n",
    "slip": b"CONFIG_UML_NET_SLIP=y\n",
    "slirp": b"CONFIG_UML_NET_SLIRP=y\n",
    "daemon": b"CONFIG_UML_NET_DAEMON=y\n",
    "mcast": b"CONFIG_UML_NET_MCAST=y\n",
    "vde": b"CONFIG_UML_NET_VDE=y\n",
}
_VECTOR_OPTION = b"CONFIG_UML_NET_VECTOR=y\n"
_VECTOR_MESSAGES = {
    "tap": b"user_init_tap: init failed",
    "hybrid": b"user_init_hybrid: init failed",
    "raw": b"user_init_raw: init failed",
    "gre": b"user_init_socket: init failed",
    "l2tpv3": b"user_init_socket: init failed",
    "bess": b"bess open:",
    "fd": b"fd open:",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel: `path` is the program itself, no symlink.

    `libraries` are pairs of a file and the path by which the loader looks for it.
    """

    path: str
    libraries: tuple[tuple[str, str], ...] = ()

    @property
    def transports(self) -> frozenset[str]:
        """The network transports in it, by UML's names; raises NoInputError when the program is gone."""
        return _abilities(self.path, _mtime_ns(self.path))[1]

    @property
    def is_user_mode_linux(self) -> bool:
        """Whether the program holds the configuration of a UML kernel; raises NoInputError when it is gone."""
        return _abilities(self.path, _mtime_ns(self.path))[0]


def find_kernel(guest_kernel: str) -> Kernel:
    """Return the kernel that a guest's `kernel` names: an absolute path, or a program's name.

    Raises NoInputError when there is none, and DataError when it is no ELF executable or misses a library.
    """
    found = guest_kernel if os.path.isabs(guest_kernel) else find_program(guest_kernel, package=_PACKAGE)
    path = os.path.realpath(found)
    _require_executable(path)
    return Kernel(path, _libraries(path))


def _require_executable(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _cannot_read(error, path) from error
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK):
        raise NoInputError("the kernel is no program that we may run", where=path, hint=_HINT)
    try:
        with open(path, "rb") as file:
            start = file.read(_ELF_START_BYTES)
    except OSError as error:
        raise _cannot_read(error, path) from error
    if not _is_executable(start):
        found = repr(start[: len(_ELF_MAGIC)]) if not start.startswith(_ELF_MAGIC) else "another kind of ELF file"
        raise DataError("not a UML kernel", where=path, expected="an ELF executable", found=found, hint=_HINT)


def _is_executable(start: bytes) -> bool:
    if len(start) < _ELF_START_BYTES or not start.startswith(_ELF_MAGIC):
        return False
    order = ">H" if start[5] == 2 else "<H"  # EI_DATA
    return struct.unpack_from(order, start, 16)[0] in _EXECUTABLE_TYPES


def _cannot_read(error: OSError, path: str) -> NoInputError:
    return NoInputError(f"cannot open the kernel: {error.strerror}", where=path, hint=_HINT)


def _libraries(path: str) -> tuple[tuple[str, str], ...]:
    # ldd fails for a static program, and says so in words
    said = run(["ldd", path], package="libc-bin", accepted=(0, 1)).stdout.decode(errors="surrogateescape")
    if missing := _MISSING.search(said):
        raise DataError("the kernel misses a library", where=path, found=f"no {missing[1]}", hint=_HINT)
    return tuple((os.path.realpath(name), name) for name in _LIBRARY.findall(said))


def _mtime_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise _cannot_read(error, path) from error


@lru_cache(maxsize=8)
def _abilities(path: str, _mtime_ns: int) -> tuple[bool, frozenset[str]]:
    """Return whether it is a UML kernel, and its transports."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            sought = dict(_OPTIONS)
            if text.find(_VECTOR_OPTION) >= 0:
                sought |= _VECTOR_MESSAGES
            names = frozenset(name for name, mark in sought.items() if text.find(mark) >= 0)
            return text.find(b"CONFIG_UML=y\n") >= 0, names
    except OSError as error:
        raise _cannot_read(error, path) from error
