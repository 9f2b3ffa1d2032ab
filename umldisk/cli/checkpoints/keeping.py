"""The rules of a policy as options, which `prune` and `cron` take."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.options import Command

if TYPE_CHECKING:
    from umldisk.checkpoint.retention import Policy

_COUNTED = {
    "last": "the last N",
    "hourly": "the newest of each of the last N hours that have one",
    "daily": "the newest of each of the last N days that have one",
    "weekly": "the newest of each of the last N weeks that have one",
    "monthly": "the newest of each of the last N months that have one",
    "yearly": "the newest of each of the last N years that have one",
}
_NUMBER = click.IntRange(min=0, max=1_000_000)


def policy_options(command: Command) -> Command:
    """Add the --keep options; the command takes `policy: Policy`."""

    @functools.wraps(command)
    def with_policy(*arguments: Any, keep_within: str | None, keep_tags: tuple[str, ...], **others: Any) -> Any:
        counts = {rule: others.pop(f"keep_{rule}") for rule in _COUNTED}
        return command(*arguments, policy=_policy(counts, keep_within, keep_tags), **others)

    decorated: Any = with_policy
    decorated = click.option("--keep-tag", "keep_tags", metavar="TAG", multiple=True, help="Keep all with this tag.")(
        decorated
    )
    decorated = click.option("--keep-within", metavar="DURATION", help="Keep all that are newer: 1y2m3d4h.")(decorated)
    for rule, what in reversed(_COUNTED.items()):
        option = click.option(f"--keep-{rule}", metavar="N", type=_NUMBER, default=0, help=f"Keep {what}.")
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _policy(counts: dict[str, int], within: str | None, tags: tuple[str, ...]) -> Policy:
    from umldisk.checkpoint.retention import Policy, parse_duration

    return Policy(**counts, within=None if within is None else parse_duration(within), tags=tags)
