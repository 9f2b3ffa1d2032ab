"""Starting a guest: look at everything, make what is missing, then let the kernel run.

    claim        the run directory is locked: of two starts at once one goes on
    look         the disks, the host's room, the kernel, the jail; a start that would fail fails here
    make ready   what the drives' policies say, missing COW files, FIFOs, the directory of the sockets
    start        the supervisor starts the kernel and stays with it
    listen       until mconsole answers: then the kernel runs, and can be stopped

The kernel runs as the guest's own user where root has one for it, and in a jail, because root in a guest can get out of
UML's file systems into what the UML user may read (hostfs). Nothing starts without a jail unless that is asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from umldisk.build import manifest, publish
from umldisk.build.files.marker import ready_marker
from umldisk.build.ownership import plan_ownership
from umldisk.config.guest import Guest
from umldisk.config.site import Site
from umldisk.errors import DataError, NoInputError, StorageError, UmldiskError
from umldisk.guest import rundir
from umldisk.guest.at_start import DriveStart, Step, plan_start_policies
from umldisk.guest.commandline import INFO_FD, LOCK_FD, run_arguments
from umldisk.guest.console_log import Place, last_lines, transcript_end
from umldisk.guest.jail import Jail, can_have_own_users, jail_argv, require_bubblewrap, temp_bytes_for
from umldisk.guest.kernel import Kernel, find_kernel
from umldisk.guest.launching import RunPlan, start_supervised
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import RunDisk, RunState, end_of, read_state, running
from umldisk.guest.throwaway import run_disk
from umldisk.ops.restoring.stages import require_finished
from umldisk.ops.running.drives_at_start import apply_policies, finish_interrupted
from umldisk.ops.running.headers import finish_headers, settle_headers
from umldisk.ops.running.preflight import check_disks, check_room, room_of
from umldisk.progress import SILENT, Progress
from umldisk.system.acting import acting_as
from umldisk.system.swapping import open_directory

_KNOWN_INITS = ("busybox", "sysvinit", "systemd")
_TEMP_DIRECTORIES = ("/dev/shm", "/tmp")
_ASK_SECONDS, _SETTLING_SECONDS = 0.05, 10.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How a guest is started; `discard` names drives whose changes are thrown away.

    mconsole is given `answer_seconds` to answer.
    """

    discard: tuple[str, ...] = ()
    jail: bool = True
    dry_run: bool = False
    answer_seconds: float = 30.0


_DEFAULTS = StartOptions()


