"""The embedded base: one static program that is a whole small system, and the skeleton around it.

Debian's busybox-static is taken from the host that builds. It carries the names that it answers to,
so asking it gives the links for exactly the version at hand. It must be static, because the guest
has no libc, and must run on the host, whose kind of processor is the guest's.
"""

from __future__ import annotations

import posixpath
import struct

from umldisk.build.skeleton import skeleton
from umldisk.build.tree import Entry, file, make_tree, symlink
from umldisk.config.guest import Guest
from umldisk.errors import NoInputError
from umldisk.system.files import open_disk
from umldisk.system.process import run

DEFAULT_PROGRAM = "/bin/busybox"
INSTALLED_AS = "/bin/busybox"
_PACKAGE_HINT = "apt-get install busybox-static"
_NEEDED = frozenset({"init", "sh", "mount", "umount", "swapon", "swapoff", "getty", "login", "poweroff"})
_DIRECTORIES = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin"})

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_ELF_HEADER = struct.Struct("<32xQ14xHH6x")
"""Of a 64-bit ELF header: where the program headers are, how long one is, how many (elf(5))."""
_PT_INTERP = 3


def busybox_tree(guest: Guest, *, program: str = DEFAULT_PROGRAM) -> list[Entry]:
    """Return the whole tree of `guest` on the embedded base.

    Raises NoInputError when `program` is missing, is not static or lacks what a guest needs to
    start.
    """
    binary = file(INSTALLED_AS, _read_program(program), 0o755)
    links = applet_links(_applets(program))
    own = skeleton(guest)
    taken = {entry.path for entry in own}
    return make_tree([binary, *own, *(link for link in links if link.path not in taken)])


def _read_program(program: str) -> bytes:
    try:
        with open_disk(program) as found:
            contents = found.read_at(0, found.size_bytes)
    except NoInputError as error:
        raise NoInputError(f"no busybox: {error.what}", where=program, hint=_PACKAGE_HINT) from error
    if not is_static_elf(contents):
        raise NoInputError("this busybox is not a static program", where=program, hint=_PACKAGE_HINT)
    return contents


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
    listed = run([program, "--list-full"]).stdout.decode()
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


def applet_links(applets: list[str]) -> list[Entry]:
    """Return one symlink for each applet that belongs in a directory of programs."""
    paths = sorted({f"/{applet}" for applet in applets} - {INSTALLED_AS})
    return [symlink(path, INSTALLED_AS) for path in paths if posixpath.dirname(path) in _DIRECTORIES]
