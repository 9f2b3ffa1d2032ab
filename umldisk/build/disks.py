"""Filling a sparse file with a file system, or with swap.

Nobody needs to be root for it, and root does it in the same way: `mke2fs -d` copies a scratch tree (names and
contents), debugfs makes every inode what the tree says (`umldisk.build.attributes`), e2fsck looks at the result. No
mount, no loop device, no fakeroot. The same tree gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from umldisk.build import attributes
from umldisk.build.tree import Tree
from umldisk.config.guest import Guest
from umldisk.errors import from_os_error
from umldisk.image import mkfs
from umldisk.image.drives import Drive, drive_uuid
from umldisk.image.extfs.volume import Volume, inode_numbers
from umldisk.image.reader import DiskReader
from umldisk.image.swap import build_header
from umldisk.system.files import open_disk
from umldisk.system.process import run

PACKAGE = "e2fsprogs"
_DISK_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where disks are made: a directory that goes away afterwards, and what e2fsprogs is to believe.

    Raises StorageError when it cannot be written.
    """

    directory: str
    environment: Mapping[str, str]

    @classmethod
    def open(cls, directory: str, *, time_ns: int) -> Workshop:
        """Furnish the existing `directory`; `time_ns` is when the file systems say that they were made."""
        configuration = os.path.join(directory, "mke2fs.conf")
        try:
            with open(configuration, "w") as file:
                file.write(mkfs.CONFIGURATION)
        except OSError as error:
            raise from_os_error(error, "write scratch files", configuration) from error
        return cls(directory, mkfs.environment(configuration, time_ns))

    def new_directory(self, name: str) -> str:
        """Make a directory in the workshop and return its path."""
        path = os.path.join(self.directory, name)
        try:
            os.mkdir(path)
            os.chmod(path, 0o700)
        except OSError as error:
            raise from_os_error(error, "create a scratch directory", path) from error
        return path


def make_swap_disk(path: str, guest: Guest, drive: Drive) -> None:
    """Make the new file `path` a swap disk, its only block the header."""
    make_sparse(path, drive.size_bytes)
    header = build_header(size_bytes=drive.size_bytes, uuid=drive_uuid(guest.name, drive), label=drive.name)
    with open_disk(path, writable=True) as disk:
        disk.write_at(0, header)


def make_ext_disk(path: str, guest: Guest, drive: Drive, share: Tree, *, workshop: Workshop, tree: str) -> None:
    """Make the new file `path` an ext file system that holds `share`, checked.

    `tree` is the scratch tree of the same share. Raises StorageError when one of the programs fails or e2fsck finds a
    fault.
    """
    make_sparse(path, drive.size_bytes)
    run(
        mkfs.mke2fs_argv(
            path,
            label=drive.name,
            uuid=drive_uuid(guest.name, drive),
            inodes=mkfs.inode_count(drive.size_bytes, len(share)),
            tree=tree,
            kind=drive.content.value,
        ),
        package=PACKAGE,
        environment=workshop.environment,
    )
    write_attributes(path, share, workshop.new_directory(f"{drive.name}.values"), environment=workshop.environment)
    check(path, workshop.environment)


def make_sparse(path: str, size_bytes: int) -> None:
    """Make the new file `path` one hole of `size_bytes`, readable by its owner alone."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _DISK_MODE)
        try:
            os.fchmod(fd, _DISK_MODE)
            os.ftruncate(fd, size_bytes)
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os_error(error, "create a disk", path) from error


def write_attributes(image: str, share: Tree, directory: str, *, environment: Mapping[str, str]) -> None:
    """Give every inode of the fresh `image` what `share` says, device nodes first; `directory` is scratch."""
    if any(inode.type.is_device for inode in share.values()):
        script = attributes.device_script(share, read_inode_numbers(image))
        attributes.run_script(image, script, directory, environment=environment)
    script = attributes.attribute_script(share, read_inode_numbers(image), directory)
    attributes.run_script(image, script, directory, environment=environment)


def read_inode_numbers(image: str) -> dict[str, int]:
    """Return the inode number of every path of `image`."""
    with open_disk(image) as disk:
        return inode_numbers(Volume.open(DiskReader(disk), where=image))


def check(image: str, environment: Mapping[str, str]) -> None:
    """Let e2fsck look at all of `image` without writing; raises StorageError for any finding."""
    run(["e2fsck", "-f", "-n", image], package=PACKAGE, environment=environment)
