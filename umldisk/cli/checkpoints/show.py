"""`umldisk checkpoint show`: all that is known of one checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import CHECKPOINT, GUEST, drive_option, local
from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter, exact_bytes, table
from umldisk.cli.sites import current_site

if TYPE_CHECKING:
    from datetime import datetime

    from umldisk.ops.checkpoints.listing import Shown

_HELP = """Show all that is known of CHECKPOINT, and what was said of it since.

CHECKPOINT is a number, latest, or a time: the newest good one at or before it.

\b
Examples:
  umldisk checkpoint show blackdance 12
  umldisk checkpoint show blackdance '2026-11-20 03:15'

\b
Exit codes:
   0  done
   2  an argument makes no sense
  65  the catalog is damaged, or umldisk.toml is wrong
  66  there is no such checkpoint, or no catalog
  74  reading failed
  75  another process keeps the catalog
"""

_CONSISTENCY = {
    "off": "the guest was off",
    "frozen": "the guest ran, with its file systems frozen",
    "journal": "the guest ran, with a journal to replay",
}


@click.command(help=_HELP)
@GUEST
@CHECKPOINT
@drive_option
@report_options
@click.pass_context
def show(context: click.Context, /, guest: str, name: str, *, drive: str | None, presenter: Presenter) -> None:
    """Find, present."""
    from umldisk.ops.checkpoints.listing import show_checkpoint

    presenter.show(show_checkpoint(current_site(context), guest, name, drive=drive), _lines)


def _lines(shown: Shown) -> Iterator[str]:
    yield f"checkpoint {shown.number} of {shown.guest}"
    yield from table(("", name, value) for name, value in _facts(shown) if value)
    if shown.later:
        yield "since then"
        yield from table(("", local(one.time), one.kind.value, one.detail, one.host) for one in shown.later)


def _facts(shown: Shown) -> Iterator[tuple[str, str]]:
    yield "drive", shown.drive
    yield "time", f"{local(shown.time)} ({_utc(shown.time)})"
    yield "state", _CONSISTENCY[shown.consistency.value]
    yield "size", exact_bytes(shown.size_bytes)
    yield "changed", f"{exact_bytes(shown.changed_bytes)} since {_parent(shown)}"
    yield "stored", exact_bytes(shown.stored_bytes)
    yield "read", f"{exact_bytes(shown.read_bytes)}, {'everything' if shown.read_whole else 'what changed'}"
    yield "took", f"{shown.duration_seconds:.1f} s"
    yield "merged", "afterwards, into the backing file" if shown.merged else "no"
    yield "reason", shown.reason
    yield "tags", ", ".join(shown.tags)
    yield "protected", "yes" if shown.protected else "no"
    yield "verified", _verified(shown)
    yield "damage", shown.damage
    yield "drilled", _drilled(shown)
    yield "deleted", local(shown.deleted_at) if shown.deleted_at else ""
    yield "host", f"{shown.host}, umldisk {shown.version}"
    yield "store", shown.store
    yield "index", shown.index_sha256
    yield "base index", shown.base_index_sha256 or ""
    yield "record", shown.digest
    yield "previous", shown.previous


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _parent(shown: Shown) -> str:
    return f"checkpoint {shown.parent}" if shown.parent else "an empty disk"


def _verified(shown: Shown) -> str:
    return f"{local(shown.verified_at)} ({shown.verified_how})" if shown.verified_at else "never"


def _drilled(shown: Shown) -> str:
    if shown.drilled_at is None:
        return "never"
    verdict = f"failed: {shown.drill_failure}" if shown.drill_failure else "passed"
    return f"{local(shown.drilled_at)} ({shown.drilled_how}), {verdict}"
