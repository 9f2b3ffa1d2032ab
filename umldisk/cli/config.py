"""`umldisk config`: what umldisk.toml says, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import json_option
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site
from umldisk.errors import DataError, UsageError

if TYPE_CHECKING:
    from umldisk.config.check import ConfigCheck
    from umldisk.config.show import ShownGuest, ShownKey

_HELP = """Check a site's umldisk.toml, or show what it comes to.

\b
Example:
  umldisk config check

The site is found as for all commands; --site before the command names one.
"""

_CHECK_HELP = """Find everything that is wrong with umldisk.toml, and with the files that it names.

Each problem is one line: the place, the key, what was found, what is allowed. Keys that there are
none of are problems too. Nothing is changed.

\b
Example:
  umldisk config check

\b
Exit codes:
   0  nothing wrong, or there is no umldisk.toml
   2  an argument is unknown
  65  there are problems
  66  umldisk.toml cannot be opened
  74  reading failed
"""

_SHOW_HELP = """Show the settings that count for GUEST, or for all guests, and where each comes from.

What is printed is TOML itself, and gives the same settings again. A guest without a table has the
defaults.

\b
Example:
  umldisk config show blackdance

\b
Exit codes:
   0  done
   2  GUEST is no name for a guest, or given together with --defaults
  65  there are problems, as `umldisk config check` says them
  66  umldisk.toml cannot be opened
  74  reading failed
"""


@click.group(help=_HELP, no_args_is_help=False)
def config() -> None:
    """Look at umldisk.toml."""


@config.command(help=_CHECK_HELP)
@json_option
@click.pass_context
def check(context: click.Context, *, as_json: bool) -> None:
    """Check, present."""
    from umldisk.config.check import check_config

    report = check_config(current_site(context))
    Presenter(as_json=as_json).show(report, _check_lines)
    if report.problems:
        context.exit(DataError.exit_code)


def _check_lines(report: ConfigCheck) -> Iterator[str]:
    from umldisk.config.problems import problem_line

    yield from (problem_line(report.path, problem) for problem in report.problems)
    if not report.problems:
        yield f"{report.path}: {'nothing wrong' if report.exists else 'not there, so that guests have the defaults'}"


@config.command(help=_SHOW_HELP)
@click.argument("guest", metavar="[GUEST]", required=False)
@click.option("--defaults", is_flag=True, help="Show all keys with their defaults instead, whatever umldisk.toml says.")
@json_option
@click.pass_context
def show(context: click.Context, /, guest: str | None, *, defaults: bool, as_json: bool) -> None:
    """Find what counts, present."""
    presenter = Presenter(as_json=as_json)
    if defaults:
        if guest is not None:
            raise UsageError("--defaults are the same for all guests", found=guest, hint="umldisk config show --help")
        _show_defaults(presenter)
        return
    from umldisk.config.guest import require_guest_name
    from umldisk.config.show import show_guests

    site = current_site(context)
    names = site.guest_names() if guest is None else [require_guest_name(guest)]
    presenter.show(show_guests(site, names), _guests_lines)


def _guests_lines(guests: list[ShownGuest]) -> Iterator[str]:
    from umldisk.config.show import guest_lines

    for number, guest in enumerate(guests):
        yield from [""] if number else []
        yield from guest_lines(guest)


def _show_defaults(presenter: Presenter) -> None:
    from umldisk.config.show import default_lines, show_keys

    def lines(_keys: list[ShownKey]) -> Iterator[str]:
        return default_lines()

    presenter.show(show_keys(), lines)
