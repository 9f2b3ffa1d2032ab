"""`umldisk who`: which guest or process has a disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, report_options
from umldisk.cli.output import Presenter, note
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE

if TYPE_CHECKING:
    from umldisk.ops.running.who import Hold, WhoReport
    from umldisk.system.holders import DeviceUse

_HELP = """Say which guest or process has FILE: locked, open, mapped, or as a loop device.

Also found are those who still have a file that was since removed, or replaced by another of its name,
and guests that were started with FILE and have not opened it yet. Only root can look into other
users' processes; how many could not be looked into is said on stderr. Locks are found all the same.

\b
Example:
  umldisk who /var/uml/guests/blackdance/root_cow
"""

_EPILOG = """\b
Exit codes:
   0  nobody has any FILE, as far as can be seen
   1  somebody has one of them
   2  no FILE, or an unknown option
  66  a FILE is missing, and nobody has it; or it is no disk image
  74  looking failed
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@report_options
@click.pass_context
def who(context: click.Context, /, files: Sequence[str], *, presenter: Presenter) -> None:
    """Search, present."""
    from umldisk.ops.running.who import who_has

    report = who_has(files, current_site(context))
    presenter.show(report, _lines)
    if not presenter.quiet:
        for line in _blind_spots(report):
            note(line)
    if report.is_any_held:
        context.exit(FINDINGS_EXIT_CODE)


def _lines(report: WhoReport) -> Iterator[str]:
    for file in report.files:
        yield f"{file.path}:" if file.is_held else f"{file.path}: nobody"
        yield from (f"  {_hold_line(hold)}" for hold in file.holds)
        yield from (f"  {_device_line(device)}" for device in file.devices)


def _hold_line(hold: Hold) -> str:
    how = ", ".join(one.value for one in hold.how)
    former = ", and that a file which was replaced or removed since" if hold.former else ""
    below = f"; below {', '.join(hold.cow_files)}" if hold.cow_files else ""
    return f"{_name(hold)}: {how}{former}{below}"


def _name(hold: Hold) -> str:
    if hold.pid is None:
        return "somebody who cannot be seen from here"
    if hold.guest is not None:
        return f"guest {hold.guest} (PID {hold.pid})"
    if hold.umid is not None:
        return f"a guest with umid {hold.umid} (PID {hold.pid}) that was not started from this site"
    return f"PID {hold.pid}" + (f" ({hold.command})" if hold.command else "")


def _device_line(device: DeviceUse) -> str:
    text = {"loop device": "loop device", "mounted": "mounted on", "swap": "swapped to:"}[device.kind.value]
    return f"{text} {device.name}" + (", of a file that was replaced or removed since" if device.former else "")


def _blind_spots(report: WhoReport) -> Iterator[str]:
    if report.unseen_processes:
        yield f"{report.unseen_processes} of the other users' processes could not be looked into"
    if report.hides_processes:
        yield "this machine hides the processes of others"
    for file in report.files:
        if not file.lock_known:
            yield f"{file.path} may not be read, so that it is not known whether somebody unseen has locked it"
