"""Filling a sparse file with a file system, or with swap.

Nobody needs to be root for it, and root does it in the same way: `mke2fs -d` copies a scratch tree (names and
contents), debugfs makes every inode what the tree says (`umldisk.build.attributes`), e2fsck looks at the result. No
mount, no loop device, no fakeroot. The same tree gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from umldisk.build import attributes
from umldisk.build.tree import Tree
from umldisk.config.guest import Guest
from umldisk.errors import StorageError, from_os_error, printable
from umldisk.image import mkfs
from umldisk.image.drives import Drive, drive_uuid
from umldisk.image.extfs.volume import Volume, inode_numbers
from umldisk.image.reader import DiskReader
from umldisk.image.swap import build_header
from umldisk.system.files import open_disk
from umldisk.system.process import run

PACKAGE = "e2fsprogs"
_DISK_MODE = 0o600
_PASSES = ("Pass ", "e2fsck ")
"""How lines of e2fsck begin that are no findings."""


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
                os.fchmod(file.fileno(), 0o600)
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


def make_ext_disk(
    path: str,
    guest: Guest,
    drive: Drive,
    share: Tree,
    *,
    workshop: Workshop,
    tree: str,
    when_copied: Callable[[], object] = lambda: None,
) -> None:
    """Make the new file `path` an ext file system that holds `share`; `check` is to look at it.

    `tree` is the scratch tree of the same share, no longer needed once `when_copied` is called. Raises StorageError
    when one of the programs fails.
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
    when_copied()
    write_attributes(path, share, workshop.new_directory(f"{drive.name}.values"), environment=workshop.environment)


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
    numbers = read_inode_numbers(image)
    for script_of in (attributes.device_script, attributes.link_script):
        if commands := list(script_of(share, numbers)):
            attributes.run_script(image, commands, directory, environment=environment)
            numbers = read_inode_numbers(image)
    script = attributes.attribute_script(share, numbers, directory)
    attributes.run_script(image, script, directory, environment=environment)


def read_inode_numbers(image: str) -> dict[str, int]:
    """Return the inode number of every path of `image`."""
    with open_disk(image) as disk:
        return inode_numbers(Volume.open(DiskReader(disk), where=image))


def check(image: str, environment: Mapping[str, str]) -> None:
    """Let e2fsck look at all of `image` without writing; raises StorageError with the first of its findings."""
    finished = run(["e2fsck", "-f", "-n", image], package=PACKAGE, environment=environment, accepted=range(256))
    if finished.status:
        said = finished.stdout.decode(errors="replace").splitlines()
        findings = [line for line in said if line.strip() and not line.startswith(_PASSES)]
        words = findings or finished.stderr.decode(errors="replace").splitlines() or [f"status {finished.status}"]
        raise StorageError(f"e2fsck failed: {printable(words[0].strip())}", where=image)
