"""What the commands of checkpoints share: options, and how times and ages are printed."""

from __future__ import annotations

from datetime import datetime

import click

from umldisk.cli.options import Seconds

GUEST = click.argument("guest", metavar="GUEST")
CHECKPOINT = click.argument("name", metavar="CHECKPOINT")

lock_wait_option = click.option(
    "--lock-wait",
    "lock_wait_seconds",
    type=Seconds(),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for another umldisk that uses the store; by default not at all.",
)
"""`lock_wait_seconds: float`"""

drive_option = click.option("--drive", metavar="DRIVE", help="The drive that is meant; by default var.")
"""`drive: str | None`"""

_UNITS = (("y", 31_557_600), ("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def local(time: datetime) -> str:
    """Return a time as clocks on this machine show it, so that it can be given back as a checkpoint's name."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """Return an age in its largest whole unit."""
    whole = int(seconds)
    unit, length = next(((unit, length) for unit, length in _UNITS if whole >= length), _UNITS[-1])
    return f"{whole // length} {unit}" if whole >= 0 else "to come"
