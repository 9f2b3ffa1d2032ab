"""The words that a UML kernel is started with.

    mem= umid= uml_dir=      who it is, and where its mconsole socket appears
    con0=fd:0,fd:1           the console, tty0 in the guest: FIFOs on the kernel's stdin and stdout
    ssl0=fd:60,fd:61         the agent's line, ttyS0 in the guest: two more FIFOs
    ubdN=COW,BACKING         the disks

UML switches the descriptors that it is given to O_NONBLOCK, for everybody who has the same open file. So each end that
the host uses is opened by itself. The kernel keeps all of them open both ways, so that it never sees an end of file or
a broken pipe, whoever on the host goes away.
"""

from __future__ import annotations

from collections.abc import Sequence

from umldisk.config.guest import Guest, kernel_arguments
from umldisk.guest.state import RunDisk
from umldisk.image.drives import require_ubd_path

AGENT_IN_FD, AGENT_OUT_FD, INFO_FD, LOCK_FD = 60, 61, 62, 63
"""Numbers of descriptors that the kernel, or bubblewrap before it, inherits: those below are soon in use."""


def run_arguments(guest: Guest, disks: Sequence[RunDisk], *, socket_directory: str, has_agent: bool) -> tuple[str, ...]:
    """Return what the kernel gets as arguments; raises DataError when UML could not read a path out of them."""
    serial = [f"ssl0=fd:{AGENT_IN_FD},fd:{AGENT_OUT_FD}"] if has_agent else []
    ubds = [_ubd(disk) for disk in disks]
    return kernel_arguments(guest, ubds, uml_dir=socket_directory, serial=serial)


def _ubd(disk: RunDisk) -> str:
    paths = [disk.path, disk.backing] if disk.backing else [disk.path]
    for path in paths:
        require_ubd_path(path)
    return f"ubd{disk.ubd}=" + ",".join(paths)
