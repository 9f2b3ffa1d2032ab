"""Options that several commands share, each declared once.

The single ones end in `_option` and hand their value to the command under the name they say. The
sets end in `_options` and hand over one object made of several values.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from umldisk.cli.output import Presenter
from umldisk.cow.dialect import Dialect

Command = TypeVar("Command", bound=Callable[..., Any])

_MOST_SECONDS = 86400 * 366


FILE = click.Path(readable=False)
"""A name of a file. Whether there is one is for the library to say."""


class Seconds(click.FloatRange):
    """A number of seconds from `least` to `most`, or with `above` more than `least`.

    "nan" is refused, too, which no comparison finds out of range.
    """

    name = "number of seconds"

    def __init__(self, least: float = 0, most: float = _MOST_SECONDS, *, above: bool = False) -> None:
        super().__init__(least, most, min_open=above)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a valid {self.name}", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Globals:
    """The options before the command; every command finds them in its context."""

    site_dir: str | None = None
    debug: bool = False


def _to_dialect(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Dialect | None:
    return None if value is None else Dialect(value)


json_option = click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
"""`as_json: bool`"""

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No report and no progress; errors are still printed.")
"""`quiet: bool`"""

_DIALECTS = click.Choice([dialect.value for dialect in Dialect])

dialect_option = click.option(
    "--dialect",
    type=_DIALECTS,
    callback=_to_dialect,
    help="Read the COW header in this layout instead of finding out which it is.",
)
"""`dialect: Dialect | None`"""

new_dialect_option = click.option(
    "--dialect",
    type=_DIALECTS,
    default=Dialect.V3.value,
    show_default=True,
    callback=_to_dialect,
    help="Write the COW header in this layout.",
)
"""`dialect: Dialect`"""

backing_option = click.option(
    "-b",
    "--backing",
    type=FILE,
    metavar="FILE",
    help="The backing file, in place of the one that the COW header names.",
)
"""`backing: str | None`"""

ignore_mtime_option = click.option(
    "--ignore-mtime",
    is_flag=True,
    help="Accept a backing file whose time of change is not the one in the COW header.",
)
"""`ignore_mtime: bool`"""

accept_truncated_option = click.option(
    "--accept-truncated",
    is_flag=True,
    help="Read a COW file that is cut off: what is missing is zeros or unchanged.",
)
"""`accept_truncated: bool`"""

no_sync_option = click.option(
    "--no-sync",
    is_flag=True,
    help="Do not wait until the result is on the medium; a power cut may then lose it.",
)
"""`no_sync: bool`"""

force_option = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
"""`force: bool`"""

dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
"""`dry_run: bool`"""


@dataclass(frozen=True, slots=True)
class Writing:
    """How a command writes: `sync` to the medium before it ends, or with `dry_run` not at all."""

    sync: bool
    dry_run: bool


def writing_options(command: Command) -> Command:
    """Add --no-sync and -n; the command takes `writing: Writing`."""

    @no_sync_option
    @dry_run_option
    @functools.wraps(command)
    def with_writing(*arguments: Any, no_sync: bool, dry_run: bool, **others: Any) -> Any:
        return command(*arguments, writing=Writing(sync=not no_sync, dry_run=dry_run), **others)

    return with_writing  # type: ignore[return-value]


def access_options(command: Command) -> Command:
    """Add -b, --dialect, --ignore-mtime and --accept-truncated; the command takes `access: Access`."""

    @backing_option
    @dialect_option
    @ignore_mtime_option
    @accept_truncated_option
    @functools.wraps(command)
    def with_access(
        *arguments: Any,
        backing: str | None,
        dialect: Dialect | None,
        ignore_mtime: bool,
        accept_truncated: bool,
        **others: Any,
    ) -> Any:
        from umldisk.cow.file import Access

        access = Access(
            backing=backing,
            dialect=dialect,
            ignore_mtime=ignore_mtime,
            accept_truncated=accept_truncated,
        )
        return command(*arguments, access=access, **others)

    return with_access  # type: ignore[return-value]


def report_options(command: Command) -> Command:
    """Add --json and -q; the command takes `presenter: Presenter`."""

    @json_option
    @quiet_option
    @functools.wraps(command)
    def with_presenter(*arguments: Any, as_json: bool, quiet: bool, **others: Any) -> Any:
        return command(*arguments, presenter=Presenter(as_json=as_json, quiet=quiet), **others)

    return with_presenter  # type: ignore[return-value]
