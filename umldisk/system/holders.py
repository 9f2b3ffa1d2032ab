"""Who has a file: searched for in /proc, because the kernel does not say it when it is asked.

    descriptor   /proc/PID/fd/N leads to the very file, also when its name is gone or another's by now; fdinfo/N tells
                 how it was opened and which locks it carries
    mapping      /proc/PID/maps: a mapped file stays in use after its descriptor was closed
    loop device  /sys/block/loopN/loop/backing_file
    mount, swap  what stands on such a device, or on the file itself

A file is known by device and inode number, so that every name finds it. Something else may have taken its name since:
then those who still have the former file are found by the path that /proc shows for it, which ends in " (deleted)", or
in a mount namespace of its own (a guest in a jail) is still the old one.

What cannot be seen: the descriptors of other users' processes, for anyone but root, and processes outside of this pid
namespace. Both are counted or told, never passed over. Mounts are those of our own mount namespace.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from umldisk.system.files import Identity
from umldisk.system.processes import Processes

_DELETED = " (deleted)"


class LockKind(Enum):
    """What the kernel calls a lock in fdinfo: POSIX (fcntl), of the open file description, or of flock(2)."""

    POSIX = "POSIX"
    OFD = "OFDLCK"
    FLOCK = "FLOCK"


_LOCK_KINDS = {kind.value: kind for kind in LockKind}


class FileLock(NamedTuple):
    """A lock that a descriptor carries."""

    kind: LockKind
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A file that is asked about: its path without symlinks, and what it is now; None when there is nothing.

    `device` is that of the file system on which the file lies, or would.
    """

    path: str
    identity: Identity | None
    device: int

    @classmethod
    def of(cls, path: str) -> Target:
        """Look at `path`; raises OSError when neither it nor its directory can be looked at."""
        real = os.path.realpath(path)
        try:
            status = os.stat(real)
        except FileNotFoundError:
            return cls(real, None, os.stat(os.path.dirname(real)).st_dev)
        return cls(real, Identity.of(status), status.st_dev)


@dataclass(frozen=True, slots=True)
class FileUse:
    """A process that has the file; `descriptor` is None for a mapping.

    `path` is what /proc shows. `former`: it is not the file that has the name now, but one that had it before.
    """

    pid: int
    descriptor: int | None
    writable: bool
    locks: tuple[FileLock, ...]
    path: str
    former: bool


@dataclass(frozen=True, slots=True)
class Search:
    """What was found for each target, and of how many processes it could not be told."""

    uses: tuple[tuple[FileUse, ...], ...]
    unseen_pids: tuple[int, ...]
    hides_processes: bool


def search(targets: Sequence[Target], processes: Processes) -> Search:
    """Look for everyone who has one of the files open or mapped; this process is left out."""
    found: list[list[FileUse]] = [[] for _target in targets]
    unseen = []
    for process in processes.values():
        if process.pid == os.getpid() or process.is_kernel_thread:
            continue
        try:
            for number, use in (*_descriptors(process.pid, targets), *_mappings(process.pid, targets)):
                found[number].append(use)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            unseen.append(process.pid)
    return Search(tuple(map(tuple, found)), tuple(unseen), not os.access("/proc/1/stat", os.R_OK))


