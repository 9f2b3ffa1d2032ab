"""`umldisk rebase`: another backing file below a COW file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, Writing, access_options, report_options, writing_options
from umldisk.cli.output import Presenter, human_bytes

if TYPE_CHECKING:
    from umldisk.cow.file import Access
    from umldisk.cow.rebasing import RebaseReport

_HELP = """Put COW on the backing file BACKING, in place, in the layout that its header has.

What the guest sees stays the same: where the old and the new backing file differ, the old sectors
are copied into COW first. With --header-only nothing is compared; that is right when BACKING is the
same image under another name or with another time of change.

\b
Examples:
  umldisk rebase root_cow new_root_fs
  umldisk rebase -u root_cow /moved/root_fs
"""

_EPILOG = """\b
Exit codes:
   0  done
   2  options or arguments that make no sense
  65  COW is damaged, or does not fit the old or the new backing file
  66  COW or a backing file is missing or is no disk image
  74  reading or writing failed; run the same command again
  75  a guest or another umldisk uses one of the files
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@click.argument("new_backing", metavar="BACKING", type=FILE)
@click.option("-u", "--header-only", is_flag=True, help="Write path and time of change; compare nothing.")
@access_options
@writing_options
@report_options
def rebase(
    cow: str, new_backing: str, *, header_only: bool, access: Access, writing: Writing, presenter: Presenter
) -> None:
    """Parse, rebase, present."""
    from umldisk.cow.rebasing import rebase as rebase_cow

    report = rebase_cow(
        cow,
        new_backing,
        access=access,
        header_only=header_only,
        sync=writing.sync,
        dry_run=writing.dry_run,
        progress=presenter.progress,
    )
    presenter.show(report, _lines)


def _lines(report: RebaseReport) -> Iterator[str]:
    verb = "would stand" if report.dry_run else "stands"
    yield f"{report.cow}: {verb} on {report.backing}, before on {report.old_backing}"
    if report.copied_bytes:
        yield f"  {human_bytes(report.copied_bytes)} that differ {'would be ' if report.dry_run else ''}copied into it"
