"""The commands of umldisk, each imported when it is called."""

from __future__ import annotations

import os
from typing import Any

import click

from umldisk import __version__
from umldisk.cli.lazy import Lazy, LazyGroup
from umldisk.cli.options import Globals
from umldisk.errors import UsageError

PROGRAM = "umldisk"


COMMANDS = {
    "info": Lazy("umldisk.cli.info:info", "Say what a file is: COW, ext file system, swap, raw."),
    "create": Lazy("umldisk.cli.create:create", "Make an empty COW file on a backing file."),
    "merge": Lazy("umldisk.cli.merge:merge", "Merge a COW file into a new image, or into its backing file."),
    "diff": Lazy("umldisk.cli.diff:diff", "Make the smallest COW file that turns one image into another."),
    "map": Lazy("umldisk.cli.map:map_", "Show which parts of the disk a COW file changes."),
    "check": Lazy("umldisk.cli.check:check", "Look for everything that can be wrong with a COW file."),
    "align": Lazy("umldisk.cli.align:align", "Repair pages that a guest would read wrongly."),
    "rebase": Lazy("umldisk.cli.rebase:rebase", "Put a COW file on another backing file."),
    "build": Lazy("umldisk.cli.build:build", "Make the five disks of a guest."),
    "checkpoint": Lazy("umldisk.cli.checkpoint:checkpoint", "Record the state of a guest's drives, night by night."),
    "restore": Lazy("umldisk.cli.restore:restore", "Bring a guest back from checkpoints, and keep the evidence."),
    "drill": Lazy("umldisk.cli.drill:drill", "Try whether a guest comes back, without touching it."),
    "changes": Lazy("umldisk.cli.changes:changes", "Say which files an intruder changed."),
    "reset": Lazy("umldisk.cli.reset:reset", "Give a guest fresh COW files, a new tmp and a new swap."),
    "start": Lazy("umldisk.cli.start:start", "Start a guest in a jail."),
    "wait": Lazy("umldisk.cli.wait:wait", "Wait until a guest is ready, or has ended."),
    "stop": Lazy("umldisk.cli.stop:stop", "Shut guests down, gently as far as they let us."),
    "console": Lazy("umldisk.cli.console:console", "Send a command to a guest's mconsole."),
    "who": Lazy("umldisk.cli.who:who", "Say which guest or process holds a disk."),
    "cron": Lazy("umldisk.cli.cron:cron", "Print the nightly job for systemd and cron."),
    "install-units": Lazy("umldisk.cli.install_units:install_units", "Write systemd units for guests and nights."),
    "status": Lazy("umldisk.cli.status:status", "Show how the guests are, or answer monitoring."),
    "config": Lazy("umldisk.cli.config:config", "Check umldisk.toml, or show what it comes to."),
}

EXIT_CODES = {
    0: "done",
    1: "findings or differences",
    2: "usage: the arguments make no sense",
    65: "bad data: a file is damaged or does not fit",
    66: "an input is missing or is no disk image",
    70: "a fault in umldisk itself",
    73: "the output exists or cannot be made",
    74: "reading or writing failed",
    75: "busy: somebody uses the disk",
    76: "the recorded history is broken",
    130: "interrupted from the keyboard",
    141: "the reader of the output went away",
}


class _Root(LazyGroup):
    """The commands of umldisk."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; with --debug a failure's traceback goes to stderr before the failure goes on."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") and not isinstance(error, click.exceptions.Exit):
                import traceback

                traceback.print_exc()
            raise


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"{PROGRAM} {__version__}")
        ctx.exit()


@click.group(
    cls=_Root,
    table=COMMANDS,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--site", "site_dir", metavar="DIR", help="The site: the directory with guests/ and umldisk.toml.")
@click.option("--debug", is_flag=True, help="Print the traceback of a failure.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def group(ctx: click.Context, site_dir: str | None, debug: bool) -> None:
    """Disks of User-mode Linux guests: COW files, building, merging."""
    ctx.obj = Globals(site_dir=site_dir, debug=debug)


def run(words: list[str]) -> int:
    """Run the command that `words` ask for and return its exit status; raises what it raises."""
    if os.environ.get(f"_{PROGRAM.upper()}_COMPLETE"):  # a shell asks what could come next
        group.main(words, prog_name=PROGRAM)
    try:
        with group.make_context(PROGRAM, words) as ctx:
            group.invoke(ctx)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise _usage_error(error) from None
    return 0


def _usage_error(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else PROGRAM
    message = " ".join(error.format_message().split())
    return UsageError(message[:1].lower() + message[1:].removesuffix("."), hint=f"{command} --help")
