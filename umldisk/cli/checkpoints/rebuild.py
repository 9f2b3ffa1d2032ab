"""`umldisk checkpoint rebuild`: the catalog anew from the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import lock_wait_option
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, counted
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from umldisk.ops.checkpoints.rebuilding import RebuildReport

_HELP = """Make catalog.db anew from what the site's stores say.

A catalog that is lost, damaged or of a later version is no loss: a damaged one is set aside. The
next checkpoint of each drive then reads everything, because what was known of backing files is not
in the store.

\b
Example:
  umldisk checkpoint rebuild

\b
Exit codes:
   0  done
   2  an argument is unknown
  65  umldisk.toml is wrong
  73  the catalog cannot be made
  74  reading or writing failed
  75  somebody adds to a guest's history
  76  a history is broken; the catalog has what comes before the first bad record
"""


@click.command(help=_HELP)
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def rebuild(context: click.Context, /, *, lock_wait_seconds: float, dry_run: bool, presenter: Presenter) -> None:
    """Rebuild, present."""
    from umldisk.ops.checkpoints.rebuilding import rebuild_catalog

    report = rebuild_catalog(current_site(context), dry_run=dry_run, wait_seconds=lock_wait_seconds)
    presenter.show(report, _lines)


def _lines(report: RebuildReport) -> Iterator[str]:
    verb = "would be made" if report.dry_run else "made"
    yield f"{report.catalog}: {verb} anew from {', '.join(report.stores)}"
    for guest, records in report.records.items():
        yield f"  {guest}: {counted(records, 'record')}"
