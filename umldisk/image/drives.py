"""The five drives of a guest, and the words that hand them to UML.

    ubd  drive  base file  writes go to  mounted on
    0    root   root_fs    root_cow      /
    1    var    var_fs     var_cow       /var
    2    home   home_fs    home_cow      /home
    3    tmp    tmp_fs     tmp_fs        /tmp
    4    swap   swap_fs    swap_fs       swap

What is worth keeping or judging runs copy-on-write, so that a base is never written; what is thrown
away at every reset does not. The guest sees ubd N as /dev/ubda, ubdb, ... in that order.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from enum import Enum

from umldisk.errors import DataError

MIB = 1 << 20
GIB = 1 << 30

_UUID_NAMESPACE = uuid.UUID("7d4c8f0e-5a0b-4c36-9a55-3a4a35e1b6b0")
_UNCARRIED = b',:" \t\n\v\f\r\xa0'
"""What the ubd option and the kernel's command line cannot carry, or only with quotes that we do not make. The kernel
takes the byte 0xa0, which is part of some letters in UTF-8, for a blank (lib/ctype.c)."""


class Content(Enum):
    """What a drive is formatted as."""

    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    SWAP = "swap"


class AtStart(Enum):
    """What happens to a drive whenever its guest is started.

    KEEP leaves it as it is. DISCARD lets the guest write to a COW file that nobody sees again. REBUILD gives it what
    `reset` does: a fresh COW file, or where there is none a new file system.
    """

    KEEP = "keep"
    DISCARD = "discard"
    REBUILD = "rebuild"


@dataclass(frozen=True, slots=True)
class Drive:
    """One disk of a guest: its number, where it is mounted, whether it runs copy-on-write.

    `mount_point` is None for swap, `mount_mode` the permissions of the file system's top directory.
    """

    name: str
    ubd: int
    mount_point: str | None
    size_bytes: int = GIB
    content: Content = Content.EXT4
    copy_on_write: bool = True
    mount_mode: int = 0o755
    at_start: AtStart = AtStart.KEEP

    @property
    def file_name(self) -> str:
        """The name of the base file."""
        return f"{self.name}_fs"

    @property
    def cow_name(self) -> str | None:
        """The name of the COW file, or None when the guest writes the base itself."""
        return f"{self.name}_cow" if self.copy_on_write else None

    @property
    def device(self) -> str:
        """The block device inside the guest."""
        return f"/dev/ubd{chr(ord('a') + self.ubd)}"


ROOT = Drive("root", 0, "/")
VAR = Drive("var", 1, "/var")
HOME = Drive("home", 2, "/home")
TMP = Drive("tmp", 3, "/tmp", copy_on_write=False, mount_mode=0o1777)
SWAP = Drive("swap", 4, None, size_bytes=256 * MIB, content=Content.SWAP, copy_on_write=False)

DRIVES = (ROOT, VAR, HOME, TMP, SWAP)
"""The default layout, in the order of the ubd numbers."""


def drive_uuid(guest: str, drive: Drive) -> uuid.UUID:
    """Return the UUID of a guest's drive, which depends on the two names alone."""
    return uuid.uuid5(_UUID_NAMESPACE, f"{guest}/{drive.name}")


def ubd_argument(drive: Drive, directory: str) -> str:
    """Return the kernel argument that attaches `drive`, such as `ubd0=/g/root_cow,/g/root_fs`.

    Raises DataError when UML could not read the path back out of it.
    """
    require_ubd_path(directory)
    files = [drive.cow_name, drive.file_name] if drive.cow_name else [drive.file_name]
    return f"ubd{drive.ubd}=" + ",".join(os.path.join(directory, name) for name in files)


def require_ubd_path(path: str) -> None:
    """Raise DataError when `path` holds what the ubd option cannot carry.

    UML splits the option at commas and colons (ubd_setup_common in arch/um/drivers/ubd_kern.c), the kernel its command
    line at blanks outside quotes.
    """
    bad = sorted({byte for byte in os.fsencode(path) if byte in _UNCARRIED})
    if bad:
        raise DataError(
            "the path cannot stand in UML's ubd option",
            where=path,
            expected="no comma, colon, quote or blank, nor the byte 0xa0",
            found=" ".join(repr(chr(byte)) for byte in bad),
            hint="choose another directory with --site",
        )