def open_files(pid: int) -> Iterator[str]:
    """Yield a path below /proc for each regular file and block device that a process has open, as far as can be seen.

    The path opens the file anew, whatever became of its name.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            with contextlib.suppress(OSError):
                mode = os.stat(path).st_mode
                if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                    yield path


def shown_path(link: str) -> str:
    """Return the path that a link of /proc shows, without the mark of a deleted file; "" when it is gone."""
    try:
        return os.readlink(link).removesuffix(_DELETED)
    except OSError:
        return ""


# -- descriptors ------------------------------------------------------------------------------------------------------


def _descriptors(pid: int, targets: Sequence[Target]) -> Iterator[tuple[int, FileUse]]:
    for name in os.listdir(f"/proc/{pid}/fd"):
        link = f"/proc/{pid}/fd/{name}"
        try:
            path, status = os.readlink(link), os.stat(link)
            for number, former in _matches(targets, status, path):
                writable, locks = _how(pid, int(name))
                yield number, FileUse(pid, int(name), writable, locks, path, former)
        except PermissionError:
            raise
        except OSError:
            continue  # closed meanwhile, or on a file system that does not answer


def _matches(targets: Sequence[Target], status: os.stat_result, path: str) -> Iterator[tuple[int, bool]]:
    """Yield the number of each target that an open file is, or was, and whether it only was."""
    identity = Identity.of(status)
    for number, target in enumerate(targets):
        if identity == target.identity:
            yield number, False
        elif path.removesuffix(_DELETED) == target.path and status.st_dev == target.device:
            is_its_name = _identity(path) == identity  # of a file that is really called "... (deleted)"
            if not is_its_name:
                yield number, True


def _how(pid: int, descriptor: int) -> tuple[bool, tuple[FileLock, ...]]:
    """Return whether a descriptor can write, and its locks, of which other descriptors of the file have their own."""
    writable, locks = False, []
    with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if line.startswith("flags:"):
                writable = int(words[1], 8) & os.O_ACCMODE != os.O_RDONLY
            elif line.startswith("lock:") and words[2] in _LOCK_KINDS:
                locks.append(FileLock(_LOCK_KINDS[words[2]], words[4] == "WRITE"))
    return writable, tuple(locks)


# -- mappings ---------------------------------------------------------------------------------------------------------


def _mappings(pid: int, targets: Sequence[Target]) -> Iterator[tuple[int, FileUse]]:
    """Yield each file of the process once, however often it is mapped."""
    seen: dict[tuple[int, str, bool], bool] = {}
    wanted = {str(target.identity.inode) for target in targets if target.identity}
    paths = {target.path for target in targets}
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.rstrip("\n").split(None, 5)
            if len(words) < 6 or (words[4] not in wanted and words[5].removesuffix(_DELETED) not in paths):
                continue
            for number, former in _matches_mapping(pid, words, targets):
                key = (number, words[5], former)
                seen[key] = seen.get(key, False) or words[1][1::2] == "ws"
    for (number, path, former), writable in seen.items():
        yield number, FileUse(pid, None, writable, (), path, former)


def _matches_mapping(pid: int, words: list[str], targets: Sequence[Target]) -> Iterator[tuple[int, bool]]:
    """Yield targets as `_matches` does; the file itself is asked where we may, since maps tells only a device number.

    A file system that gives its subvolumes device numbers of their own (btrfs) shows another one in maps.
    """
    span = "-".join(part.lstrip("0") or "0" for part in words[0].split("-"))
    try:
        yield from _matches(targets, os.stat(f"/proc/{pid}/map_files/{span}"), words[5])
    except OSError:
        major, _colon, minor = words[3].partition(":")
        device = os.makedev(int(major, 16), int(minor, 16))
        for number, target in enumerate(targets):
            named = words[5].removesuffix(_DELETED) == target.path
            if target.identity and str(target.identity.inode) == words[4] and (named or target.device == device):
                yield number, False
            elif named and target.device == device:
                yield number, True


# -- devices ----------------------------------------------------------------------------------------------------------


class DeviceKind(Enum):
    """What of the kernel's own stands on a file."""

    LOOP = "loop device"
    MOUNT = "mounted"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What stands on the file: a loop device, a mount point, or the file that is swapped to.

    `former`: the file was removed or replaced since.
    """

    kind: DeviceKind
    name: str
    former: bool = False


def device_uses(target: Target) -> tuple[DeviceUse, ...]:
    """Return the loop devices on the file, and what is mounted or swaps on them or on the file itself."""
    found = list(_loops(target))
    devices = {use.name for use in found}
    if target.identity is not None and target.identity.inode == -1:
        devices.add(f"{os.major(target.identity.device)}:{os.minor(target.identity.device)}")
    mounts = [DeviceUse(DeviceKind.MOUNT, point) for point in _mount_points(devices)]
    swaps = [DeviceUse(DeviceKind.SWAP, path, former) for path, former in _swaps(target, devices)]
    return (*found, *mounts, *swaps)


def _loops(target: Target) -> Iterator[DeviceUse]:
    for name in sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else ():
        shown = _text(f"/sys/block/{name}/loop/backing_file").rstrip("\n") if name.startswith("loop") else ""
        if shown:
            path = shown.removesuffix(_DELETED)
            same = target.identity is not None and path == shown and _identity(path) == target.identity
            if same or path == target.path:
                yield DeviceUse(DeviceKind.LOOP, f"/dev/{name}", former=not same)


def _mount_points(devices: set[str]) -> Iterator[str]:
    """Yield where these devices, each by its path or its numbers, are mounted (proc(5), mountinfo)."""
    numbers = {_numbers(device) for device in devices}
    for line in _text("/proc/self/mountinfo").splitlines():
        words = line.split()
        if len(words) > 4 and words[2] in numbers:
            yield _unescaped(words[4])


def _swaps(target: Target, devices: set[str]) -> Iterator[tuple[str, bool]]:
    for line in _text("/proc/swaps").splitlines()[1:]:
        shown = _unescaped(line.split()[0]) if line.split() else ""
        path = shown.removesuffix(_DELETED)
        if path in devices or path == target.path or (target.identity and _identity(path) == target.identity):
            yield path, path not in devices and (path != shown or _identity(path) != target.identity)


def _numbers(device: str) -> str:
    if not device.startswith("/"):
        return device
    with contextlib.suppress(OSError):
        number = os.stat(device).st_rdev
        return f"{os.major(number)}:{os.minor(number)}"
    return ""


def _unescaped(word: str) -> str:
    """Undo how /proc writes blanks, tabs, line breaks and backslashes in a path."""
    for escaped, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(escaped, character)
    return word


def _identity(path: str) -> Identity | None:
    with contextlib.suppress(OSError, ValueError):
        return Identity.of(os.stat(path))
    return None


def _text(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""
