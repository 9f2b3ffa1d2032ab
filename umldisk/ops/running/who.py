"""Who has a disk: guests of the site, other guests, other processes, and what of the kernel's own stands on it.

    a process      has it open or mapped, with a lock or without
    a guest        is a process, or the group of them that one UML kernel is; told by the site's state.json, which only
                   whoever starts guests can write, else by the umid on its command line
    named alone    a guest was started with the disk and has not got it open: UML opens and locks a disk when the guest
                   mounts it, so that this is no leave to change the disk
    the former     somebody replaced or removed the file while it was in use; the holder still writes to the old one

The lock is asked for last, from the kernel itself: it tells of one that somebody has whom we may not look into.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

from umldisk.config.site import Site
from umldisk.cow import header as headers
from umldisk.cow.file import backing_path_of, read_header
from umldisk.errors import NoInputError, UmldiskError, from_os_error
from umldisk.guest.aftermath import left_over
from umldisk.guest.state import RunState, read_state
from umldisk.system import holders, locks
from umldisk.system.files import identify, open_disk
from umldisk.system.holders import DeviceUse, FileUse, LockKind, Target
from umldisk.system.processes import Processes, all_processes, command_line

_UBD_OPTION = re.compile(r"ubd\d+[a-z]*=(.+)", re.ASCII | re.DOTALL)
_COMMAND_BYTES = 15


class How(Enum):
    """In which way a process has a file."""

    LOCKED_FOR_WRITING = "locked for writing"
    LOCKED_FOR_READING = "locked for reading"
    FLOCKED = "locked with flock"
    OPEN_FOR_WRITING = "open for writing"
    OPEN_FOR_READING = "open for reading"
    MAPPED_FOR_WRITING = "mapped for writing"
    MAPPED_FOR_READING = "mapped for reading"
    NAMED = "not open, but named at its start"


_ORDER = {how: number for number, how in enumerate(How)}


@dataclass(frozen=True, slots=True)
class Hold:
    """A guest or another process that has the file.

    `guest` is one of the site that umldisk started; `umid` that of any UML guest. `pid` is None when somebody locks the
    file whom we cannot see. `former`: what it has is the file that had this name before, shown as `path`. `cow_files`
    are those on this file, as their backing file, that it has open too.
    """

    guest: str | None
    umid: str | None
    pid: int | None
    pids: tuple[int, ...]
    command: str | None
    how: tuple[How, ...]
    former: bool
    path: str | None
    cow_files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileHolders:
    """Everyone who has one file; `lock_known` is False when the file may not be opened to ask for its lock."""

    path: str
    exists: bool
    holds: tuple[Hold, ...]
    devices: tuple[DeviceUse, ...]
    lock_known: bool

    @property
    def is_held(self) -> bool:
        """Whether anybody has it."""
        return bool(self.holds or self.devices)


@dataclass(frozen=True, slots=True)
class WhoReport:
    """Who has which file, and how much could not be seen: so many processes of others, or an unknown number."""

    files: tuple[FileHolders, ...]
    unseen_processes: int
    hides_processes: bool

    @property
    def is_any_held(self) -> bool:
        """Whether anybody has one of the files."""
        return any(file.is_held for file in self.files)


def who_has(paths: Sequence[str], site: Site | None = None) -> WhoReport:
    """Look for everyone who has one of the files; the guests of `site` are called by their names.

    Raises NoInputError for a path where nothing is and nobody has what was there, or that leads to something that is
    no disk image; StorageError when a path cannot be looked at.
    """
    targets = [_target(path) for path in paths]
    processes = all_processes()
    found = holders.search(targets, processes)
    guests = _guests(site, processes)
    rows = zip(paths, targets, found.uses, strict=True)
    files = tuple(_file_holders(path, target, uses, processes, guests) for path, target, uses in rows)
    for file in files:
        if not file.exists and not file.is_held:
            raise NoInputError("there is no such file, and nobody has one that was there", where=file.path)
    return WhoReport(files, len(found.unseen_pids), found.hides_processes)


def _target(path: str) -> Target:
    if not path:  # as a shell makes of a variable that is not set; the rest would take it for the working directory
        raise NoInputError("an empty name is that of no file")
    try:
        return Target.of(path)
    except FileNotFoundError as error:
        raise NoInputError("there is no such file", where=path) from error
    except (OSError, ValueError) as error:
        raise from_os_error(error if isinstance(error, OSError) else OSError(str(error)), "look at", path) from error


def _file_holders(
    path: str, target: Target, uses: Sequence[FileUse], processes: Processes, guests: dict[int, RunState]
) -> FileHolders:
    groups = _Groups(processes, guests)
    for use in uses:
        groups.add(use.pid, former=use.former, path=use.path, how=_how(use))
    for pid in _named_by(target, processes):
        if not groups.has(pid):
            groups.add(pid, former=False, path=target.path, how=[How.NAMED])
    lock, lock_known = _asked_lock(path, target)
    if lock is not None and not groups.has_lock():
        groups.add(lock.pid or 0, former=False, path=target.path, how=[_lock_how(exclusive=lock.exclusive)])
    holds = tuple(hold for hold in groups.holds(target))
    return FileHolders(path, target.identity is not None, holds, holders.device_uses(target), lock_known)


def _how(use: FileUse) -> Iterator[How]:
    for lock in use.locks:
        yield How.FLOCKED if lock.kind is LockKind.FLOCK else _lock_how(exclusive=lock.exclusive)
    if use.descriptor is None:
        yield How.MAPPED_FOR_WRITING if use.writable else How.MAPPED_FOR_READING
    else:
        yield How.OPEN_FOR_WRITING if use.writable else How.OPEN_FOR_READING


def _lock_how(*, exclusive: bool) -> How:
    return How.LOCKED_FOR_WRITING if exclusive else How.LOCKED_FOR_READING


def _asked_lock(path: str, target: Target) -> tuple[locks.Holder | None, bool]:
    """Ask the kernel for a lock on the file; also return whether that was possible."""
    if target.identity is None:
        return None, True
    try:
        with open_disk(path) as disk:
            return locks.holder(disk.fd, exclusive=True), True
    except NoInputError:
        if os.access(path, os.R_OK):
            raise  # a directory, a FIFO, ...
        return None, False
    except OSError:  # a file system without locks
        return None, True


# -- guests -----------------------------------------------------------------------------------------------------------


def _guests(site: Site | None, processes: Processes) -> dict[int, RunState]:
    """Return the site's runs by the ids of all their processes."""
    found: dict[int, RunState] = {}
    for name in _names(site):
        try:
            state = read_state(site.run_directory(name)) if site else None
        except UmldiskError:
            continue  # not ours to read; the umid still tells
        if state is not None and site is not None:
            found |= dict.fromkeys(_pids_of(site.run_directory(name), state, processes), state)
    return found


