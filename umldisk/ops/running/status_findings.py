"""What `status` can find about a guest: codes that never change their meaning, like those of `check`.

    ERROR      the guest or its disks are not as they should be, and somebody has to do something
    WARNING    it goes wrong under some circumstances, which the message names

What is wrong with a COW file and its backing file has the codes of `check`.
"""

from __future__ import annotations

from collections.abc import Iterable

from umldisk.cow.findings import Code, Finding, Severity

_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

GUEST_CODES: dict[str, Code] = {
    "crashed": Code(_ERROR, "The guest's last run ended and nobody saw how: it and its supervisor were killed."),
    "processes-left": Code(_ERROR, "The guest's kernel has ended, and others of its processes keep the disks."),
    "supervisor-gone": Code(_ERROR, "The guest runs without its supervisor: its console is not recorded."),
    "bubblewrap-gone": Code(_WARNING, "A jailed guest runs without bubblewrap: its exit status will not be known."),
    "mconsole-silent": Code(_WARNING, "The guest runs and its mconsole does not answer."),
    "run-unreadable": Code(_ERROR, "What is known of the guest's run cannot be read."),
    "console-log-large": Code(_WARNING, "The transcript of the console is longer than it should ever be."),
    "restore-unfinished": Code(_ERROR, "A restore was cut off while old and new disks changed places."),
    "build-unfinished": Code(_ERROR, "A build was cut off while it put the disks in place."),
    "disk-missing": Code(_ERROR, "A drive's file is missing while others of the guest are there."),
    "disk-unreadable": Code(_ERROR, "A disk may not be read, is damaged, or is no disk image."),
    "disk-space": Code(_WARNING, "The disks could still grow by more than their file system has free."),
    "catalog-unreadable": Code(_ERROR, "The catalog of checkpoints is missing or damaged, so that none is shown."),
}


def guest_finding(code: str, message: str, *, where: str | None = None, hint: str | None = None) -> Finding:
    """Make a finding of a code from the table."""
    return Finding(code, GUEST_CODES[code].severity, message, hint, where)


def worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sort findings; those of one severity keep their order, equal ones are said once."""
    return tuple(sorted(dict.fromkeys(found), key=lambda one: one.severity.rank))
