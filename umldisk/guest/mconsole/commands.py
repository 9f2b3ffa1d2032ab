"""The commands of mconsole, and which of them are safe to send.

A kernel recognises a command by its beginning and shows no mercy: `cad2` shuts the guest down. So only what is listed
here, letter by letter, is a command; everything else takes `raw`, which leaves no more rules than a packet has.

What is left out was tried on a 6.1 kernel:

    sysrq t     panics it, and w prints stacks by the same code
    sysrq c     crashes it, as it should
    sysrq f n   kill the largest process, un-nice real-time ones: for a kernel's developers, as are p and q
    proc kcore  is answered for hours, and for as long mconsole answers nobody else
    proc FILE   for most others "Read of file failed": a kernel reads only such as need no process

An answer to `sysrq` and `stack` shows what the guest's console log level lets through: at 1 nearly nothing.

Sources: arch/um/drivers/mconsole_kern.c and mconsole_user.c, drivers/tty/sysrq.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from umldisk.errors import UsageError
from umldisk.guest.mconsole.packets import MAX_REQUEST_BYTES

SYSRQ = {
    "b": "restart at once, nothing is written out",
    "e": "SIGTERM for all processes but init",
    "h": "list the letters that this kernel knows",
    "i": "SIGKILL for all processes but init",
    "j": "thaw frozen file systems",
    "m": "print how memory is used",
    "o": "power off at once, nothing is written out",
    "s": "write out all file systems; the answer does not wait for the end",
    "u": "make all file systems read-only; the answer does not wait for the end",
    **{str(level): f"show messages below level {level} on the console" for level in range(10)},
}
"""What the letters of `sysrq` do that may be sent."""

# fmt: off
PROC_FILES = frozenset((
    "buddyinfo", "cgroups", "cmdline", "consoles", "cpuinfo", "crypto", "devices", "diskstats", "execdomains",
    "filesystems", "interrupts", "iomem", "ioports", "key-users", "keys", "loadavg", "locks", "meminfo", "misc",
    "pagetypeinfo", "partitions", "softirqs", "stat", "timer_list", "uptime", "version", "vmallocinfo", "vmstat",
    "zoneinfo",
))
# fmt: on
"""The files that `proc` answers with an end."""

_DEVICE = r"(?:ubd|con|ssl|eth|vec)\d{1,3}"
_REMOVABLE = re.compile(_DEVICE, re.ASCII)
_CONFIGURABLE = re.compile(rf"(?:mem|{_DEVICE})(?:=.+)?|ubd\d{{1,3}}[rscdt]+=.+", re.ASCII)
_PID = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its argument's name, "" when it takes none, what tells a good argument, and what it does."""

    argument: str
    accepts: Callable[[str], object]
    summary: str


def _nothing(argument: str) -> bool:
    return not argument


COMMANDS = {
    "version": Command("", _nothing, "print the kernel's version"),
    "help": Command("", _nothing, "print the commands that the kernel knows"),
    "halt": Command("", _nothing, "stop the kernel at once, nothing is written out"),
    "reboot": Command("", _nothing, "restart the kernel at once, nothing is written out"),
    "config": Command("DEVICE[=VALUE]", _CONFIGURABLE.fullmatch, "print a device's setting, or plug a device in"),
    "remove": Command("DEVICE", _REMOVABLE.fullmatch, "unplug a device"),
    "sysrq": Command("LETTER", SYSRQ.__contains__, "what the SysRq key does"),
    "cad": Command("", _nothing, "press ctrl-alt-del"),
    "stop": Command("", _nothing, "freeze the guest; only its mconsole goes on"),
    "go": Command("", _nothing, "let a frozen guest go on"),
    "log": Command("TEXT", str.strip, "write a line into the kernel's log"),
    "proc": Command("FILE", PROC_FILES.__contains__, "print a file of the guest's /proc"),
    "stack": Command("PID", _PID.fullmatch, "print a process's kernel stack"),
}


def encode(command: str, *, raw: bool = False) -> bytes:
    """Return a command as it is sent, when it is one of COMMANDS with an argument that it takes.

    With `raw` it may be anything that fits into a packet. Raises UsageError saying what does not.
    """
    data = _encoded(command)
    if not raw:
        _require_known(command)
    return data


def _encoded(command: str) -> bytes:
    try:
        data = command.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError("the mconsole command is no text", found=command) from None
    if not data:
        raise UsageError("the mconsole command is empty")
    if len(data) > MAX_REQUEST_BYTES:
        raise UsageError(
            "the mconsole command is too long", expected=f"at most {MAX_REQUEST_BYTES} bytes", found=len(data)
        )
    if b"\0" in data:
        raise UsageError("the mconsole command has a NUL in it; a kernel would read it to there", found=command)
    return data


def _require_known(command: str) -> None:
    if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in command):
        raise UsageError("the mconsole command has a control character in it", found=command)
    name, space, argument = command.partition(" ")
    known = COMMANDS.get(name)
    if known is None:
        expected = ", ".join(COMMANDS)
        raise UsageError("no such mconsole command", expected=f"one of {expected}", found=name, hint=_RAW_HINT)
    if known.accepts(argument) and bool(space) == bool(argument):
        return
    raise UsageError(
        f"{name} takes {known.argument or 'nothing after it'}",
        expected=_EXPECTED.get(name),
        found=argument or "nothing",
        hint=_RAW_HINT,
    )


_RAW_HINT = "--raw sends anything, but some commands stop a guest or its mconsole for ever"
_EXPECTED = {
    "config": "mem, or ubd, con, ssl, eth or vec with a number",
    "remove": "ubd, con, ssl, eth or vec with a number",
    "sysrq": f"one of {' '.join(sorted(SYSRQ))}",
    "proc": f"one of {' '.join(sorted(PROC_FILES))}",
    "stack": "the number of a process",
}
