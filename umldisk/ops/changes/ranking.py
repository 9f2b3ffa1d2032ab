"""Which changes to look at first.

    privileges  what gives its user more than its own rights: setuid, setgid, capabilities, devices
    programs    what is executed, and what programs load
    ways in     accounts, keys, who may become whom
    started     what starts or is loaded without anybody asking: cron, init, profiles
    settings    all else in /etc
    logs        logs and histories that are gone or shorter
    other       the rest
    times       only the time of the last change differs, as of directories in which something came or went

The first pattern that fits a path decides. It is a table to be read, not a judgement: nothing is left out for where it
is, and a name tells little of what a file does.
"""

from __future__ import annotations

import re
from enum import Enum

from umldisk.ops.changes.rows import TIME_ALONE, ChangeKind, Difference, Row

_SETUID, _SETGID, _EXECUTABLE = 0o4000, 0o2000, 0o111
_CAPABILITY = "security.capability"
_SECOND_NS = 1_000_000_000
_CONTENTS = frozenset({"type", "size", "sha256", "sparse", "target"})


class Concern(Enum):
    """What a change is about, worst first."""

    PRIVILEGES = "privileges"
    PROGRAMS = "programs"
    WAYS_IN = "ways in"
    STARTED = "started"
    SETTINGS = "settings"
    LOGS = "logs"
    OTHER = "other"
    TIMES = "times"


class Mark(Enum):
    """What a change is marked with; TIME_PUT_BACK: other contents, and a time that says nothing happened."""

    SETUID = "setuid"
    SETGID = "setgid"
    CAPABILITIES = "capabilities"
    DEVICE = "device"
    TIME_PUT_BACK = "time put back"


_PLACES: tuple[tuple[Concern, re.Pattern[str]], ...] = (
    (Concern.WAYS_IN, re.compile(r"/\.ssh(/|$)|/\.[rs]hosts$|/\.k5login$")),
    (Concern.WAYS_IN, re.compile(r"^/etc/(passwd|shadow|group|gshadow|subuid|subgid|securetty|shells)-?$")),
    (Concern.WAYS_IN, re.compile(r"^/etc/(ssh|sudoers|pam|security|doas|dropbear|polkit|hosts\.(equiv|allow|deny))")),
    (Concern.STARTED, re.compile(r"^/etc/(cron|anacron|at\.|init|rc|runit|sv/|systemd|xdg/autostart|network/if-)")),
    (Concern.STARTED, re.compile(r"^/etc/(profile|bash|zsh|environment|ld\.so|modules|modprobe|udev|update-motd|apt)")),
    (Concern.STARTED, re.compile(r"^/var/spool/(cron|at|anacron)|^/(usr/(local/)?)?lib/(systemd|udev)/")),
    (Concern.STARTED, re.compile(r"/\.(profile|(ba|z|k|c|tc)shr?c?|bash_\w*(profile|login|logout|aliases)|zprofile)$")),
    (Concern.STARTED, re.compile(r"/\.config/(systemd|autostart)(/|$)")),
    (Concern.PROGRAMS, re.compile(r"^/(usr/(local/)?)?(s?bin|lib(32|64|x32|exec)?)(/|$)|^/(boot|opt)(/|$)")),
)
_SETTINGS = re.compile(r"^/etc(/|$)")
_LOGS = re.compile(r"^/var/(log|account|run)/|/[uw]tmp$|/\.[a-z]*_?history$")


def marks_of(difference: Difference) -> tuple[Mark, ...]:
    """Return what is remarkable about a file as it is now; nothing of one that is gone."""
    before, after = difference.before, difference.after
    if after is None or difference.fields == TIME_ALONE:
        return ()
    found = {
        Mark.SETUID: _is_file(after) and _mode(after) & _SETUID,
        Mark.SETGID: _is_file(after) and _mode(after) & _SETGID,
        Mark.CAPABILITIES: _CAPABILITY in after.get("xattrs", {}),
        Mark.DEVICE: "device" in after,
        Mark.TIME_PUT_BACK: before is not None and _hides(difference, before, after),
    }
    return tuple(mark for mark, is_so in found.items() if is_so)


def concern_of(difference: Difference) -> Concern:
    """Return what a change is about; see the table above."""
    if difference.fields == TIME_ALONE:
        return Concern.TIMES
    if any(mark is not Mark.TIME_PUT_BACK for mark in marks_of(difference)):
        return Concern.PRIVILEGES
    path = difference.path
    for concern, pattern in _PLACES:
        if pattern.search(path):
            return concern
    if _LOGS.search(path) and _has_lost(difference):
        return Concern.LOGS
    if any(row and _is_file(row) and _mode(row) & _EXECUTABLE for row in (difference.before, difference.after)):
        return Concern.PROGRAMS
    return Concern.SETTINGS if _SETTINGS.search(path) else Concern.OTHER


def rank(concern: Concern) -> int:
    """Return the place of a concern, 0 for the worst."""
    return list(Concern).index(concern)


def _is_file(row: Row) -> bool:
    return str(row["type"]) == "file"


def _mode(row: Row) -> int:
    return int(row["mode"], 8)


def _hides(difference: Difference, before: Row, after: Row) -> bool:
    """Whether the contents are others while the time, in whole seconds as tools put it back, is not."""
    seconds = {int(row["mtime_ns"]) // _SECOND_NS for row in (before, after)}
    return len(seconds) == 1 and not _CONTENTS.isdisjoint(difference.fields)


def _has_lost(difference: Difference) -> bool:
    if difference.kind is not ChangeKind.CHANGED:
        return difference.kind is ChangeKind.REMOVED
    before, after = difference.before or {}, difference.after or {}
    return int(after.get("size", 0)) < int(before.get("size", 0))
