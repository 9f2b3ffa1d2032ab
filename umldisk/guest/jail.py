"""The jail of a UML kernel: the words for bubblewrap that leave it nothing of the host but what is its own.

Whoever is root in a guest can write to the memory of the UML kernel, which is an ordinary program, or simply mount
hostfs, which hands out the host's files, wherever `hostfs=DIR` points (`-o ../../../../etc` leads out of it). So root
in the guest is taken for what it can become: any code, run by the user that runs the kernel. The jail is made for that.

    visible at the same path as outside              how
      /tmp                                           tmpfs of bounded size; the guest's memory is a file in it
      UML's directory: mconsole socket, pid file     writable
      COW files, plain disks                         writable, each file by itself
      backing files, the kernel, libc and ld.so      read-only, each file by itself
      the directories above these                    empty but for them, read-only

    not there: every other file, /proc, /sys, /dev, other processes, the network, System V IPC, the host's name, the
    environment, a terminal, further user namespaces. No capability, in any set, and no_new_privs.

The kernel needs no more. Without /proc/cpuinfo it says "Failed to get host CPU features" and goes on; it looks there
for the flags that its own /proc/cpuinfo shows, and for the instructions that it takes xor routines by. Network devices
are for whoever starts the guest to open: the transport `fd` takes a descriptor.

What is bounded: `size` bounds what /tmp may hold, which is where memory of the host could be eaten by writing files.
Bubblewrap's own root is a tmpfs as well, half of the host's memory large, and so it is made read-only at the end. A
full /tmp ends the guest with a bus error when it asks for a page of its memory: it hurts nobody else.

Paths are given as they stand in COW headers and in the kernel's arguments, symlinks or not: bubblewrap follows them
outside, as the guest's user, and makes plain directories inside, so that each file lies inside at the very path that
it was given by. Two spellings of one file are two paths, of which only the given one works.

Root, and for a guest that has a user of its own that user, may run it. Either way the kernel gets a user namespace
with nobody but that one user in it; root in it, without capabilities, is the owner of root's files, and none of them
can be seen. Descriptors are not the jail's: what is open when bubblewrap is started stays open in the guest.

Left out, and why. seccomp: UML needs ptrace, mmap and clone, so that a filter would take away little and would have
to follow every version of the kernel and of libc. cgroups: bounds of memory taken other than by files, of processes
and of processor time are the service manager's (MemoryMax=, TasksMax= in a unit). Quotas: the disks' own files and
UML's directory may be made longer than the disks are, up to what the host's file system has; give guests one of their
own. The number of files in /tmp: an empty one takes about a kilobyte of the host's that no size counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from umldisk.errors import NoInputError
from umldisk.guest.kernel import Kernel
from umldisk.system.process import find_program, run

TEMP_DIRECTORY = "/tmp"
_TEMP_MARGIN_BYTES = 1 << 20
_OLDEST = (0, 8, 0)
"""The first bubblewrap with --size and --disable-userns."""
_HINT = "apt-get install bubblewrap, or start without a jail: --no-jail"


@dataclass(frozen=True, slots=True)
class Jail:
    """What a kernel may see. All paths are absolute and name what is there already.

    `read_only` and `writable` are files, `socket_directory` is UML's uml_dir, `temp_bytes` bounds /tmp. On `info_fd`
    bubblewrap writes JSON with "child-pid", the host's number of the init of the process namespace: when that one is
    killed, the kernel of the host kills all others.

    `lock_fd` stays open in that init and is closed in the kernel, which could otherwise unlock it for all.
    `own_users` can be switched off for root alone, where there are no user namespaces.
    """

    kernel: Kernel
    read_only: tuple[str, ...]
    writable: tuple[str, ...]
    socket_directory: str
    temp_bytes: int
    info_fd: int
    lock_fd: int | None = None
    own_users: bool = True


def jail_argv(jail: Jail) -> tuple[str, ...]:
    """Return bubblewrap's words up to "--", to be followed by the kernel's path and its arguments."""
    users = ("--unshare-user", "--disable-userns") if jail.own_users else ()
    lock = ("--sync-fd", str(jail.lock_fd)) if jail.lock_fd is not None else ()
    return (
        "bwrap",
        "--unshare-all",
        *users,
        "--new-session",
        *("--cap-drop", "ALL"),
        *("--hostname", "guest"),
        "--clearenv",
        *("--setenv", "TMPDIR", TEMP_DIRECTORY),
        *_mounts(jail),
        *("--chdir", "/"),
        *("--info-fd", str(jail.info_fd)),
        *lock,
        "--",
    )


def _mounts(jail: Jail) -> tuple[str, ...]:
    """Return what is mounted in the order of mounting: /tmp first, since a site may lie below it."""
    program = (*jail.kernel.libraries, (jail.kernel.path, jail.kernel.path))
    return (
        *("--size", str(jail.temp_bytes), "--tmpfs", TEMP_DIRECTORY),
        *("--bind", jail.socket_directory, jail.socket_directory),
        *_binds("--ro-bind", program),
        *_binds("--ro-bind", ((path, path) for path in jail.read_only)),
        *_binds("--bind", ((path, path) for path in jail.writable)),
        *("--remount-ro", "/"),  # the mounts on it stay as they are
    )


def _binds(option: str, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(word for pair in dict.fromkeys(pairs) for word in (option, *pair))


def temp_bytes_for(memory_bytes: int) -> int:
    """Return how large /tmp has to be for a guest with this much memory.

    UML's memory file is as long as `mem=` says, to the byte (seen with 6.1 from 32M on), as long as address
    randomisation is off; the margin holds the page with which UML first tries whether it may run code from there
    (arch/um/os-Linux/mem.c).
    """
    return memory_bytes + _TEMP_MARGIN_BYTES


def find_bubblewrap() -> str | None:
    """Return the absolute path of bubblewrap, or None when it is not installed."""
    try:
        return find_program("bwrap")
    except NoInputError:
        return None


def require_bubblewrap() -> str:
    """Return the absolute path of a bubblewrap that can make the jail.

    Raises NoInputError when there is none, or one that is too old.
    """
    path = find_bubblewrap()
    if path is None:
        raise NoInputError("bubblewrap, which jails guests, is not installed", hint=_HINT)
    said = run([path, "--version"]).stdout.decode(errors="replace").strip()
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", said, re.ASCII)
    if numbers is None or tuple(map(int, numbers.groups())) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise NoInputError("bubblewrap is too old to jail guests", where=path, expected=oldest, found=said, hint=_HINT)
    return path


def can_have_own_users() -> bool:
    """Whether this machine lets anybody make user namespaces; without them only root can have a jail."""
    try:
        with open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file:
            return int(file.read()) > 0
    except (OSError, ValueError):
        return False
