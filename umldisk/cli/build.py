"""`umldisk build`: a guest's disks from a base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import Globals, dry_run_option, force_option, report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table

if TYPE_CHECKING:
    from umldisk.ops.provision import BuildReport, BuiltDrive

_HELP = """Make the five disks of GUEST: root, var, home, tmp and swap.

The disks are sparse files below the site's guests/GUEST, filled from the embedded base (busybox).
Neither root nor a network is needed. Printed last is the command that boots the guest; it logs root
in on its console.

\b
Example:
  umldisk build blackdance

With --force, existing disks are replaced once the new ones are complete. COW files hold a guest's
own work: they are kept, together with the disks they belong to, in guests/GUEST/replaced-N.

\b
Exit codes:
   0  done
   2  GUEST is no name for a guest
  65  the directory's path cannot stand in UML's ubd option, or umldisk.toml holds settings
  66  busybox-static or e2fsprogs is not installed
  73  the guest has disks already, or its directory cannot be made
  74  reading or writing failed
  75  the guest runs, or is being built
"""


@click.command(help=_HELP)
@click.argument("guest", metavar="GUEST")
@force_option
@dry_run_option
@report_options
@click.pass_obj
def build(settings: Globals, guest: str, *, force: bool, dry_run: bool, presenter: Presenter) -> None:
    """Parse, build, present."""
    from umldisk.config.site import find_site
    from umldisk.ops.provision import build_guest

    site = find_site(settings.site_dir, environ=os.environ, cwd=os.getcwd(), is_root=os.geteuid() == 0)
    report = build_guest(site, guest, force=force, dry_run=dry_run, progress=presenter.progress)
    presenter.show(report, _lines)


def _lines(report: BuildReport) -> Iterator[str]:
    verb = "would make " if report.dry_run else ""
    yield f"{report.guest}: {verb}{counted(len(report.drives), 'disk')} in {report.directory}"
    yield from table((_row(drive) for drive in report.drives), right=(4,))
    if report.set_aside:
        yield f"the former COW files and their bases are in {report.set_aside}"
    yield "boot it with:"
    yield f"  {report.boot_command}"


def _row(drive: BuiltDrive) -> tuple[str, ...]:
    name = os.path.basename(drive.path)
    used = "" if drive.allocated_bytes is None else f"{human_bytes(drive.allocated_bytes)} on disk"
    place = drive.mount_point or drive.name
    return ("", name, drive.device, place, human_bytes(drive.size_bytes), used)
