"""`umldisk checkpoint take`: drives as they are now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, lock_wait_option
from umldisk.cli.options import FILE, Seconds, dry_run_option, report_options
from umldisk.cli.output import Presenter, human_bytes
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.ops.checkpoints.take_report import TakenDrive, TakeOptions, TakeReport

_HELP = """Record the drives of GUEST as they are now, by default var, each as a checkpoint of its own.

Only what can have changed since the last night is read: what the COW file touched. The first
checkpoint of a drive reads all of it, as does one whose backing file was changed by others.

The guest may be off, or run as `umldisk start` started it. Then it stands still for some
milliseconds, and what is recorded is the state of that moment: ext3 and ext4 recover from it by
their journal; other file systems, and with --freeze these too, are frozen by the guest's agent.

With --merge, for a guest that is off, the COW file is then folded into the backing file, and the
guest starts the next day with an empty one.

\b
Examples:
  umldisk checkpoint take blackdance
  umldisk checkpoint take --merge blackdance
  umldisk checkpoint take --tag upgrade --reason 'before bookworm' blackdance root var

\b
Exit codes:
   0  done: what was recorded is on the disk
   2  there is no such drive, the options exclude each other, or --merge of a guest that runs
  65  a disk or umldisk.toml is damaged, others stand on the backing file, or a drive cannot be
      recorded while its guest runs
  66  a disk is missing
  73  the metrics, the catalog or the store cannot be made
  74  reading or writing failed
  75  the guest runs and umldisk did not start it, it would stand still for too long, or another
      umldisk uses its disks or the store
  76  the recorded history is broken
"""


@click.command(help=_HELP)
@GUEST
@click.argument("drives", metavar="[DRIVE]...", nargs=-1)
@click.option("--merge", is_flag=True, help="Fold each COW file into its backing file afterwards; leave an empty one.")
@click.option("--keep-siblings", is_flag=True, help="With --merge: save what other COW files on the backing file show.")
@click.option("--orphan-siblings", is_flag=True, help="With --merge: give up other COW files on the backing file.")
@click.option("--freeze", is_flag=True, help="Have a running guest's agent freeze ext3 and ext4, too.")
@click.option(
    "--longest-pause",
    "longest_pause_seconds",
    type=Seconds(most=86400, above=True),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long a running guest may stand still; when it takes longer nothing is recorded.",
)
@click.option("--reason", metavar="TEXT", default="", help="Why, for whoever reads the list.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag; may be given several times.")
@click.option("--metrics", type=FILE, metavar="FILE", help="After success, write a Prometheus textfile.")
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def take(
    context: click.Context,
    /,
    guest: str,
    drives: tuple[str, ...],
    *,
    metrics: str | None,
    presenter: Presenter,
    **options: Any,
) -> None:
    """Parse, take, present."""
    from umldisk.ops.checkpoints.taking import take_checkpoint

    site = current_site(context)
    report = take_checkpoint(site, guest, drives, _options(**options), progress=presenter.progress)
    if metrics is not None and not report.dry_run:
        from umldisk.ops.watching import publish_metrics

        publish_metrics(site, report, metrics)
    presenter.show(report, _lines)


def _options(*, keep_siblings: bool, orphan_siblings: bool, **others: Any) -> TakeOptions:
    from umldisk.cow.inplace import SiblingPolicy
    from umldisk.ops.checkpoints.take_report import TakeOptions

    if keep_siblings and orphan_siblings:
        raise UsageError("--keep-siblings and --orphan-siblings exclude each other")
    if (keep_siblings or orphan_siblings) and not others["merge"]:
        raise UsageError("--keep-siblings and --orphan-siblings go with --merge only")
    if keep_siblings:
        return TakeOptions(siblings=SiblingPolicy.KEEP, **others)
    return TakeOptions(siblings=SiblingPolicy.ORPHAN if orphan_siblings else SiblingPolicy.REFUSE, **others)


def _lines(report: TakeReport) -> Iterator[str]:
    if report.pause_seconds is not None:
        how = _CONSISTENT[report.consistency.value]
        yield f"{report.guest} runs and stood still for {report.pause_seconds * 1000:.1f} ms; {how}"
    for drive in report.drives:
        yield f"{report.guest} {drive.drive}: {_recorded(drive)}"
        if drive.read_whole:
            yield f"  all of its data {'would be' if report.dry_run else 'was'} read: {drive.why.value}"
        if drive.merged:
            yield "  the COW file was merged into the backing file and is empty now"


_CONSISTENT = {
    "frozen": "its file systems were frozen",
    "journal": "its file systems recover by their journals",
}


def _recorded(drive: TakenDrive) -> str:
    if drive.number is None:
        return f"{human_bytes(drive.read_bytes)} of {human_bytes(drive.size_bytes)} would be read"
    changed = f"{human_bytes(drive.changed_bytes or 0)} of {human_bytes(drive.size_bytes)} changed"
    since = f" since {drive.parent}" if drive.parent else ""
    stored = f"{human_bytes(drive.stored_bytes)} stored in {drive.duration_seconds:.1f} s"
    return f"checkpoint {drive.number}: {changed}{since}, {stored}"
