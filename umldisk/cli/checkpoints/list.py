"""`umldisk checkpoint list`: one line a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import age, local
from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter, human_bytes, table
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from datetime import datetime

    from umldisk.ops.checkpoints.listing import Listed, Listing

_HELP = """List the checkpoints of GUEST, or of all guests of the site, oldest first.

What is listed is what the catalog knows, without asking the store. `changed` is how much differs
from the checkpoint before it, `stored` what the store grew by.

\b
Example:
  umldisk checkpoint list blackdance

\b
Exit codes:
   0  done, also when there are none
   2  GUEST is no name for a guest
  65  the catalog is damaged, or umldisk.toml is wrong
  66  there is no catalog, but there is a store: umldisk checkpoint rebuild
  74  reading failed
  75  another process keeps the catalog
"""

_COLUMNS = ("number", "drive", "time", "age", "size", "changed", "stored", "tags", "marks")
_RIGHT = (0, 3, 4, 5, 6)


@click.command("list", help=_HELP)
@click.argument("guest", metavar="[GUEST]", required=False)
@click.option("--drive", metavar="DRIVE", help="Only checkpoints of this drive.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Only those with this tag; may be given again.")
@click.option("-a", "--all", "deleted", is_flag=True, help="Also those that are marked for removal.")
@report_options
@click.pass_context
def list_(
    context: click.Context,
    /,
    guest: str | None,
    drive: str | None,
    tags: tuple[str, ...],
    *,
    deleted: bool,
    presenter: Presenter,
) -> None:
    """Select, list, present."""
    from umldisk.ops.checkpoints.listing import Selection, list_checkpoints

    selection = Selection(drive=drive, tags=tags, deleted=deleted)
    presenter.show(list_checkpoints(current_site(context), guest, selection), _lines)


def _lines(listing: Listing) -> Iterator[str]:
    if not listing.checkpoints:
        yield f"{listing.guest or listing.site}: no checkpoints"
        return
    lead = 0 if listing.guest else 1
    head = ("guest", *_COLUMNS)[1 - lead :]
    rows = (_row(one, listing.now)[1 - lead :] for one in listing.checkpoints)
    yield from table([head, *rows], right=[column + lead for column in _RIGHT])


def _row(one: Listed, now: datetime) -> tuple[str, ...]:
    return (
        one.guest,
        str(one.number),
        one.drive,
        local(one.time),
        age((now - one.time).total_seconds()),
        human_bytes(one.size_bytes),
        human_bytes(one.changed_bytes),
        human_bytes(one.stored_bytes),
        ",".join(one.tags),
        " ".join(_marks(one)),
    )


def _marks(one: Listed) -> Iterator[str]:
    if one.deleted_at:
        yield "deleted"
    if one.damage:
        yield "damaged"
    if one.protected:
        yield "protected"
    if one.merged:
        yield "merged"
    if one.verified_at and not one.damage:
        yield "verified"
    if one.drilled_at:
        yield "drill-failed" if one.drill_failure else "drilled"
    if one.consistency.value != "off":
        yield one.consistency.value
