"""`umldisk console`: one command for a guest's mconsole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from umldisk.cli.options import FILE, Seconds, json_option
from umldisk.cli.output import Presenter
from umldisk.cli.sites import current_site
from umldisk.errors import UsageError

if TYPE_CHECKING:
    from umldisk.guest.mconsole.address import Address
    from umldisk.ops.consoling import ConsoleReport

_HELP = """Send COMMAND to the management console of GUEST's kernel and print the answer.

\b
  version, help                print the kernel's version, or the commands it knows
  config DEVICE[=VALUE]        print a device's setting, or plug a device in
  remove DEVICE                unplug a device
  proc FILE                    print a file of the guest's /proc, such as meminfo
  stack PID                    print a process's kernel stack
  log TEXT                     write a line into the kernel's log
  sysrq LETTER                 h lists them, s writes out, u makes read-only, j thaws, m shows memory
  stop, go                     freeze the guest; let it go on
  cad                          press ctrl-alt-del
  halt, reboot                 at once: nothing is written out

A kernel takes a command by its beginning, and some stop it for ever; only these are sent, letter by
letter. With --uml-dir GUEST is a umid; with --socket all words are the COMMAND.

\b
Examples:
  umldisk console blackdance -- version
  umldisk console blackdance -- proc meminfo
  umldisk console --uml-dir ~/.uml debian -- sysrq s

\b
Exit codes:
   0  done
   2  there is no such command, or the arguments make no sense
  65  the answer makes no sense or does not end
  66  the guest does not run
  73  there is no place for an answer
  74  the guest refused, did not answer, or not to the end
"""


@click.command(help=_HELP)
@click.argument("words", metavar="GUEST -- COMMAND...", nargs=-1, required=True)
@click.option("--raw", is_flag=True, help="Send COMMAND as it is, whatever comes of it.")
@click.option(
    "--timeout",
    "timeout_seconds",
    type=Seconds(most=86400, above=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Wait so long for the whole answer.",
)
@click.option("--uml-dir", type=FILE, metavar="DIR", help="Where UML keeps the sockets of its guests, often ~/.uml.")
@click.option("--socket", "socket_path", type=FILE, metavar="PATH", help="The socket of a guest that has no name.")
@json_option
@click.pass_context
def console(
    context: click.Context,
    /,
    words: tuple[str, ...],
    *,
    raw: bool,
    timeout_seconds: float,
    uml_dir: str | None,
    socket_path: str | None,
    as_json: bool,
) -> None:
    """Parse, ask, present."""
    from umldisk.ops.consoling import ask

    guest, command = (None, words) if socket_path is not None else (words[0], words[1:])
    if not command:
        raise UsageError("there is no COMMAND", hint=f"umldisk console {guest} -- help")
    target = _target(context, guest, uml_dir, socket_path)
    show = partial(Presenter(as_json=as_json).show, to_lines=_lines)
    show(ask(target, " ".join(command), raw=raw, timeout_seconds=timeout_seconds, guest=guest, cut_off=show))


def _target(context: click.Context, guest: str | None, uml_dir: str | None, socket_path: str | None) -> Address:
    from umldisk.guest.mconsole.address import Address
    from umldisk.ops.consoling import address_of_guest, address_of_umid

    if guest is None:
        if uml_dir is not None:
            raise UsageError("--socket and --uml-dir exclude each other")
        return Address(socket_path or "")
    return address_of_guest(current_site(context), guest) if uml_dir is None else address_of_umid(uml_dir, guest)


def _lines(report: ConsoleReport) -> Iterator[str]:
    if report.text:
        yield from (line.expandtabs() for line in report.text.split("\n"))
