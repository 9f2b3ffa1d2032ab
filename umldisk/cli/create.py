"""`umldisk create`: an empty COW file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, Writing, force_option, new_dialect_option, report_options, writing_options
from umldisk.cli.output import Presenter, human_bytes

if TYPE_CHECKING:
    from umldisk.cow.creating import CreateReport
    from umldisk.cow.dialect import Dialect

_HELP = """Make COW, an empty COW file on the backing file BACKING.

A guest that uses COW sees BACKING, and its changes go to COW.

\b
Example:
  umldisk create root_cow root_fs
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  options or arguments that make no sense
  65  BACKING cannot be a backing file, or does not fit in the layout
  66  BACKING is missing or is no disk image
  73  COW exists or cannot be made
  74  reading or writing failed
  75  a guest or another umldisk uses one of the files
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@click.argument("backing", type=FILE)
@new_dialect_option
@force_option
@writing_options
@report_options
def create(cow: str, backing: str, *, dialect: Dialect, force: bool, writing: Writing, presenter: Presenter) -> None:
    """Parse, create, present."""
    from umldisk.cow.creating import create as create_cow

    report = create_cow(cow, backing, dialect=dialect, replace=force, sync=writing.sync, dry_run=writing.dry_run)
    presenter.show(report, _lines)


def _lines(report: CreateReport) -> Iterator[str]:
    verb = "would be an" if report.dry_run else "an"
    size = human_bytes(report.size_bytes)
    yield f"{report.cow}: {verb} empty COW file ({report.dialect.label}) on {report.backing}, {size}"
