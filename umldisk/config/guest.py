"""A guest: its name, its drives, where its files lie, and the command that boots it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from umldisk.config.settings import DEFAULT_KERNEL, DEFAULT_MEMORY, EMBEDDED_BASE, SMALL_MEMORY, Bootstrap, Files
from umldisk.errors import DataError, UsageError
from umldisk.image.drives import DRIVES, Drive, ubd_argument

_COMMAND_LINE_BYTES = 4096 - len(" console=tty0")
"""What UML takes as arguments (COMMAND_LINE_SIZE in arch/um), less the one that it adds."""
# One label of a host name (RFC 1123), which is also at most what UML takes as a umid.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest; `directory`, which need not exist, is absolute and holds disks and COW files.

    `base` is busybox, debian:SUITE, ubuntu:SUITE, the absolute path of an archive, directory or image, or "-" for an
    archive on stdin. `user` is who owns the disks when root builds them, by default the user named like the guest.
    `store` is where its checkpoints are kept, a directory or s3://bucket/prefix; None is the site's own. `kernel` is an
    absolute path, or the name of a program. `probe` is a shell command for `drill`.
    """

    name: str
    directory: str
    drives: tuple[Drive, ...] = DRIVES
    base: str = EMBEDDED_BASE
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    files: Files = field(default_factory=Files)
    memory: str | None = None
    user: str | None = None
    store: str | None = None
    kernel: str = DEFAULT_KERNEL
    probe: str | None = None

    @property
    def start_memory(self) -> str:
        """How much memory the guest starts with, in UML's spelling."""
        return self.memory or (SMALL_MEMORY if self.base == EMBEDDED_BASE else DEFAULT_MEMORY)

    @property
    def owner(self) -> str:
        """The name of the user, and of its group, that the disks belong to when root builds them."""
        return self.user or self.name

    def base_path(self, drive: Drive) -> str:
        """Where the drive's base file lies."""
        return os.path.join(self.directory, drive.file_name)

    def cow_path(self, drive: Drive) -> str | None:
        """Where the drive's COW file lies, or None when the drive has none."""
        return os.path.join(self.directory, drive.cow_name) if drive.cow_name else None


def is_guest_name(name: str) -> bool:
    """Whether `name` is one label of a host name."""
    return _NAME.fullmatch(name) is not None


def require_guest_name(name: str) -> str:
    """Return `name`, which becomes a host name, a umid and the name of a directory.

    Raises UsageError unless it is one label of a host name.
    """
    if not is_guest_name(name):
        raise UsageError(
            "not a name for a guest",
            where=name or "empty",
            expected="1 to 63 letters, digits and hyphens, no hyphen first or last",
        )
    return name


def boot_argv(guest: Guest, *, uml_dir: str | None = None) -> tuple[str, ...]:
    """Return the command that boots `guest` with its console on stdin and stdout.

    Without address randomisation switched off, UML loses a random part of its memory. The kernel
    spends more than half of its start on measuring RAID 6 code, which is left out; a guest that
    wants btrfs or md RAID 6 must not have that argument. `uml_dir` is where the guest's mconsole
    socket appears, under the guest's name; by default that is ~/.uml.

    Raises DataError when UML could not read the disks' paths out of it, or would find it too long.
    """
    ubds = [ubd_argument(drive, guest.directory) for drive in guest.drives]
    return ("setarch", "-R", guest.kernel, *kernel_arguments(guest, ubds, uml_dir=uml_dir))


def kernel_arguments(
    guest: Guest, ubds: Sequence[str], *, uml_dir: str | None, serial: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return what the kernel gets as arguments, with its disks as `ubds` and perhaps serial lines.

    Raises DataError when UML would cut them off.
    """
    words = (
        f"mem={guest.start_memory}",
        f"umid={guest.name}",
        *([f"uml_dir={uml_dir}"] if uml_dir else []),
        "con=null",
        "con0=fd:0,fd:1",
        "ssl=null",
        *serial,
        "root=/dev/ubda",
        "ro",
        "initcall_blacklist=raid6_select_algo",
        *ubds,
    )
    _require_command_line(words, guest.directory)
    return words


def _require_command_line(words: Sequence[str], directory: str) -> None:
    """Raise DataError when UML would cut off its arguments, which hold the paths of the disks in `directory`."""
    length = len(os.fsencode(" ".join(words)))
    if length > _COMMAND_LINE_BYTES:
        raise DataError(
            "the paths of the disks are too long for UML's command line",
            where=directory,
            expected=f"at most {_COMMAND_LINE_BYTES} bytes of arguments",
            found=length,
            hint="choose another directory with --site",
        )
