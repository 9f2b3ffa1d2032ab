"""`umldisk checkpoint prune` and `gc`: marking what is not kept, and reclaiming the room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, local, lock_wait_option
from umldisk.cli.checkpoints.keeping import policy_options
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.checkpoint.retention import Policy
    from umldisk.ops.checkpoints.pruning import CollectReport, Decided, PruneReport, SimulationReport

_PRUNE_HELP = """Mark for removal the checkpoints of GUEST that no --keep rule keeps.

Each drive is decided for itself. Kept whatever the rules say are protected checkpoints and the
newest good one. What is marked takes room until it is reclaimed, by --gc or `umldisk checkpoint gc`.

\b
Examples:
  umldisk checkpoint prune --keep-daily 7 --keep-weekly 4 --dry-run blackdance
  umldisk checkpoint prune --keep-daily 7 --keep-monthly 12 --gc blackdance
  umldisk checkpoint prune --keep-daily 7 --keep-monthly 12 --simulate 365 blackdance

\b
Exit codes:
   0  done, also when nothing had to go
   2  no rule says what to keep, or an argument makes no sense
  65  an index or the catalog is damaged, so that nothing is reclaimed; or umldisk.toml is wrong
  66  there are no checkpoints, or no catalog
  73  the store or the catalog cannot be written
  74  reading or writing failed
  75  another umldisk writes to the guest's history, or with --gc to the store
  76  the recorded history is broken
"""

_GC_HELP = """Reclaim the room of checkpoints that are marked, in the store of GUEST or in all of the site's.

What leaves is what no checkpoint of any guest in that store needs. The history of every guest is
proven first; while one is broken, or an index is damaged, nothing leaves.

\b
Example:
  umldisk checkpoint gc --dry-run

\b
Exit codes:
   0  done
   2  GUEST is no name for a guest
  65  an index or the catalog is damaged, or umldisk.toml is wrong
  66  there is a store but no catalog: umldisk checkpoint rebuild
  73  the store cannot be written
  74  reading or writing failed
  75  somebody adds to the store
  76  the recorded history of a guest in the store is broken
"""


@click.command(help=_PRUNE_HELP)
@GUEST
@policy_options
@click.option("--drive", metavar="DRIVE", help="Only checkpoints of this drive.")
@click.option("--gc", is_flag=True, help="Reclaim the room afterwards, too.")
@click.option(
    "--simulate", "days", metavar="DAYS", type=int, help="Mark nothing; show what so many nights would leave."
)
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def prune(
    context: click.Context, /, guest: str, *, policy: Policy, days: int | None, presenter: Presenter, **options: Any
) -> None:
    """Decide and mark or simulate, present."""
    from umldisk.ops.checkpoints.pruning import PruneOptions, simulate_prune
    from umldisk.ops.checkpoints.pruning import prune as prune_guest

    site, chosen = current_site(context), PruneOptions(**options)
    if days is None:
        presenter.show(prune_guest(site, guest, policy, chosen, progress=presenter.progress), _lines)
        return
    if chosen.gc:
        raise UsageError("--simulate marks nothing, so that --gc has nothing to reclaim")
    presenter.show(simulate_prune(site, guest, policy, chosen, days=days), _simulation_lines)


def _lines(report: PruneReport) -> Iterator[str]:
    verb = "would be marked" if report.dry_run else "marked"
    kept = len(report.decided) - len(report.removed)
    yield f"{report.guest}: {counted(kept, 'checkpoint')} kept, {len(report.removed)} {verb} for removal"
    yield from _table(report.decided)
    if report.reclaimed is not None:
        yield from _collect_lines(report.reclaimed)


def _simulation_lines(report: SimulationReport) -> Iterator[str]:
    there = f"{counted(len(report.decided), 'checkpoint')} of {len(report.decided) + report.removed}"
    yield f"{report.guest}: on {local(report.now)}, after {counted(report.days, 'more night')}"
    yield f"  {there} would be there, and never more than {report.most}"
    yield from _table(report.decided)


def _table(decided: Iterable[Decided]) -> list[str]:
    rows = (
        ("", "remove" if one.removed else "keep", str(one.number), one.drive, local(one.time), one.reason)
        for one in decided
    )
    return table(rows, right=(2,))


@click.command(help=_GC_HELP)
@click.argument("guest", metavar="[GUEST]", required=False)
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def gc(
    context: click.Context, /, guest: str | None, *, lock_wait_seconds: float, dry_run: bool, presenter: Presenter
) -> None:
    """Reclaim, present."""
    from umldisk.ops.checkpoints.pruning import collect

    site, progress = current_site(context), presenter.progress
    report = collect(site, guest, dry_run=dry_run, wait_seconds=lock_wait_seconds, progress=progress)
    presenter.show(report, _collect_lines)


def _collect_lines(report: CollectReport) -> Iterator[str]:
    for store in report.stores:
        found = store.reclaimed
        verb = "would be reclaimed" if report.dry_run else "reclaimed"
        gone = f"{counted(found.chunks_removed, 'chunk')} and {counted(found.indexes_removed, 'index file')}"
        kept = f"{human_bytes(found.bytes_kept)} in {counted(found.chunks_kept, 'chunk')}"
        yield f"{store.store}: {human_bytes(found.bytes_removed)} {verb}, {gone}; {kept} kept"
        if found.missing_chunks:
            missing = counted(found.missing_chunks, "chunk")
            yield f"  {missing} missing that checkpoints need: umldisk checkpoint verify tells which"
