"""The drives of a running guest as they stood at one moment.

    look      which files the guest has its disks in; they must be open in its processes, or locked by one of them
    judge     a file system with a journal recovers from any moment; another one must be frozen, or is refused
    prepare   room for the copies; `sysrq s` and a sync, so that little is left to be written in the pause
    pause     `umldisk.guest.pausing`: freeze, stop, drain
    copy      `frozen`: what can change; backing files do not, and are read in place under a shared lock, as the guest's
    go        and from there on it is a take like any other

A disk that was replaced under a running guest is not its state, and must not be recorded as such. A path says nothing
about that, an inode does. It is compared once more in the pause, when the guest can open and close nothing.

What the state is, is found out by looking at the disk, not into the configuration: a guest may have made another file
system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

from umldisk.checkpoint.record import Consistency
from umldisk.config.guest import Guest
from umldisk.cow.file import CowFile
from umldisk.cow.layers import RawLayer
from umldisk.errors import DataError
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.pausing import Freezer, held, wait_until_drained
from umldisk.guest.state import RunState
from umldisk.image import ext
from umldisk.image.drives import Drive
from umldisk.image.identify import ImageKind, identify
from umldisk.image.reader import DiskReader, Reader
from umldisk.ops.checkpoints.drives import OpenDrive, Still
from umldisk.ops.checkpoints.frozen import Room, open_in_use
from umldisk.system import files, locks
from umldisk.system.files import DiskFile
from umldisk.system.processes import all_processes
from umldisk.system.swapping import open_directory

_STOP_HINT = "stop the guest first"
_JOURNAL = "has_journal"
_WRITE_OUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Live:
    """Opens the drives of a run, as an `Opener`; `freezer` gives the guest's agent."""

    run: RunState
    run_directory: str
    freeze: bool = False
    longest_pause_seconds: float = 30.0
    freezer: Callable[[str], AbstractContextManager[Freezer]] | None = None

    @contextlib.contextmanager
    def __call__(
        self, guest: Guest, drives: Sequence[Drive], /, *, to_merge: bool, rehearsing: bool
    ) -> Iterator[Still]:
        """Pause the guest, copy what can change, let it go on, and give the drives as they stood; see `Opener`.

        Raises DataError when a drive cannot be recorded while the guest runs, and what pausing and copying raise.
        """
        with ExitStack() as resources:
            disks = tuple(self._open(drive, resources) for drive in drives)
            pids = [process.pid for process in self.run.family(all_processes())]
            holding = _Holding.find(pids, [file for disk in disks for file in disk.files])
            consistency = self._judge(disks)
            if rehearsing:
                yield Still(disks, consistency)
                return
            rooms = [self._room(disk, resources) for disk in disks]
            self._write_out(disks)
            mount_points = [disk.drive.mount_point or "" for disk in disks] if consistency is Consistency.FROZEN else []
            seconds = self._copy(rooms, pids, holding, mount_points)
            frozen = tuple(_frozen(disk, room) for disk, room in zip(disks, rooms, strict=True))
            yield Still(frozen, consistency, seconds)

    def _open(self, drive: Drive, resources: ExitStack) -> OpenDrive:
        """Open the files that the guest was started with, the one it writes to without any lock."""
        found = next((disk for disk in self.run.disks if disk.drive == drive.name), None)
        if found is None:
            raise DataError("the running guest was started without this drive", where=drive.name, hint=_STOP_HINT)
        directory = resources.enter_context(open_directory(os.path.dirname(found.path)))
        top = resources.enter_context(open_in_use(directory, os.path.basename(found.path)))
        if found.backing is None:
            layer = RawLayer(top)
            return OpenDrive(drive, layer, None, layer)
        base = resources.enter_context(files.open_disk(found.backing))
        locks.lock(base.fd, base.path, exclusive=False)
        cow = CowFile.over(top, RawLayer(base), accept_truncated=True)
        return OpenDrive(drive, cow.layer, cow, cow.backing)

    def _room(self, disk: OpenDrive, resources: ExitStack) -> Room:
        with open_directory(os.path.dirname(disk.view.disk.path)) as directory:
            return Room.prepare(disk.view, directory, resources)

    # -- how consistent -----------------------------------------------------------------------------------------

    def _judge(self, disks: Sequence[OpenDrive]) -> Consistency:
        """Return how consistent the drives will be; all are frozen when one must be."""
        reasons = [(disk, reason) for disk in disks if (reason := _reason_to_freeze(disk)) is not None]
        if not reasons and not self.freeze:
            return Consistency.JOURNAL
        disk, reason = reasons[0] if reasons else (disks[0], "a freeze was asked for")
        for one in disks:
            if one.drive.mount_point is None:
                raise DataError(
                    f"{one.drive.name} cannot be recorded while the guest runs: it holds no file system",
                    where=one.view.disk.path,
                    hint=_STOP_HINT,
                )
        if not self.run.has_agent:
            raise DataError(
                f"{disk.drive.name} cannot be recorded while the guest runs: {reason}, and the guest has no agent",
                where=disk.view.disk.path,
                hint=f"build the guest with agent = true, or {_STOP_HINT}",
            )
        return Consistency.FROZEN

    # -- the pause ----------------------------------------------------------------------------------------------

    def _write_out(self, disks: Sequence[OpenDrive]) -> None:
        """Have guest and host write what they hold back, while the guest runs."""
        mconsole_of(self.run, timeout_seconds=_WRITE_OUT_SECONDS).send("sysrq s")
        for disk in disks:
            disk.sync()

    def _copy(
        self, rooms: Sequence[Room], pids: Sequence[int], holding: _Holding, mount_points: Sequence[str]
    ) -> float:
        """Fill all rooms within one pause; return how long that was."""
        limit_seconds = self.longest_pause_seconds
        with (
            self._agent() if mount_points else contextlib.nullcontext() as agent,
            held(self.run, limit_seconds=limit_seconds, freezes=agent is not None) as hold,
            hold.frozen(agent, mount_points) if agent else contextlib.nullcontext(),
            hold.paused(),
        ):
            wait_until_drained(pids, [room.layer.disk.fd for room in rooms], hold.check)
            holding.require_still()
            for room in rooms:
                room.fill(hold.check)
                hold.check()
        assert hold.pause_seconds is not None
        return hold.pause_seconds

    def _agent(self) -> AbstractContextManager[Freezer]:
        if self.freezer is not None:
            return self.freezer(self.run_directory)
        from umldisk.guest.agent import Agent

        return Agent(self.run_directory)


