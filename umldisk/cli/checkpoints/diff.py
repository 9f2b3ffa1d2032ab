"""`umldisk checkpoint diff`: where two checkpoints differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import GUEST, drive_option
from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE

if TYPE_CHECKING:
    from umldisk.ops.checkpoints.comparing import ChangesReport

_HELP = """Tell where checkpoint RIGHT of a drive of GUEST differs from checkpoint LEFT.

Told are runs of sectors of 512 bytes, by comparing the two indexes: nothing else is read, and what
is listed is as coarse as their chunks, which are 64 KiB. With --exact the chunks that are not the
same are read and compared by sectors; those that are the same are never read.

\b
Examples:
  umldisk checkpoint diff blackdance 12 13
  umldisk checkpoint diff --exact blackdance 2026-11-20 latest

\b
Exit codes:
   0  the two are the same
   1  they differ
   2  they are of different drives, or an argument makes no sense
  65  an index or chunk is damaged, or umldisk.toml is wrong
  66  there is no such checkpoint, or it was reclaimed
  74  reading failed
  75  another process keeps the catalog
"""

_COLUMNS = ("start", "sectors", "byte", "bytes")
_SECTOR_BYTES = 512


@click.command(help=_HELP)
@GUEST
@click.argument("left", metavar="LEFT")
@click.argument("right", metavar="RIGHT")
@click.option("--exact", is_flag=True, help="Read the chunks that are not the same, and tell the sectors that differ.")
@drive_option
@report_options
@click.pass_context
def diff(
    context: click.Context,
    /,
    guest: str,
    left: str,
    right: str,
    drive: str | None,
    *,
    exact: bool,
    presenter: Presenter,
) -> None:
    """Compare, present."""
    from umldisk.ops.checkpoints.comparing import compare_checkpoints

    site, progress = current_site(context), presenter.progress
    report = compare_checkpoints(site, guest, left, right, drive=drive, exact=exact, progress=progress)
    presenter.show(report, _lines)
    if report.runs:
        context.exit(FINDINGS_EXIT_CODE)


def _lines(report: ChangesReport) -> Iterator[str]:
    names = f"{report.guest} {report.drive}: checkpoints {report.left} and {report.right}"
    if not report.runs:
        yield f"{names} are the same"
        return
    verb = "differ" if report.exact else "may differ"
    yield f"{names} {verb} in {human_bytes(report.differing_bytes)}, in {counted(len(report.runs), 'run')}"
    rows = ((run.start, run.sectors, run.start * _SECTOR_BYTES, run.sectors * _SECTOR_BYTES) for run in report.runs)
    yield from table([_COLUMNS, *(tuple(map(str, row)) for row in rows)], right=range(4))
