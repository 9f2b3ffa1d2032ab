"""Who is let in on a console.

Root's password is locked unless one is given, so that nothing that may listen on a network lets root in with one. The
first console, instead, is logged in without being asked: whoever holds it started the guest and owns its disks, so a
password would protect nothing, and a known or empty one would be a hole once a service is added. With a password the
console asks for it, like all further consoles always do; `login.console` decides otherwise.

The login without asking is a program given to getty instead of login: the options for that, -n and -l, are the same for
busybox's getty and for every agetty of the last 25 years.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest

LOGIN_PROGRAM = "/usr/local/sbin/console-login"
_SPEED = 38400

_CONSOLE_LOGIN = """\
#!/bin/sh
# The console belongs to whoever started the guest.
exec /bin/login -f root
"""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the program that logs root in, where a console does that."""
    known = facts.init not in (InitSystem.OTHER, InitSystem.NONE)
    return [file(LOGIN_PROGRAM, _CONSOLE_LOGIN, 0o755)] if known and logs_in(guest) else []


def logs_in(guest: Guest) -> bool:
    """Whether the first console logs root in without asking."""
    login = guest.files.login
    wanted = login.root_password is None if login.console is None else login.console
    return wanted and bool(guest.files.consoles)


def getty_command(guest: Guest, facts: BaseFacts, tty: str) -> str:
    """Return the command line of the getty on `tty`."""
    options = f"-n -l {LOGIN_PROGRAM} " if logs_in(guest) and tty == guest.files.consoles[0] else ""
    return f"{facts.getty} {options}{_SPEED} {tty} linux"
