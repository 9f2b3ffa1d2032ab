"""`umldisk check`: everything that is or may go wrong with a COW file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, backing_option, dialect_option, report_options
from umldisk.cli.output import Presenter, counted
from umldisk.errors import FINDINGS_EXIT_CODE

if TYPE_CHECKING:
    from umldisk.cow.dialect import Dialect
    from umldisk.cow.findings import CheckReport, Finding

_HELP = """Look for everything that can be wrong with COW, its backing file, and the disk they make.

Findings are errors, warnings or notes, the worst first, each with a code for scripts and a hint what
to do. Nothing is changed; a COW file in use is looked at as it is.

\b
Example:
  umldisk check root_cow
"""

_EPILOG = """\b
Exit codes:
   0  no errors; there may be warnings and notes
   1  at least one error
   2  an argument is missing or unknown
  65  COW is no COW file, or its header is damaged
  66  COW is missing or is no disk image
  74  reading failed
"""


@click.command(help=_HELP, epilog=_EPILOG)
@click.argument("cow", type=FILE)
@backing_option
@dialect_option
@report_options
@click.pass_context
def check(
    context: click.Context, cow: str, *, backing: str | None, dialect: Dialect | None, presenter: Presenter
) -> None:
    """Parse, examine, present."""
    from umldisk.cow.file import Access
    from umldisk.ops.examine import examine

    report = examine(cow, Access(backing=backing, dialect=dialect))
    presenter.show(report, _lines)
    if not report.ok:
        context.exit(FINDINGS_EXIT_CODE)


def _lines(report: CheckReport) -> Iterator[str]:
    yield f"{report.path}: {_summary(report)}"
    for finding in report.findings:
        yield f"{finding.severity.value}: {finding.code}: {finding.message}{_place(finding, report.path)}"
        if finding.hint:
            yield f"  hint: {finding.hint}"


def _summary(report: CheckReport) -> str:
    found = [finding.severity.value for finding in report.findings]
    kinds = [counted(found.count(kind), kind) for kind in dict.fromkeys(found)]
    return ", ".join(kinds) or "nothing wrong"


def _place(finding: Finding, path: str) -> str:
    facts = [] if finding.where in (None, path) else [str(finding.where)]
    if finding.sector is not None:
        facts.append(f"from sector {finding.sector}")
    return f" ({', '.join(facts)})" if facts else ""