@dataclass(frozen=True, slots=True)
class StartReport:
    """What was started, or with `dry_run` would be: the process, whom it runs as, with which words and disks."""

    guest: str
    umid: str
    pid: int | None
    user: str
    uid: int
    jailed: bool
    memory_bytes: int
    kernel: str
    transports: tuple[str, ...]
    console_log: str
    disks: tuple[RunDisk, ...]
    argv: tuple[str, ...]
    command: str
    warnings: tuple[str, ...]
    started_at: datetime | None
    seconds: float | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _Runner:
    """Whom the kernel runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]

    def acting(self) -> contextlib.AbstractContextManager[None]:
        """Do something with no more rights than the kernel will have."""
        return acting_as(self.uid, self.gid, groups=self.groups)


def _tell_nobody(_plan: RunPlan) -> None:
    pass


def start_guest(
    site: Site,
    name: str,
    options: StartOptions = _DEFAULTS,
    *,
    announce: Callable[[RunPlan], object] = _tell_nobody,
    progress: Progress = SILENT,
) -> StartReport:
    """Start a guest and return when its mconsole answers.

    What interrupts us later than `announce` is called leaves a guest that `goes_on` tells of.

    Raises UsageError for a guest or drive that there cannot be, NoInputError when disks, kernel or bubblewrap are
    missing, DataError when the disks are not fit to run, BusyError when the guest or somebody else uses them,
    StorageError when there is no room or the kernel does not come up.
    """
    began = time.monotonic()
    guest = _guest(site, name)
    directory = site.run_directory(guest.name)
    starting = _Starting(guest, directory, options, _runner(guest), find_kernel(guest.kernel), progress)
    if options.dry_run:
        require_finished(guest)
        warnings = starting.look()
        disks = starting.planned_disks()
        return starting.report(starting.plan(disks), warnings)
    with rundir.claim(directory) as claim:
        finish_interrupted(site, guest)
        with starting.runner.acting():
            finish_headers(guest)
        warnings = starting.look()
        disks = apply_policies(site, guest, discard=options.discard, progress=progress)
        with starting.runner.acting():
            settle_headers(disks)
        plan = starting.plan(disks)
        rundir.prepare(directory, plan.socket_directory, uid=plan.uid, gid=plan.gid)
        since = transcript_end(directory)
        announce(plan)
        start_supervised(plan, claim)
    state = _listen(directory, since, options.answer_seconds)
    return starting.report(plan, warnings, pid=state.kernel.pid, seconds=time.monotonic() - began)


def goes_on(plan: RunPlan) -> bool:
    """Whether the guest runs that was started as planned, and no other of its name; raises as `read_state` does."""
    state = running(plan.run_directory)
    return state is not None and state.started_at == plan.started_at


def _guest(site: Site, name: str) -> Guest:
    """Return the guest with the directory as the kernel will see it, in which no symlink is left."""
    guest = site.guest(name)
    if not os.path.isdir(guest.directory):
        raise NoInputError("there is no such guest", where=guest.directory, hint=f"make it: umldisk build {guest.name}")
    if publish.is_unfinished(guest):
        hint = f"finish it first: umldisk build {guest.name}"
        raise DataError("a build of the guest was cut off", where=guest.directory, hint=hint)
    return replace(guest, directory=os.path.realpath(guest.directory))


def _runner(guest: Guest) -> _Runner:
    ownership = plan_ownership(guest, is_root=os.geteuid() == 0)
    account = ownership.account
    if account is None:
        return _Runner(ownership.user, os.geteuid(), os.getegid(), tuple(os.getgroups()))
    return _Runner(account.name, account.uid, account.gid, account.groups)


@dataclass(frozen=True, slots=True)
class _Starting:
    """One start with all that it needs."""

    guest: Guest
    run_directory: str
    options: StartOptions
    runner: _Runner
    kernel: Kernel
    progress: Progress

    @property
    def memory_bytes(self) -> int:
        """What the guest may take."""
        found = re.fullmatch(r"([0-9]+)([KMGT]?)", self.guest.start_memory)
        assert found is not None  # umldisk.toml takes nothing else
        return int(found[1]) * _UNITS[found[2]]

    def look(self) -> list[str]:
        """Look for what would make the start fail; return warnings."""
        self.plan(self.planned_disks())
        with self.runner.acting():
            warnings = check_disks(self.guest, self.planned_steps(), jailed=self.options.jail, progress=self.progress)
        room = room_of(self.guest, temp_directory=None if self.options.jail else _temp_directory())
        warnings += check_room(self.guest, memory_bytes=self.memory_bytes, room=room)
        if not self.kernel.is_user_mode_linux:
            warnings.append(f"{self.kernel.path} does not say of itself that it is a UML kernel")
        if self.runner.uid == 0:
            warnings.append("the kernel runs as root: umldisk build --create-user gives the guest a user of its own")
        if not self.options.jail:
            warnings.append("without a jail, root in the guest can read whatever the kernel's user can")
        return warnings

    def planned_disks(self) -> tuple[RunDisk, ...]:
        """Return the disks that the policies will give, without making anything."""
        starts = self.planned_steps()
        return tuple(run_disk(self.guest, one.drive, thrown_away=one.step is Step.THROW_AWAY) for one in starts)

    def planned_steps(self) -> tuple[DriveStart, ...]:
        """Return what will be made of each drive."""
        with open_directory(self.guest.directory) as directory:
            return plan_start_policies(self.guest, directory.names(), discard=self.options.discard)

    def plan(self, disks: tuple[RunDisk, ...]) -> RunPlan:
        """Return what the supervisor is told."""
        init = _init_of(self.guest)
        files = self.guest.files
        has_agent = files.agent and "ttyS0" not in files.consoles and init in _KNOWN_INITS
        sockets = rundir.socket_directory(self.run_directory, self.guest.name, uid=self.runner.uid)
        words = run_arguments(self.guest, disks, socket_directory=sockets, has_agent=has_agent)
        return RunPlan(
            guest=self.guest.name,
            run_directory=self.run_directory,
            socket_directory=sockets,
            argv=("setarch", "-R", *self._jail(disks, sockets), self.kernel.path, *words),
            environment={"PATH": "/usr/bin:/bin"} | ({} if self.options.jail else {"TMPDIR": _temp_directory()}),
            disks=disks,
            uid=self.runner.uid,
            gid=self.runner.gid,
            groups=self.runner.groups,
            jailed=self.options.jail,
            memory_bytes=self.memory_bytes,
            has_agent=has_agent,
            marker=ready_marker(self.guest) if init in _KNOWN_INITS else "",
            started_at=datetime.now(UTC),
        )

    def _jail(self, disks: Sequence[RunDisk], sockets: str) -> tuple[str, ...]:
        if not self.options.jail:
            return ()
        read_only = tuple(dict.fromkeys(disk.backing for disk in disks if disk.backing))
        writable = tuple(disk.path for disk in disks)
        temp_bytes = temp_bytes_for(self.memory_bytes)
        own_users = os.geteuid() != 0 or can_have_own_users()
        jail = Jail(
            self.kernel, read_only, writable, sockets, temp_bytes, INFO_FD, lock_fd=LOCK_FD, own_users=own_users
        )
        return (require_bubblewrap(), *jail_argv(jail)[1:])  # setarch would look for it in fewer places than we do

    def report(
        self, plan: RunPlan, warnings: Sequence[str], *, pid: int | None = None, seconds: float | None = None
    ) -> StartReport:
        """Say what was done, or would be."""
        return StartReport(
            guest=self.guest.name,
            umid=self.guest.name,
            pid=pid,
            user=self.runner.name,
            uid=self.runner.uid,
            jailed=plan.jailed,
            memory_bytes=plan.memory_bytes,
            kernel=self.kernel.path,
            transports=tuple(sorted(self.kernel.transports)),
            console_log=os.path.join(self.run_directory, "console.log"),
            disks=plan.disks,
            argv=plan.argv,
            command=shlex.join(plan.argv),
            warnings=tuple(warnings),
            started_at=None if self.options.dry_run else plan.started_at,
            seconds=None if seconds is None else round(seconds, 3),
            dry_run=self.options.dry_run,
        )


def _init_of(guest: Guest) -> str:
    try:
        return manifest.read(guest.directory).init
    except (NoInputError, DataError):
        return "other"


def _temp_directory() -> str:
    """Return where the kernel without a jail puts its memory, a file that it executes."""
    for path in _TEMP_DIRECTORIES:
        with contextlib.suppress(OSError):
            if os.path.isdir(path) and not os.statvfs(path).f_flag & os.ST_NOEXEC:
                return path
    raise StorageError("the kernel's memory has no place from which it may be executed", where=_TEMP_DIRECTORIES[0])


def _listen(directory: str, since: Place, seconds: float) -> RunState:
    """Wait until mconsole answers; raises StorageError with the guest's last words when it does not.

    Its transcript begins at `since`.
    """
    state = read_state(directory)
    assert state is not None  # the supervisor has just written it
    console = mconsole_of(state, timeout_seconds=1.0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            console.send("version")
        except UmldiskError:
            if not state.is_alive():
                break
            state.kernel.wait(_ASK_SECONDS)
        else:
            return state
    raise _not_answering(directory, state, since)


def _not_answering(directory: str, state: RunState, since: Place) -> StorageError:
    is_alive = state.is_alive()
    if not is_alive:
        state.supervisor.wait(_SETTLING_SECONDS)
    end = None if is_alive else end_of(directory, state)
    words = last_lines(directory, since=since, most=1)
    how = "does not answer" if is_alive else "ended at once"
    return StorageError(
        f"the guest {how}" + (f" with status {end.status}" if end and end.status is not None else ""),
        where=os.path.join(directory, "console.log"),
        found=words[0][:200] if words else None,
        hint=f"see it: umldisk status {state.guest}; end it: umldisk stop {state.guest}" if is_alive else None,
    )
