"""`umldisk start`: a guest's kernel, in a jail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from umldisk.cli.checkpoints.common import GUEST
from umldisk.cli.options import dry_run_option, report_options
from umldisk.cli.output import Presenter, human_bytes, note
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.config.site import Site
    from umldisk.guest.launching import RunPlan
    from umldisk.ops.running.starting import StartReport

_HELP = """Start GUEST and return when its kernel answers; `umldisk wait` tells when it is ready.

Its disks are looked over first, and a start that would fail or spoil one is refused. The kernel runs
in a jail that shows it its own disks and nothing else, as the guest's own user if root starts it and
there is one. The console is recorded in the site's run/GUEST/console.log.

With --foreground SIGTERM, SIGHUP and Ctrl-C, where that is no key for the guest, stop the guest.
Without it they end the start alone: a kernel that was started by then goes on.

\b
Examples:
  umldisk start blackdance && umldisk wait blackdance
  umldisk start --discard root --discard home blackdance
  umldisk start --foreground blackdance

\b
Exit codes:
   0  it runs; with --foreground: it ran, and shut down by itself
   1  with --foreground: the guest was killed, its kernel failed, or nobody records its console any more
   2  there is no such drive, or the arguments make no sense
  65  a disk is damaged, or COW and backing file do not belong together; umldisk.toml is wrong
  66  there is no such guest, or the kernel or bubblewrap is not installed
  73  a COW file cannot be made
  74  there is too little memory or room, or the kernel does not come up
  75  the guest runs already, or somebody uses its disks
"""


@click.command(help=_HELP)
@GUEST
@click.option(
    "--discard", metavar="DRIVE", multiple=True, help="Throw the changes of this drive away at the end of the run."
)
@click.option("--foreground", is_flag=True, help="Attach the console to this terminal until the guest ends; ^] leaves.")
@click.option("--no-jail", is_flag=True, help="Let the kernel see the host as any program of its user does.")
@dry_run_option
@report_options
@click.pass_context
def start(
    context: click.Context,
    /,
    guest: str,
    discard: tuple[str, ...],
    foreground: bool,
    no_jail: bool,
    *,
    dry_run: bool,
    presenter: Presenter,
) -> None:
    """Parse, start, present."""
    from umldisk.cli.terminal import attached
    from umldisk.guest.console_log import transcript_end
    from umldisk.ops.running.starting import StartOptions, goes_on, start_guest

    if foreground and (dry_run or presenter.as_json):
        raise UsageError("--foreground goes with neither --dry-run nor --json")
    options = StartOptions(discard=discard, jail=not no_jail, dry_run=dry_run)
    site = current_site(context)
    since = transcript_end(site.run_directory(guest))
    plans: list[RunPlan] = []
    try:
        report = start_guest(site, guest, options, announce=plans.append, progress=presenter.progress)
        presenter.show(report, _lines)
        code = attached(site, guest, since=since) if foreground else 0
    except KeyboardInterrupt:
        if any(map(goes_on, plans)):
            _see_to(site, guest, foreground=foreground)
        raise
    context.exit(code)


def _see_to(site: Site, guest: str, *, foreground: bool) -> None:
    """Stop a guest whose start was interrupted when it runs already, or say that it goes on."""
    from umldisk.cli.terminal import say_that_it_goes_on
    from umldisk.ops.running.stopping import stop_guest

    if foreground:
        stop_guest(site, guest)
    else:
        say_that_it_goes_on(guest)


def _lines(report: StartReport) -> Iterator[str]:
    jail = "in a jail" if report.jailed else "without a jail"
    memory = human_bytes(report.memory_bytes)
    if report.dry_run:
        yield f"{report.guest}: would run as {report.user}, {jail}, with {memory}"
        yield f"  {report.command}"
    else:
        yield f"{report.guest}: runs as {report.user}, {jail}, with {memory}; PID {report.pid}, {report.seconds:.1f} s"
        yield f"  console: {report.console_log}"
    for disk in report.disks:
        ending = ", thrown away at the end" if disk.thrown_away else ""
        yield f"  ubd{disk.ubd}  {disk.drive}: {disk.path}{ending}"
    for warning in report.warnings:
        note(f"warning: {warning}")
