"""Room to work in: a directory that vanishes, and file systems made in a file there."""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from disks import GIB, MIB, Disk
from running import BenchError
from workloads import Workload

_MAKERS = {
    "btrfs": ("mkfs.btrfs", "--quiet"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q"),
}

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


@contextlib.contextmanager
def directory(parent: Path | None) -> Iterator[Path]:
    """Give an empty directory below `parent` (None: $TMPDIR or its default) and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="umldisk-bench-", dir=parent) as name:
        yield Path(name).resolve()


def spread(path: Path) -> None:
    """Ask for every directory that is made in `path` to lie in another part of the file system (chattr +T).

    An ext4 without a journal passes over inodes that were freed in the last minute, one by one, for every file that it
    makes near them (recently_deleted in fs/ext4/ialloc.c). After a run whose thousands of files were removed, the next
    one would take ten times as long to make its own. Other file systems have no such flag, and need none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            flags = struct.unpack("i", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))[0]
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("i", flags | _FS_TOPDIR_FL))
    finally:
        os.close(fd)


def needed_bytes(disk: Disk) -> int:
    """Return how much room a workload takes at most.

    That is the pristine pair, and beside it two new images to be compared or one image and a pair to merge in place.
    """
    pair = disk.base_bytes + disk.cow_bytes
    image = min(disk.size_bytes, pair)
    return pair + max(2 * image, image + pair) + 64 * MIB


def require_room(workloads: list[Workload], path: Path) -> None:
    """Raise BenchError when the largest of the workloads does not fit below `path`."""
    require_free(max(_volume_bytes(w) if w.file_system else needed_bytes(w.disk()) for w in workloads), path)


def require_free(needed: int, path: Path) -> None:
    """Raise BenchError when there are no `needed` bytes free below `path`."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise BenchError(
            f"{path} has {free / GIB:.1f} GiB free and {needed / GIB:.1f} GiB are needed; choose another with --dir"
        )


def _volume_bytes(workload: Workload) -> int:
    return needed_bytes(workload.disk()) * 11 // 10 + GIB


def obstacle(workload: Workload) -> str | None:
    """Say why a workload cannot be run here, or return None."""
    return None if workload.file_system is None else volume_obstacle(workload.file_system)


def volume_obstacle(file_system: str) -> str | None:
    """Say why there can be no `volume` of this kind here, or return None."""
    if os.geteuid() != 0:
        return "only root can mount its file system"
    maker = _MAKERS[file_system][0]
    return None if shutil.which(maker) else f"there is no {maker}"


@contextlib.contextmanager
def place_for(workload: Workload, parent: Path) -> Iterator[Path]:
    """Give the directory that a workload runs in, on the file system it asks for; it is emptied afterwards."""
    place = parent / workload.name
    place.mkdir()
    if workload.file_system is None:
        yield place
        shutil.rmtree(place)
        return
    with volume(workload.file_system, _volume_bytes(workload), place):
        yield place


@contextlib.contextmanager
def volume(file_system: str, size_bytes: int, place: Path) -> Iterator[None]:
    """Mount a new file system, made in a file beside it, on the directory `place`."""
    image = place.with_name(f"{place.name}.volume")
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _command(*_MAKERS[file_system], str(image))
    _command("mount", "-o", "loop", str(image), str(place))
    try:
        yield
    finally:
        _unmount(place)
        image.unlink()


def _unmount(place: Path) -> None:
    """Unmount, giving a program that was just killed the time to let go of its files."""
    for _attempt in range(50):
        if not os.path.ismount(place):
            return
        with contextlib.suppress(BenchError):
            _command("umount", str(place))
        time.sleep(0.1)
    raise BenchError(f"{place} is still in use and stays mounted")


def _command(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed: {done.stderr.strip()}")
