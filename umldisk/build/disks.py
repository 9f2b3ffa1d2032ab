"""Filling a sparse file with a file system, or with swap.

Nobody needs to be root for it, and root does it in the same way. A scratch directory carries names
and contents; its owners and modes are whatever suits the builder (files 0600, directories 0700, or
an ordinary user could not read them back). `mke2fs -d` copies it into the image. Then one debugfs
script, derived from the entries alone, gives every inode the owner and mode that the guest shall
see. No mount, no loop device, no fakeroot.

What makes the images small: the file is a hole from end to end before mke2fs sees it, and mke2fs is
told so (see `mke2fs_argv`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from umldisk.build.tree import Entry, FileType
from umldisk.config.guest import Guest
from umldisk.errors import StorageError, from_os_error, printable
from umldisk.image.drives import Drive, drive_uuid
from umldisk.image.ext import mke2fs_argv
from umldisk.image.swap import build_header
from umldisk.system.files import open_disk
from umldisk.system.process import run

PACKAGE = "e2fsprogs"
_DISK_MODE = 0o600
_DEBUGFS_BANNER = "debugfs "


def make_swap_disk(path: str, guest: Guest, drive: Drive) -> None:
    """Make the new file `path` a swap disk, its only block the header."""
    _make_sparse(path, drive.size_bytes)
    header = build_header(size_bytes=drive.size_bytes, uuid=drive_uuid(guest.name, drive), label=drive.name)
    with open_disk(path, writable=True) as disk:
        disk.write_at(0, header)
        disk.sync()


def make_ext_disk(path: str, guest: Guest, drive: Drive, entries: Sequence[Entry], *, scratch: str) -> None:
    """Make the new file `path` an ext file system that holds `entries`, checked and synced.

    `scratch` is a directory that does not exist yet; it is gone afterwards. Raises StorageError
    when one of the programs fails or e2fsck finds a fault.
    """
    _make_sparse(path, drive.size_bytes)
    lay_out_scratch(scratch, entries)
    try:
        uuid = drive_uuid(guest.name, drive)
        run(
            mke2fs_argv(path, label=drive.name, uuid=uuid, tree=scratch, kind=drive.content.value),
            package=PACKAGE,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    apply_ownership(path, entries)
    check(path)
    with open_disk(path, writable=True) as disk:
        disk.sync()


def _make_sparse(path: str, size_bytes: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _DISK_MODE)
        try:
            os.fchmod(fd, _DISK_MODE)
            os.ftruncate(fd, size_bytes)
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os_error(error, "create a disk", path) from error


def lay_out_scratch(scratch: str, entries: Sequence[Entry]) -> None:
    """Write names and contents of `entries` under the new directory `scratch`, for us alone."""
    try:
        for entry in entries:
            _write_scratch(os.path.join(scratch, entry.path[1:]).rstrip("/"), entry)
    except OSError as error:
        raise from_os_error(error, "write scratch files", scratch) from error


def _write_scratch(place: str, entry: Entry) -> None:
    match entry.type:
        case FileType.DIRECTORY:
            os.mkdir(place, 0o700)
        case FileType.SYMLINK:
            os.symlink(entry.target, place)
        case FileType.FILE:
            fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(entry.contents)


def ownership_script(entries: Sequence[Entry]) -> str:
    """Return the debugfs commands that give every inode its owner, group and mode.

    set_inode_field writes `uid` and `gid` in full, the high halves included (debugfs/set_fields.c).
    """
    lines = []
    for entry in entries:
        path = _quote(entry.path)
        lines.append(f"set_inode_field {path} mode 0{entry.inode_mode:o}")
        lines.append(f"set_inode_field {path} uid {entry.uid}")
        lines.append(f"set_inode_field {path} gid {entry.gid}")
    return "\n".join(lines) + "\n"


def _quote(path: str) -> str:
    """Quote for debugfs's reader of lines, where a quote inside quotes is doubled."""
    return '"' + path.replace('"', '""') + '"'


def apply_ownership(image: str, entries: Sequence[Entry]) -> None:
    """Run the ownership script on `image`.

    debugfs exits 0 even when a command failed; all it says on stderr besides its own name counts as
    failure.
    """
    script = ownership_script(entries).encode()
    finished = run(["debugfs", "-w", "-f", "-", image], package=PACKAGE, stdin=script)
    said = finished.stderr.decode(errors="replace").splitlines()
    complaints = [line for line in said if line.strip() and not line.startswith(_DEBUGFS_BANNER)]
    if complaints:
        raise StorageError(f"debugfs failed: {printable(complaints[0].strip())}", where=image)


def check(image: str) -> None:
    """Let e2fsck look at all of `image` without writing; raises StorageError for any finding."""
    run(["e2fsck", "-f", "-n", image], package=PACKAGE)