def _pids_of(run_directory: str, state: RunState, processes: Processes) -> set[int]:
    """Return the ids of a run's processes, also of those that a killed kernel left behind."""
    members = [one.pid for one in state.family(processes)]
    if not members:
        with contextlib.suppress(UmldiskError):
            members = [process.pid for process in left_over(run_directory, state)]
    return set(members)


def _names(site: Site | None) -> Iterable[str]:
    try:
        return site.guest_names() if site else ()
    except UmldiskError:
        return ()


def _named_by(target: Target, processes: Processes) -> Iterator[int]:
    """Yield the processes with a ubd option that names the file."""
    for process in processes.values():
        if process.pid != os.getpid() and not process.is_kernel_thread:
            options = (_UBD_OPTION.fullmatch(word) for word in command_line(process.pid))
            paths = [path for option in options if option for path in re.split("[,:]", option[1])]
            if any(_seen_from(process.pid, path) == target.path for path in paths):
                yield process.pid


def _seen_from(pid: int, path: str) -> str:
    """Return the path without symlinks; a relative one is seen from where the process stands."""
    if not os.path.isabs(path):
        above = holders.shown_path(f"/proc/{pid}/cwd")
        return os.path.realpath(os.path.join(above, path)) if above else ""
    return os.path.realpath(path)


