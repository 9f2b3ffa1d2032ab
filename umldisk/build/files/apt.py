"""APT's sources, when they are given: /etc/apt/sources.list, and nothing else beside it.

A base may hold its distribution's sources in deb822 form or in lists under sources.list.d. They are emptied, or the
guest would go on using a mirror that was replaced.
"""

from __future__ import annotations

from umldisk.build.files.facts import BaseFacts
from umldisk.build.tree import Entry, file
from umldisk.config.guest import Guest

SOURCES = "/etc/apt/sources.list"


def entries(guest: Guest, facts: BaseFacts) -> list[Entry]:
    """Return the list and the emptied others; nothing to leave the base's, and for a base without APT."""
    lines = guest.files.apt_sources
    if lines is None or not facts.apt:
        return []
    text = "".join(f"{line}\n" for line in lines)
    return [file(SOURCES, text), *(file(path, f"# See {SOURCES}.\n") for path in facts.apt_files)]
