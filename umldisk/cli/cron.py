"""`umldisk cron`: the nightly job, for whoever installs it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, lock_wait_option
from umldisk.cli.checkpoints.keeping import policy_options
from umldisk.cli.options import FILE, json_option
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from datetime import time

    from umldisk.ops.cron import CronReport

_HELP = """Print the nightly job of GUEST: a systemd service and timer, and a line for a crontab.

Nothing is installed. The job takes a checkpoint and, when there are --keep rules, prunes and
reclaims. It is silent when all is well; its exit codes are those of the commands in it.

\b
Examples:
  umldisk cron blackdance
  umldisk cron --merge --at 02:30 --keep-daily 7 --keep-monthly 12 blackdance
  umldisk cron --crontab blackdance | crontab -

\b
Exit codes:
   0  done
   2  GUEST is no name for a guest, or a word fits in no unit or crontab
  65  umldisk.toml is wrong
  66  umldisk.toml cannot be opened
  74  reading failed
"""


@click.command(help=_HELP)
@GUEST
@click.option("--at", metavar="HH:MM", default="03:00", show_default=True, help="When, by this machine's clock.")
@click.option("--merge", is_flag=True, help="Fold each COW file into its backing file after the checkpoint.")
@click.option("--metrics", type=FILE, metavar="FILE", help="After success, write a Prometheus textfile.")
@policy_options
@click.option("--crontab", is_flag=True, help="Print the crontab's line alone.")
@click.option("--program", metavar="PATH", help="Where umldisk is; by default the one that runs now.")
@lock_wait_option
@json_option
@click.pass_context
def cron(
    context: click.Context, /, guest: str, at: str, program: str | None, *, crontab: bool, as_json: bool, **options: Any
) -> None:
    """Parse, render, present."""
    from umldisk.ops.cron import CronOptions, nightly_texts

    chosen = CronOptions(at=time_of_day(at), **options)
    report = nightly_texts(current_site(context), guest, chosen, program=program or own_program())
    Presenter(as_json=as_json).show(report, _crontab_lines if crontab else _lines)


def time_of_day(text: str) -> time:
    """Read HH:MM; raises UsageError for anything else."""
    from datetime import time

    try:
        hours, colon, minutes = text.partition(":")
        if not (colon and text.isascii() and hours.isdecimal() and len(minutes) == 2):
            raise ValueError(text)
        return time(int(hours), int(minutes))
    except ValueError as error:
        raise UsageError("not a time of day", expected="HH:MM", found=text or '""') from error


def own_program() -> str:
    """Return the absolute path of the umldisk that runs now, or of the one that is installed; raises UsageError."""
    own = os.path.abspath(sys.argv[0])
    found = own if os.path.basename(own) == "umldisk" and os.access(own, os.X_OK) else shutil.which("umldisk")
    if found is None:
        raise UsageError("no program umldisk is installed", hint="name it with --program")
    return os.path.abspath(found)


def _crontab_lines(report: CronReport) -> Iterator[str]:
    yield report.crontab.removesuffix("\n")


def _lines(report: CronReport) -> Iterator[str]:
    from umldisk.ops.cron import UNIT_DIRECTORY

    for name, text in report.units.items():
        yield f"# {UNIT_DIRECTORY}/{name}"
        yield from text.splitlines()
        yield ""
    timer = next(name for name in report.units if name.endswith(".timer"))
    yield f"# then: systemctl daemon-reload && systemctl enable --now {timer}"
    yield "# or, in a crontab:"
    yield from _crontab_lines(report)
