"""`umldisk status`: whether the nightly job does its work, as monitoring asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from umldisk.ops.watching import StatusReport

_HELP = """Say in one line whether the newest good checkpoint of GUEST, or of every guest that has any, is recent.

The answer is that of a monitoring plugin, with performance data after the bar. Older than --max-age
is a warning; older than twice that, or none at all, is critical.

\b
Example:
  umldisk status --max-age 26h blackdance

\b
Exit codes:
   0  OK
   1  WARNING
   2  CRITICAL; or an argument makes no sense
  65  the catalog is damaged, or umldisk.toml is wrong
  66  there is a store but no catalog: umldisk checkpoint rebuild
  74  reading failed
  75  another process keeps the catalog
"""


@click.command(help=_HELP)
@click.argument("guest", metavar="[GUEST]", required=False)
@click.option("--max-age", metavar="AGE", default="26h", show_default=True, help="A number with s, m, h or d.")
@click.option("--drive", "drives", metavar="DRIVE", multiple=True, help="A drive; by default var. May be given again.")
@report_options
@click.pass_context
def status(
    context: click.Context, /, guest: str | None, max_age: str, drives: tuple[str, ...], *, presenter: Presenter
) -> None:
    """Judge, present."""
    from umldisk.ops.nightly import parse_age
    from umldisk.ops.watching import judge_checkpoints

    report = judge_checkpoints(current_site(context), guest, drives=drives, max_age=parse_age(max_age))
    presenter.show(report, _lines)
    context.exit(report.status)


def _lines(report: StatusReport) -> Iterator[str]:
    yield report.line
