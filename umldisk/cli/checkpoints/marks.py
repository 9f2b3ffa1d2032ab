"""`umldisk checkpoint protect`, `unprotect`, `tag` and `untag`: what is said of checkpoints afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, drive_option, lock_wait_option
from umldisk.cli.options import Command, dry_run_option, report_options
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from umldisk.ops.checkpoints.marking import MarkReport

_EXIT_CODES = """
CHECKPOINT is a number, latest, or a time. What is said is a record of its own in the history.

\b
Exit codes:
   0  done, also when it was so before
   2  an argument makes no sense
  65  the catalog is damaged, or umldisk.toml is wrong
  66  there is no such checkpoint, or it was deleted
  73  the store or the catalog cannot be written
  74  reading or writing failed
  75  another umldisk writes to the guest's history
  76  the recorded history is broken
"""

_PROTECT_HELP = """Keep checkpoints of GUEST whatever a prune's rules say.

\b
Example:
  umldisk checkpoint protect blackdance 12
"""

_UNPROTECT_HELP = """Let a prune's rules decide again on checkpoints of GUEST.

\b
Example:
  umldisk checkpoint unprotect blackdance 12
"""

_TAG_HELP = """Give TAG to checkpoints of GUEST. `prune --keep-tag` keeps what has it, `list --tag` finds it.

\b
Example:
  umldisk checkpoint tag blackdance before-upgrade latest
"""

_UNTAG_HELP = """Take TAG from checkpoints of GUEST.

\b
Example:
  umldisk checkpoint untag blackdance before-upgrade 12
"""

_NAMES = click.argument("names", metavar="CHECKPOINT...", nargs=-1, required=True)
_TAG = click.argument("tag", metavar="TAG")

_DONE = {
    "protect": ("protected", "is protected already"),
    "unprotect": ("no longer protected", "is not protected"),
    "tag": ("tagged", "has the tag already"),
    "untag": ("no longer tagged", "has no such tag"),
}


def _marking(command: Command) -> Command:
    """Add what the four have in common."""
    decorators: list[Callable[[Any], Any]] = [
        _NAMES,
        drive_option,
        lock_wait_option,
        dry_run_option,
        report_options,
        click.pass_context,
    ]
    decorated: Any = command
    for decorate in reversed(decorators):
        decorated = decorate(decorated)
    return decorated  # type: ignore[no-any-return]


@click.command(help=_PROTECT_HELP + _EXIT_CODES)
@GUEST
@_marking
def protect(context: click.Context, /, **words: Any) -> None:
    """Mark, present."""
    _mark(context, "PROTECT", **words)


@click.command(help=_UNPROTECT_HELP + _EXIT_CODES)
@GUEST
@_marking
def unprotect(context: click.Context, /, **words: Any) -> None:
    """Mark, present."""
    _mark(context, "UNPROTECT", **words)


@click.command(help=_TAG_HELP + _EXIT_CODES)
@GUEST
@_TAG
@_marking
def tag(context: click.Context, /, **words: Any) -> None:
    """Mark, present."""
    _mark(context, "TAG", **words)


@click.command(help=_UNTAG_HELP + _EXIT_CODES)
@GUEST
@_TAG
@_marking
def untag(context: click.Context, /, **words: Any) -> None:
    """Mark, present."""
    _mark(context, "UNTAG", **words)


def _mark(
    context: click.Context,
    kind: str,
    /,
    *,
    guest: str,
    names: tuple[str, ...],
    presenter: Presenter,
    tag: str = "",
    **options: Any,
) -> None:
    from umldisk.checkpoint.record import Kind
    from umldisk.ops.checkpoints.marking import MarkOptions, mark

    report = mark(current_site(context), guest, Kind[kind], names, tag=tag, options=MarkOptions(**options))
    presenter.show(report, _lines)


def _lines(report: MarkReport) -> Iterator[str]:
    done, already = _DONE[report.kind.value]
    tag = f" {report.tag}" if report.tag else ""
    for number in report.checkpoints:
        yield f"{report.guest} {number}: {'would be ' if report.dry_run else ''}{done}{tag}"
    for number in report.already:
        yield f"{report.guest} {number}: {already}"
