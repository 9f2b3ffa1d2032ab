"""The embedded base: one static program that is a whole small system, and the directories around it.

    /bin/busybox          the host's own static busybox
    /bin/ls, /sbin/init   symlinks to it, one for every name it answers to
    /etc, /var/log, ...   empty directories, as a Linux system has them

Debian's busybox-static is taken from the host that builds. It carries the names that it answers to, so asking it gives
the links for exactly the version at hand. It must be static, because the guest has no libc, and must run on the host,
whose kind of processor is the guest's.

What makes it a guest (accounts, fstab, inittab, scripts) is not here: `umldisk.build.files` renders that for every
base. Everything has the program's own modification time, so the same busybox gives the same bytes on any day.
"""

from __future__ import annotations

import hashlib
import posixpath
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from umldisk.build.bases.base import Origin
from umldisk.build.tree import Entry, directory, file, symlink
from umldisk.errors import NoInputError
from umldisk.system.files import open_disk
from umldisk.system.process import run

DEFAULT_PROGRAM = "/bin/busybox"
INSTALLED_AS = "/bin/busybox"
KIND = "busybox"
_PACKAGE_HINT = "apt-get install busybox-static"
_NEEDED = frozenset(
    (
        *("init", "sh", "mount", "umount", "swapon", "swapoff", "getty", "login", "poweroff", "grep", "mkdir"),
        *("hostname", "ip", "ifup", "sync", "usleep", "kill", "echo"),
    )
)
"""What the scripts of `umldisk.build.files` call on this base."""
_PROGRAM_DIRECTORIES = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin"})

_PLAIN = (
    *("/", "/bin", "/dev", "/etc", "/etc/init.d", "/home", "/mnt", "/opt", "/run", "/sbin", "/srv"),
    *("/usr", "/usr/bin", "/usr/sbin", "/usr/local", "/usr/local/bin", "/usr/local/sbin"),
    *("/var", "/var/cache", "/var/lib", "/var/log", "/var/spool"),
    # ifup and ifdown want them, empty as they are
    "/etc/network",
    *(f"/etc/network/if-{moment}.d" for moment in ("pre-up", "up", "down", "post-down")),
)
_MODES = {"/proc": 0o555, "/sys": 0o555, "/root": 0o700, "/tmp": 0o1777, "/var/tmp": 0o1777}
_LINKS = {"/etc/mtab": "/proc/self/mounts", "/var/run": "/run", "/var/lock": "/run"}

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_ELF_HEADER = struct.Struct("<32xQ14xHH6x")
"""Of a 64-bit ELF header: where the program headers are, how long one is, how many (elf(5))."""
_PT_INTERP = 3


class BusyboxBase:
    """The embedded base, made of the busybox at `program` on this host; a `Base`.

    Raises NoInputError, when its entries are asked for, if the program is missing, is not static or lacks what a guest
    needs to start.
    """

    def __init__(self, program: str = DEFAULT_PROGRAM) -> None:
        self._program = program
        self._origin = Origin(KIND, program)

    @property
    def origin(self) -> Origin:
        """The program with the digest of what was read."""
        return self._origin

    def entries(self) -> Iterator[Entry]:
        """Yield directories, the program and its links."""
        contents, mtime_ns = _read_program(self._program)
        links = applet_links(_applets(self._program), mtime_ns=mtime_ns)
        self._origin = Origin(KIND, self._program, hashlib.sha256(contents).hexdigest())
        yield from (directory(path, mtime_ns=mtime_ns) for path in _PLAIN)
        yield from (directory(path, mode, mtime_ns=mtime_ns) for path, mode in _MODES.items())
        yield from (symlink(path, target, mtime_ns=mtime_ns) for path, target in _LINKS.items())
        yield file(INSTALLED_AS, contents, 0o755, mtime_ns=mtime_ns)
        yield from links

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays open between two entries."""


def _read_program(program: str) -> tuple[bytes, int]:
    try:
        with open_disk(program) as found:
            contents = found.read_at(0, found.size_bytes)
            mtime_ns = found.status.st_mtime_ns
    except NoInputError as error:
        raise NoInputError(f"no busybox: {error.what}", where=program, hint=_PACKAGE_HINT) from error
    if not is_static_elf(contents):
        raise NoInputError("this busybox is not a static program", where=program, hint=_PACKAGE_HINT)
    return contents, mtime_ns


def is_static_elf(contents: bytes) -> bool:
    """Whether `contents` is a 64-bit little-endian ELF program that asks for no dynamic linker."""
    if not contents.startswith(_ELF_64_LITTLE) or len(contents) < _ELF_HEADER.size:
        return False
    offset, entry_bytes, count = _ELF_HEADER.unpack_from(contents)
    places = range(offset, offset + entry_bytes * count, entry_bytes or 1)
    kinds = [int.from_bytes(contents[place : place + 4], "little") for place in places]
    return bool(kinds) and _PT_INTERP not in kinds


def _applets(program: str) -> list[str]:
    """Ask busybox for the names it answers to, as paths without the first slash."""
    listed = run([program, "--list-full"]).stdout.decode(errors="replace")
    applets = listed.split()
    missing = _NEEDED - {posixpath.basename(applet) for applet in applets}
    if missing:
        lacking = ", ".join(sorted(missing))
        raise NoInputError(
            "this busybox cannot start a guest",
            where=program,
            found=f"no {lacking}",
            hint=_PACKAGE_HINT,
        )
    return applets


def applet_links(applets: Sequence[str], *, mtime_ns: int = 0) -> list[Entry]:
    """Return one symlink for each applet that belongs in a directory of programs."""
    paths = sorted({f"/{applet}" for applet in applets} - {INSTALLED_AS})
    inside = [path for path in paths if posixpath.dirname(path) in _PROGRAM_DIRECTORIES]
    return [symlink(path, INSTALLED_AS, mtime_ns=mtime_ns) for path in inside]