def _frozen(disk: OpenDrive, room: Room) -> OpenDrive:
    """Return the drive as it is in the copy."""
    if disk.cow is None:
        layer = RawLayer(room.copy)
        return replace(disk, view=layer, bottom=layer, copied_from=disk.view.disk)
    cow = CowFile.over(room.copy, disk.bottom)
    return replace(disk, view=cow.layer, cow=cow, copied_from=disk.view.disk)


def _reason_to_freeze(disk: OpenDrive) -> str | None:
    """Say why the drive's contents do not recover from any moment by themselves; None when they do."""
    reader: Reader = disk.cow or DiskReader(disk.view.disk)
    kind = identify(reader)
    if kind in (ImageKind.EXT3, ImageKind.EXT4):
        with contextlib.suppress(DataError):
            if _JOURNAL in ext.read_superblock(reader).features:
                return None
    if kind in (ImageKind.EXT2, ImageKind.EXT3, ImageKind.EXT4):
        return f"its {kind.value} has no journal to recover by"
    return f"what it holds ({kind.value}) is not known to recover by itself"


# -- whose files they are ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """A file that the guest has open as descriptor `link`, or where that cannot be seen, locked."""

    file: DiskFile
    link: str | None

    def is_still(self, pids: Sequence[int]) -> bool:
        if self.link is None:
            return _is_locked_by(self.file, pids)
        try:
            return files.Identity.of(os.stat(self.link)) == self.file.identity
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class _Holding:
    """The files of a take, and where a guest was seen to hold each of them."""

    pids: Sequence[int]
    held: tuple[_Held, ...]

    @classmethod
    def find(cls, pids: Sequence[int], wanted: Sequence[DiskFile]) -> _Holding:
        """Find all of the files with the guest; raises DataError for one that it does not hold."""
        links: dict[files.Identity, str] = {}
        for pid in pids:
            if len(links) < len(wanted):
                links |= _open_files(pid, {file.identity for file in wanted} - links.keys())
        holding = cls(pids, tuple(_Held(file, links.get(file.identity)) for file in wanted))
        holding.require_still()
        return holding

    def require_still(self) -> None:
        """Raise DataError when one of the files is not the guest's (any more)."""
        for one in self.held:
            if not one.is_still(self.pids):
                raise DataError(
                    "the running guest does not have this disk open: it is not mounted, or another file took its place",
                    where=one.file.path,
                    hint=f"mount it in the guest, or {_STOP_HINT}",
                )


def _open_files(pid: int, wanted: set[files.Identity]) -> dict[files.Identity, str]:
    """Return which of the wanted files a process has open, with the link to its descriptor."""
    found = {}
    directory = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            link = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                identity = files.Identity.of(os.stat(link))
                if identity in wanted:
                    found[identity] = link
    return found


def _is_locked_by(file: DiskFile, pids: Sequence[int]) -> bool:
    """Whether one of the processes has a lock on the file that keeps writers away."""
    holder = locks.holder(file.fd)
    return holder is not None and holder.pid in pids
