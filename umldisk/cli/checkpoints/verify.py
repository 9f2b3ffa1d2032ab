"""`umldisk checkpoint verify` and `anchor`: whether what was recorded is still what was recorded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import GUEST, drive_option, lock_wait_option
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, counted, human_bytes
from umldisk.cli.sites import current_site
from umldisk.errors import DataError, UsageError

if TYPE_CHECKING:
    from umldisk.checkpoint.verifying import Damage
    from umldisk.ops.checkpoints.verifying import AnchorReport, StoreVerified, VerifyOptions, VerifyReport

_VERIFY_HELP = """Prove the history of GUEST, or of all guests, then read again and hash what is stored.

A history is proven by its own chain, by the catalog and, with --anchor, by a line that
`umldisk checkpoint anchor` printed earlier. When one is broken nothing else is read. Damage is told
with the chunk and with all checkpoints of all guests that need it. What was found is recorded. Damaged
chunks are moved to damaged/ in the store, and the next take reads the whole disk: what it still has is
stored again, for all checkpoints that need it.

\b
Examples:
  umldisk checkpoint verify blackdance
  umldisk checkpoint verify blackdance latest
  umldisk checkpoint verify --sample 5%
  umldisk checkpoint verify --anchor "$(cat blackdance.anchor)"

\b
Exit codes:
   0  nothing wrong
   2  an argument makes no sense, or the anchor is another guest's
  65  something that is stored is damaged or missing; or the catalog or umldisk.toml is
  66  there is no such checkpoint or drive, or no catalog
  73  the catalog cannot be made
  74  reading or writing failed
  75  another process keeps the catalog
  76  a history is broken: a record is missing, altered, out of place, or not the anchored one
"""

_ANCHOR_HELP = """Print one line that proves the history of GUEST as it is now.

Keep it where nobody who can write to the store can change it: on paper, in a mail, on another
machine. `umldisk checkpoint verify --anchor LINE` then proves that nothing before it was changed.

\b
Example:
  umldisk checkpoint anchor blackdance | ssh vault 'cat >>anchors'

\b
Exit codes:
   0  done
   2  GUEST is no name for a guest
  65  the catalog is damaged, or umldisk.toml is wrong
  66  there are no checkpoints, or no catalog
  74  reading failed
  75  another process keeps the catalog
  76  the history is broken already
"""

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%?", re.ASCII)


def _to_percent(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    found = _PERCENT.fullmatch(value or "")
    if value is not None and (found is None or not 0 < float(found[1]) <= 100):
        raise UsageError("so much cannot be sampled", expected="above 0% up to 100%", found=value)
    return float(found[1]) if found else None


@click.command(help=_VERIFY_HELP)
@click.argument("guest", metavar="[GUEST]", required=False)
@click.argument("name", metavar="[CHECKPOINT]", required=False)
@click.option("--sample", "percent", metavar="N%", callback=_to_percent, help="Read about so many of the chunks.")
@click.option("--all", "everything", is_flag=True, help="Read all chunks; this is the default.")
@click.option("--anchor", metavar="LINE", help="Prove that the history still begins as it did for this anchor.")
@drive_option
@lock_wait_option
@dry_run_option
@report_options
@click.pass_context
def verify(
    context: click.Context, /, guest: str | None, name: str | None, *, presenter: Presenter, **options: Any
) -> None:
    """Parse, verify, present."""
    from umldisk.ops.checkpoints.verifying import verify_checkpoints

    site, progress = current_site(context), presenter.progress
    report = verify_checkpoints(site, guest, name, _options(**options), progress=progress)
    presenter.show(report, _lines)
    if not report.is_sound:
        context.exit(DataError.exit_code)


def _options(*, everything: bool, **options: Any) -> VerifyOptions:
    from umldisk.ops.checkpoints.verifying import VerifyOptions

    if everything and options["percent"] is not None:
        raise UsageError("--all and --sample exclude each other")
    return VerifyOptions(**options)


def _lines(report: VerifyReport) -> Iterator[str]:
    for store in report.stores:
        yield from _store_lines(store)


def _store_lines(store: StoreVerified) -> Iterator[str]:
    verified = store.verified
    for one in store.proven:
        anchored = ", the anchor included" if one.anchored else ""
        yield f"{one.guest}: the history of {counted(one.records, 'record')} is whole{anchored}"
    verdict = "nothing wrong" if verified.is_sound else f"{counted(len(verified.damages), 'damaged key')}"
    read = f"{verified.chunks_read} of {counted(verified.chunks, 'chunk')} read, {human_bytes(verified.bytes_read)}"
    yield f"{store.store}: {verdict} ({counted(len(verified.checkpoints), 'checkpoint')}, {read})"
    for damage in verified.damages:
        yield from _damage_lines(damage)
    for key in store.aside:
        yield f"set aside: {key}; the next take stores the chunk again if its disk has the contents"
    for note in store.undone:
        yield f"note: {note}"


def _damage_lines(damage: Damage) -> Iterator[str]:
    yield f"{damage.condition.value}: {damage.key}: {damage.explanation}"
    yield f"  hurt: {', '.join(map(str, damage.hurt))}"


@click.command(help=_ANCHOR_HELP)
@GUEST
@report_options
@click.pass_context
def anchor(context: click.Context, /, guest: str, *, presenter: Presenter) -> None:
    """Prove, present."""
    from umldisk.ops.checkpoints.verifying import make_anchor

    presenter.show(make_anchor(current_site(context), guest), _anchor_lines)


def _anchor_lines(report: AnchorReport) -> Iterator[str]:
    yield report.line
