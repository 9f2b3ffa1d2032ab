"""Accounts: the base's own, with root's password decided; a base without any gets the few it needs.

`!` locks a password. With ssh keys it is `*` instead, which no password matches either: an ssh server without PAM
takes `!` for a locked account and refuses its keys too.

Where there is no shadow file, as in old bases, the password stands in /etc/passwd itself.
"""

from __future__ import annotations

from umldisk.build.files.edited import edited, edited_lines, joined
from umldisk.build.files.facts import BaseFacts
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest

PASSWD, SHADOW, GROUP, SECURETTY = "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/securetty"
_SHADOW_GROUP = 42

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
nobody:x:65534:65534:nobody:/:/bin/false
"""

_GROUP = """\
root:x:0:
daemon:x:1:
tty:x:5:
disk:x:6:
shadow:x:42:
users:x:100:
nogroup:x:65534:
"""

_SHADOW = """\
root:!:19000:0:99999:7:::
daemon:*:19000:0:99999:7:::
nobody:*:19000:0:99999:7:::
"""


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the account files that differ from the base's."""
    if facts.text(PASSWD) is None:
        shadow = with_field(_SHADOW, "root", 1, password(guest))
        plain = [file(PASSWD, _PASSWD), file(SHADOW, shadow, 0o640, gid=_SHADOW_GROUP)]
        return plain if facts.text(GROUP) is not None else [*plain, file(GROUP, _GROUP)]
    return [*_passwords(guest, facts), *_securetty(guest, facts)]


def password(guest: Guest) -> str:
    """Return the second field of root's line: a hash, or what no password has."""
    login = guest.files.login
    return login.root_password or ("*" if login.ssh_keys else "!")


def _passwords(guest: Guest, facts: BaseFacts) -> list[Entry]:
    known = facts.text(PASSWD) or ""
    shadow = facts.text(SHADOW)
    if shadow is None:
        return edited(facts, PASSWD, with_field(known, "root", 1, password(guest)))
    shadow = with_field(_having_root(shadow), "root", 1, password(guest))
    return [*edited(facts, PASSWD, with_field(known, "root", 1, "x")), *edited(facts, SHADOW, shadow)]


def _having_root(shadow: str) -> str:
    has_root = any(line.startswith("root:") for line in edited_lines(shadow))
    return shadow if has_root else "root:!:19000:0:99999:7:::\n" + shadow


def with_field(text: str, name: str, index: int, value: str) -> str:
    """Return a text of colon-separated lines with one field of every line of `name` set to `value`."""
    lines = edited_lines(text)
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name and len(fields) > index:
            fields[index] = value
            lines[number] = ":".join(fields)
    return joined(lines)


def _securetty(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Let root log in on the configured consoles where the base has a list of such."""
    known = facts.text(SECURETTY)
    if known is None:
        return []
    lines = edited_lines(known)
    missing = [tty for tty in guest.files.consoles if tty not in lines]
    return edited(facts, SECURETTY, joined([*lines, *missing])) if missing else []


def root_home(facts: BaseFacts) -> str:
    """Return the home directory of root."""
    for line in edited_lines(facts.text(PASSWD) or _PASSWD):
        fields = line.split(":")
        if fields[0] == "root" and len(fields) > 5 and fields[5].startswith("/"):
            return fields[5].rstrip("/")
    return "/root"
