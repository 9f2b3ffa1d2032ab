"""`umldisk install-units`: guests and their nightly checkpoints as units of systemd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.keeping import policy_options
from umldisk.cli.cron import own_program, time_of_day
from umldisk.cli.options import FILE, Seconds, dry_run_option, force_option, report_options
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from umldisk.ops.units import UnitsReport

_HELP = """Write units for systemd: guests as services, and their nightly checkpoints.

Three templates are written to /etc/systemd/system, or with --user to ~/.config/systemd/user. What
stands behind the @ names the guest. Nothing is enabled or started. The nightly job takes a
checkpoint and, when there are --keep rules, prunes and reclaims.

\b
Examples:
  umldisk install-units --dry-run
  umldisk install-units --keep-daily 7 --keep-monthly 12
  systemctl enable --now umldisk-guest@blackdance.service umldisk-checkpoint@blackdance.timer

\b
Exit codes:
   0  done
   2  the arguments make no sense, or a path fits in no unit
  73  another unit of the same name is there, or the directory takes none
  74  reading or writing failed
"""


@click.command("install-units", help=_HELP)
@click.option("--user", is_flag=True, help="For the user's own systemd.")
@click.option("--at", metavar="HH:MM", default="03:00", show_default=True, help="When, by this machine's clock.")
@policy_options
@click.option(
    "--lock-wait",
    "lock_wait_seconds",
    type=Seconds(),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a nightly job waits for those of other guests, which use the same store.",
)
@click.option("--directory", type=FILE, metavar="DIR", help="Write the units there instead.")
@click.option("--program", metavar="PATH", help="Where umldisk is; by default the one that runs now.")
@force_option
@dry_run_option
@report_options
@click.pass_context
def install_units(
    context: click.Context,
    /,
    user: bool,
    at: str,
    program: str | None,
    directory: str | None,
    force: bool,
    *,
    dry_run: bool,
    presenter: Presenter,
    **nightly: Any,
) -> None:
    """Parse, write, present."""
    from umldisk.ops.cron import CronOptions
    from umldisk.ops.units import UnitsOptions
    from umldisk.ops.units import install_units as install

    chosen = CronOptions(at=time_of_day(at), **nightly)
    options = UnitsOptions(chosen, user=user, directory=directory, replace=force, dry_run=dry_run)
    presenter.show(install(current_site(context), options, program=program or own_program()), _lines)


def _lines(report: UnitsReport) -> Iterator[str]:
    for unit in report.units:
        if report.dry_run:
            yield f"# {unit.path} ({unit.written.value})"
            yield from unit.text.splitlines()
            yield ""
        else:
            yield f"{unit.path}: {unit.written.value}"
    for command in report.commands:
        yield f"# then: {command}"