# -- groups of processes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """One thing that was seen of one process."""

    pid: int
    path: str
    how: How


class _Groups:
    """What was seen, by guest or process: all processes of a UML kernel are one."""

    def __init__(self, processes: Processes, guests: dict[int, RunState]) -> None:
        self._processes = processes
        self._guests = guests
        self._members: dict[tuple[tuple[object, ...], bool], list[_Member]] = {}

    def add(self, pid: int, *, former: bool, path: str, how: Iterable[How]) -> None:
        """Note how a process has the file; 0 is one that cannot be seen."""
        members = self._members.setdefault((self._key(pid), former), [])
        members += [_Member(pid, path, one) for one in how]

    def has(self, pid: int) -> bool:
        """Whether the guest or process has the file, or a former one."""
        key = self._key(pid)
        return (key, False) in self._members or (key, True) in self._members

    def has_lock(self) -> bool:
        """Whether somebody was seen who locks the file that there is now."""
        lock = (How.LOCKED_FOR_WRITING, How.LOCKED_FOR_READING)
        seen = (one.how for (_key, former), members in self._members.items() if not former for one in members)
        return any(how in lock for how in seen)

    def _key(self, pid: int) -> tuple[object, ...]:
        if pid in self._guests:
            return ("guest", self._guests[pid].guest)
        umid = locks.umid_of(pid) if pid else None
        return ("umid", umid, self._eldest(pid, umid)) if umid else ("pid", pid)

    def _eldest(self, pid: int, umid: str) -> int:
        """Return the first of the ancestors, without a gap, that belong to the same UML guest."""
        return [pid, *takewhile(lambda parent: locks.umid_of(parent) == umid, self._ancestors(pid))][-1]

    def _ancestors(self, pid: int) -> Iterator[int]:
        """Yield the ids of the parent, its parent and so on; a parent always started no later than its children."""
        while (process := self._processes.get(pid)) is not None and process.parent in self._processes:
            pid = process.parent
            yield pid

    def _age_order(self, pid: int) -> tuple[int, int]:
        """Sort the eldest first; of those that started within one tick, parents. Ids say nothing: they start anew."""
        process = self._processes.get(pid)
        return (process.start_ticks if process else 0, sum(1 for _ancestor in self._ancestors(pid)))

    def holds(self, target: Target) -> Iterator[Hold]:
        """Yield every guest and process, guests first."""
        keys = sorted(self._members, key=lambda key: (key[0][0], str(key[0][1]), key[1]))
        for key in keys:
            yield self._hold(self._members[key], target, former=key[1])

    def _hold(self, members: list[_Member], target: Target, *, former: bool) -> Hold:
        pids = sorted({one.pid for one in members if one.pid})
        state = self._guests.get(pids[0]) if pids else None
        pid = min(pids, key=self._age_order) if pids else None
        cows = {cow for one in pids for cow in _cow_files(one, target)} if not former else set()
        return Hold(
            guest=state.guest if state else None,
            umid=state.umid if state else locks.umid_of(pid) if pid else None,
            pid=pid,
            pids=tuple(pids),
            command=_command(pid) if pid else None,
            how=tuple(sorted({one.how for one in members}, key=_ORDER.__getitem__)),
            former=former,
            path=members[0].path if former else None,
            cow_files=tuple(sorted(cows)),
        )


def _command(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read(_COMMAND_BYTES).rstrip("\n")
    except OSError:
        return None


def _cow_files(pid: int, target: Target) -> Iterator[str]:
    """Yield the COW files on the target that a process has open."""
    for link in holders.open_files(pid):
        try:
            with open_disk(link) as disk:
                if not headers.looks_like_cow(disk.read_at(0, 4)):
                    continue
                if target.identity and identify(backing_path_of(disk, read_header(disk))) == target.identity:
                    yield holders.shown_path(link)
        except UmldiskError:
            continue  # no COW file after all, or not ours to read
