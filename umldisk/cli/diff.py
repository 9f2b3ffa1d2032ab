"""`umldisk diff`: from two images back to a COW file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, Writing, force_option, new_dialect_option, report_options, writing_options
from umldisk.cli.output import Presenter, counted, human_bytes

if TYPE_CHECKING:
    from umldisk.cow.dialect import Dialect
    from umldisk.cow.differencing import DifferenceReport

_HELP = """Make COW, the smallest COW file that shows IMAGE over the backing file BASE.

Merging COW gives IMAGE again. IMAGE may be a COW file itself and then stands for what its guest
sees. Differences are taken in pages of 4 KiB, because a guest misreads pages of which only some
sectors changed.

\b
Example:
  umldisk diff root_fs new_root_fs root_cow
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  options or arguments that make no sense
  65  BASE and IMAGE have different sizes, or do not fit in the layout
  66  BASE or IMAGE is missing or is no disk image
  73  COW exists or cannot be made
  74  reading or writing failed
  75  a guest or another umldisk uses one of the files
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("base", type=FILE)
@click.argument("image", type=FILE)
@click.argument("cow", type=FILE)
@click.option("--by-sector", is_flag=True, help="Take single sectors: smaller, but for merging only.")
@new_dialect_option
@force_option
@writing_options
@report_options
def diff(
    base: str,
    image: str,
    cow: str,
    *,
    by_sector: bool,
    dialect: Dialect,
    force: bool,
    writing: Writing,
    presenter: Presenter,
) -> None:
    """Parse, compare, present."""
    from umldisk.cow.differencing import difference

    report = difference(
        base,
        image,
        cow,
        dialect=dialect,
        by_sector=by_sector,
        replace=force,
        sync=writing.sync,
        dry_run=writing.dry_run,
        progress=presenter.progress,
    )
    presenter.show(report, _lines)


def _lines(report: DifferenceReport) -> Iterator[str]:
    verb = "would be a" if report.dry_run else "a"
    yield f"{report.cow}: {verb} COW file ({report.dialect.label}) that shows {report.image} over {report.base}"
    changed = f"{human_bytes(report.changed_bytes)} of {human_bytes(report.size_bytes)}"
    yield f"  {changed} changed, in {counted(report.runs, 'run')}"
