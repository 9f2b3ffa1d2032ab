"""`umldisk drill`: whether a guest would come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, lock_wait_option
from umldisk.cli.options import FILE, Seconds, dry_run_option, report_options
from umldisk.cli.output import Presenter, note
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from umldisk.ops.drilling.drill import DrillReport
    from umldisk.ops.drilling.steps import StepResult
    from umldisk.ops.restoring.planning import Wish

_HELP = """Try whether GUEST comes back from CHECKPOINT, without touching the guest, which may be running.

What `umldisk restore` would give is made in a scratch site, checked by e2fsck, booted without a
network, asked for its mounts and failed units, given the probe of umldisk.toml, powered off, and
checked again. CHECKPOINT is a number, latest (the default), or a time. The result is recorded in the
guest's history. The scratch site goes away.

\b
Examples:
  umldisk drill blackdance
  umldisk drill --metrics /var/lib/node_exporter/drill.prom blackdance 12
  umldisk drill --keep --timeout 900 --at '2026-11-20 03:15' blackdance

\b
Exit codes:
   0  the guest comes back
   1  it does not: the failed steps are named
   2  the arguments make no sense
  65  a base was changed, or what is stored is damaged; umldisk.toml is wrong
  66  there is no such guest or checkpoint, a chunk, the kernel or bubblewrap is missing
  73  the scratch site or the metrics cannot be made
  74  there is too little memory or room, or reading or writing failed
  75  another umldisk writes to the bases, or a restore has to be finished
  76  the recorded history is broken
"""


@click.command(help=_HELP)
@GUEST
@click.argument("name", metavar="[CHECKPOINT]", required=False)
@click.option("--at", metavar="TIME", help="The newest good checkpoints at or before this time.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long becoming ready, the probe and the shutdown may take, each by itself.",
)
@click.option("--metrics", type=FILE, metavar="FILE", help="Tell how it went in a file for Prometheus.")
@click.option(
    "--scratch", "place", type=FILE, metavar="DIR", help="Make the scratch site in DIR, not in the site's drill/."
)
@click.option("--keep", is_flag=True, help="Keep the scratch site, to look at it.")
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def drill(
    context: click.Context,
    /,
    guest: str,
    name: str | None,
    at: str | None,
    *,
    presenter: Presenter,
    **options: Any,
) -> None:
    """Parse, drill, present."""
    from umldisk.ops.drilling.drill import DrillOptions, drill_guest

    wish, chosen = _wish(name, at), DrillOptions(**options)
    report = drill_guest(current_site(context), guest, wish, chosen, progress=presenter.progress)
    presenter.show(report, _lines)
    if report.record is None and not report.dry_run:
        note("warning: the drill is not recorded: another umldisk uses the store; see --lock-wait")
    if report.passed is False:
        context.exit(FINDINGS_EXIT_CODE)


def _wish(name: str | None, at: str | None) -> Wish:
    from umldisk.ops.checkpoints.naming import LATEST, parse_name, parse_time
    from umldisk.ops.restoring.planning import Wish

    if name is not None and at is not None:
        raise UsageError("--at chooses a checkpoint; it does not go with one that is named", found=name)
    chosen = parse_name(name or LATEST)
    return Wish(chosen.number, chosen.at if at is None else parse_time(at))


def _lines(report: DrillReport) -> Iterator[str]:
    if report.passed is None:
        yield f"{report.guest}: would be drilled"
    else:
        yield f"{report.guest}: the drill {'passed' if report.passed else 'FAILED'} in {report.seconds:.1f} s"
    yield from (f"  {line}" for line in report.plan)
    for step in report.steps:
        yield from _step_lines(step)
    if report.scratch:
        yield f"kept: {report.scratch}"
    for warning in report.warnings:
        note(f"warning: {warning}")


def _step_lines(step: StepResult) -> Iterator[str]:
    yield f"  {step.outcome.value:7}  {step.line}"
    yield from (f"           | {line}" for line in step.output)
