"""A guest on sysvinit: the base's own /etc/inittab with its consoles, its ctrl-alt-del and a marker changed.

    si::sysinit:/etc/init.d/rcS            kept, like everything that is not named below
    ukey:2345:wait:/usr/bin/ssh-keygen -A  new, where the base brought ssh host keys (see ssh.py)
    l2:2:wait:/etc/init.d/rc 2             kept
    ca:12345:ctrlaltdel:...                now powers off
    1:2345:respawn:/sbin/getty ... tty1    dropped: UML has no such console
    uagt:2345:respawn:+...                 new: the agent, of which init keeps no record in utmp and wtmp (the +)
    urdy:2345:wait:/bin/echo ...           new: init goes through `wait` lines one by one, so all of rc is done
    u0:2345:respawn:/sbin/getty ... tty0   new, one for every configured console

A getty on a console that does not exist would end at once, and init would start it again and again.
"""

from __future__ import annotations

import posixpath

from umldisk.build.files.agent import PROGRAM as AGENT
from umldisk.build.files.agent import has_agent
from umldisk.build.files.console import getty_command
from umldisk.build.files.edited import edited, edited_lines, joined
from umldisk.build.files.facts import BaseFacts, InitSystem
from umldisk.build.files.marker import ready_marker
from umldisk.build.files.ssh import makes_host_keys
from umldisk.build.tree import Entry
from umldisk.config.guest import Guest

INITTAB = "/etc/inittab"
_LEVELS = "2345"
_SHUTDOWN = "/sbin/shutdown -t1 -h now"
"""Halting and powering off are the same to UML; -h is what the oldest shutdown knows too."""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return /etc/inittab, for sysvinit only."""
    if facts.init is not InitSystem.SYSVINIT or facts.text(INITTAB) is None:
        return []
    return edited(facts, INITTAB, inittab(guest, facts))


def inittab(guest: Guest, facts: BaseFacts) -> str:
    """Return the base's inittab as the guest needs it; doing it twice changes nothing."""
    kept = [line for line in edited_lines(facts.text(INITTAB) or "") if _stays(line)]
    rows = [_powering_off(line) for line in kept]
    if not any(_action(row) == "ctrlaltdel" for row in rows):
        rows.append(f"ca:12345:ctrlaltdel:{_SHUTDOWN}")
    if makes_host_keys(facts):
        rows.insert(_first_wait(rows), f"ukey:{_LEVELS}:wait:{facts.ssh_keygen} -A")
    if has_agent(guest, facts):
        rows.append(f"uagt:{_LEVELS}:respawn:+{AGENT}")
    rows.append(f"urdy:{_LEVELS}:wait:/bin/echo '{ready_marker(guest)}' >/dev/console")
    for number, tty in enumerate(guest.files.consoles):
        rows.append(f"u{number}:{_LEVELS}:respawn:{getty_command(guest, facts, tty)}")
    return joined(rows)


def _fields(line: str) -> list[str]:
    """Return id, levels, action and process of a line, or [] for a comment or a blank one."""
    fields = line.split(":", 3)
    return fields if len(fields) == 4 and not line.lstrip().startswith("#") else []


def _action(line: str) -> str:
    fields = _fields(line)
    return fields[2] if fields else ""


def _stays(line: str) -> bool:
    fields = _fields(line)
    if not fields:
        return True
    program = posixpath.basename(fields[3].split()[0]) if fields[3].split() else ""
    ours = fields[0] in ("ukey", "uagt", "urdy") or (fields[0][:1] == "u" and fields[0][1:].isdecimal())
    return not (ours or (fields[2] == "respawn" and "getty" in program))


def _powering_off(line: str) -> str:
    if _action(line) != "ctrlaltdel":
        return line
    name, levels, action, _ = _fields(line)
    return f"{name}:{levels}:{action}:{_SHUTDOWN}"


def _first_wait(rows: list[str]) -> int:
    return next((number for number, row in enumerate(rows) if _action(row) == "wait"), len(rows))
