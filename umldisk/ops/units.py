"""Templates of systemd units: a guest as a service, and its nightly checkpoint.

    umldisk-guest@.service         start and stop GUEST, by the commands of these names
    umldisk-checkpoint@.service    the nightly job of GUEST, which `cron` prints for one guest
    umldisk-checkpoint@.timer      when

GUEST is what stands behind the @; its letters, digits and hyphens need no escaping, so it is %i and not %I. The
templates name one site and one program.

Type=forking with GuessMainPID=no. `start` returns when the mconsole answers, which is when the unit becomes active, and
leaves the kernel's processes and the supervisor in the unit's control group. No process among them is the main one: the
guest lives on without its supervisor, and the supervisor has work to do after the kernel's end. Without a main process
systemd takes the unit for active as long as the group has a process in it, which is just as long as the guest has
something to do. A guest that shuts down by itself leaves the unit inactive, and another `systemctl start` starts it.
Left out on purpose:

- Type=oneshot with RemainAfterExit=yes: the unit would stay active when the guest is gone, and could not be started.
- PIDFile=: the kernel's end would be the unit's, and systemd would end the supervisor before it had synced the disks.
- Restart=: how the kernel ended is the supervisor's knowledge, not systemd's. A guest that fails over and over is for
  people, and so is one that was broken into.

ExecStop= runs at the end of a unit that ended by itself, too, where `stop` puts in order what a killed guest left.
TimeoutStopSec= is longer than all rungs of its ladder and the syncing after them. Only what is still there then gets
SIGTERM and later SIGKILL (KillMode=control-group): without KillMode=none, of which systemd warns, nothing outlives its
unit. TimeoutStartSec= leaves time for all that `start` does to the disks first, such as making a large one anew.

RequiresMountsFor= orders the unit behind the mounts that the site lies on, and so stops the guest before they go. A
guest of a whole machine comes after network.target, and goes before the network does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from umldisk.config.site import Site
from umldisk.errors import CannotCreateError, from_os_error
from umldisk.ops.cron import UNIT_DIRECTORY, CronOptions, job_of
from umldisk.ops.nightly import INSTANCE, systemd_command, systemd_units
from umldisk.system.staging import write_file

GUEST_UNIT = "umldisk-guest@.service"
START_SECONDS = 1800
STOP_SECONDS = 600
_MOST_UNIT_BYTES = 1 << 20


class Written(Enum):
    """What became of a unit's file, or with a dry run would."""

    NEW = "new"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class UnitsOptions:
    """Where to: `user` means the units of the user's own systemd, `directory` another place than systemd's usual one.

    `replace` lets files of another content be replaced.
    """

    nightly: CronOptions
    user: bool = False
    directory: str | None = None
    replace: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class UnitFile:
    """One unit."""

    path: str
    written: Written
    text: str


@dataclass(frozen=True, slots=True)
class UnitsReport:
    """What was written, and what to say to systemd next; NAME in it stands for a guest."""

    directory: str
    user: bool
    dry_run: bool
    units: tuple[UnitFile, ...]
    commands: tuple[str, ...]


def install_units(site: Site, options: UnitsOptions, *, program: str) -> UnitsReport:
    """Write the templates, each file all or nothing; `program` is the absolute path of umldisk.

    Raises UsageError when a path cannot be written into a unit, CannotCreateError when a file of another content is
    there, before any is written, or the directory takes none, and StorageError.
    """
    directory = options.directory or unit_directory(user=options.user)
    texts = unit_texts(site, options.nightly, program=program, user=options.user)
    files = tuple(_compared(os.path.join(directory, name), text) for name, text in texts.items())
    for file in files:
        if file.written is Written.REPLACED and not options.replace:
            raise CannotCreateError("another unit is there already", where=file.path, hint="replace it with --force")
    if not options.dry_run:
        _write(directory, files)
    return UnitsReport(directory, options.user, options.dry_run, files, _next_commands(options))


def unit_texts(site: Site, nightly: CronOptions, *, program: str, user: bool) -> Mapping[str, str]:
    """Return the text of each unit by its file name."""
    job = job_of(site, INSTANCE, nightly, program=program)  # which refuses what no unit can hold
    return {GUEST_UNIT: _guest_unit(site.directory, program, user=user)} | systemd_units(job)


def unit_directory(*, user: bool) -> str:
    """Return where an administrator's or a user's own units belong (systemd.unit(5))."""
    if not user:
        return UNIT_DIRECTORY
    configuration = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(configuration):  # empty, or to be ignored (XDG Base Directory Specification)
        configuration = os.path.expanduser("~/.config")
    return os.path.join(configuration, "systemd", "user")


def _guest_unit(site: str, program: str, *, user: bool) -> str:
    start = (program, "--site", site, "start", "--quiet", INSTANCE)
    stop = (program, "--site", site, "stop", "--quiet", INSTANCE)
    network = "" if user else "After=network.target\n"
    return f"""\
[Unit]
Description=User-mode Linux guest {INSTANCE}
RequiresMountsFor={_quoted_path(site)}
{network}
[Service]
Type=forking
GuessMainPID=no
ExecStart={systemd_command(start)}
ExecStop={systemd_command(stop)}
TimeoutStartSec={START_SECONDS}
TimeoutStopSec={STOP_SECONDS}
KillMode=control-group

[Install]
WantedBy={"default" if user else "multi-user"}.target
"""


def _quoted_path(path: str) -> str:
    """Write a path for a setting other than a command line, in which $ means nothing."""
    escaped = path.replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"'


def _compared(path: str, text: str) -> UnitFile:
    if not os.path.lexists(path):
        return UnitFile(path, Written.NEW, text)
    if not os.path.isfile(path):  # a masked unit is a link to /dev/null
        raise CannotCreateError("the output is there and is not a regular file", where=path)
    try:
        with open(path, "rb") as file:
            same = file.read(_MOST_UNIT_BYTES) == text.encode()
    except OSError as error:
        raise from_os_error(error, "read", path) from error
    return UnitFile(path, Written.UNCHANGED if same else Written.REPLACED, text)


def _write(directory: str, files: tuple[UnitFile, ...]) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise CannotCreateError(f"cannot create: {error.strerror}", where=directory) from error
    for file in files:
        if file.written is not Written.UNCHANGED:
            write_file(file.path, file.text.encode(), mode=0o644)


def _next_commands(options: UnitsOptions) -> tuple[str, ...]:
    systemctl = "systemctl --user" if options.user else "systemctl"
    linger = ("loginctl enable-linger",) if options.user else ()  # else it all ends with the user's last session
    return (
        f"{systemctl} daemon-reload",
        *linger,
        f"{systemctl} enable --now {GUEST_UNIT.replace('@', '@NAME')} umldisk-checkpoint@NAME.timer",
    )
