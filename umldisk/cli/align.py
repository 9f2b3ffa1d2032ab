"""`umldisk align`: pages that a guest reads wrongly are made whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, Writing, access_options, report_options, writing_options
from umldisk.cli.output import Presenter, counted, human_bytes

if TYPE_CHECKING:
    from umldisk.cow.aligning import AlignReport
    from umldisk.cow.file import Access

_HELP = """Fill the mixed pages of COW, in place.

A page of 4 KiB with both changed and unchanged sectors makes the UML kernel read other parts of the
disk wrongly. The missing sectors are copied from the backing file; what the guest should see stays
the same.

\b
Example:
  umldisk align root_cow
"""

_EPILOG = """\b
Exit codes:
   0  done, also when there was nothing to do
   2  options or arguments that make no sense
  65  COW is damaged or does not fit its backing file
  66  COW or its backing file is missing or is no disk image
  74  reading or writing failed; run the same command again
  75  a guest or another umldisk uses one of the files
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@access_options
@writing_options
@report_options
def align(cow: str, *, access: Access, writing: Writing, presenter: Presenter) -> None:
    """Parse, align, present."""
    from umldisk.cow.aligning import align as align_pages

    report = align_pages(cow, access=access, sync=writing.sync, dry_run=writing.dry_run, progress=presenter.progress)
    presenter.show(report, _lines)


def _lines(report: AlignReport) -> Iterator[str]:
    if not report.pages and not report.unfixable_pages:
        yield f"{report.cow}: no mixed pages"
        return
    verb = "would be filled" if report.dry_run else "filled"
    pages = counted(report.pages, "mixed page")
    yield f"{report.cow}: {pages} {verb} with {human_bytes(report.filled_bytes)} of the backing file"
    if report.unfixable_pages:
        pages = counted(report.unfixable_pages, "page")
        yield f"  {pages} cannot be filled: the bitmap has no bits for the last sectors"
