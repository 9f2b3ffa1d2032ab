"""All processes of one moment: whose children they are, how long they run, what memory they take.

One walk over /proc answers every question about families, however many guests there are. What it says may
be over the next moment, so nothing is signalled by it: that is what `pids` is for.

Memory. A guest's own memory is one file on a tmpfs that its processes map, so that adding up what each has resident
would count it many times. RssShmem of proc(5) is the part of a process's memory that is mapped from tmpfs: the largest
of a family is the guest's memory file as the kernel process has it, and counts once. What a process has for itself
alone (RssAnon) is added for each; UML's helpers share their parent's memory altogether (CLONE_VM) and are left out.
Not counted: program code, which others may share, and what is swapped out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from umldisk.errors import StorageError
from umldisk.system.pids import ProcessId, boot_id
from umldisk.system.process_status import age_seconds, status_of, visible_pids

_OF_ONE_MEMORY = ("VmPeak", "VmData", "VmStk", "VmExe", "VmLib", "VmPTE")


@dataclass(frozen=True, slots=True)
class Process:
    """A living process; `start_ticks` since the boot, as in ProcessId."""

    pid: int
    parent: int
    start_ticks: int
    is_kernel_thread: bool

    @property
    def age_seconds(self) -> float:
        """How long it runs."""
        return age_seconds(self.start_ticks)


Processes = Mapping[int, Process]


def all_processes() -> dict[int, Process]:
    """Return the processes that can be seen from here, without those that only wait to be reaped, by their ids."""
    found = {}
    for pid in visible_pids():
        with contextlib.suppress(StorageError):  # one that cannot be looked at is left out
            status = status_of(pid)
            if status is not None and not status.is_over:
                found[pid] = Process(pid, status.parent, status.start_ticks, status.is_kernel_thread)
    return found


def family_of(processes: Processes, eldest: ProcessId) -> list[Process]:
    """Return a process, if it lives, with all that descend from it."""
    first = processes.get(eldest.pid)
    if first is None or eldest != ProcessId(first.pid, first.start_ticks, boot_id()):
        return []
    children: dict[int, list[Process]] = {}
    for one in processes.values():
        children.setdefault(one.parent, []).append(one)
    found = [first]
    for one in found:  # grows while it is walked
        found += children.get(one.pid, [])
    return found


def resident_bytes(processes: Iterable[Process]) -> int | None:
    """Return what these processes of one guest have in memory, counted as told above; None when nothing can be read."""
    facts = {one.pid: (one.parent, _memory_facts(one.pid)) for one in processes}
    shared, own, seen = 0, 0, False
    for parent, memory in facts.values():
        if "RssAnon" not in memory:
            continue
        seen = True
        shared = max(shared, memory["RssShmem"])
        if not _is_same_memory(memory, facts[parent][1] if parent in facts else {}):
            own += memory["RssAnon"]
    return (shared + own) * 1024 if seen else None


def _is_same_memory(one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether two processes look as only those with one memory do; nothing short of ptrace rights tells for sure."""
    return all(name in other and one[name] == other[name] for name in _OF_ONE_MEMORY)


def _memory_facts(pid: int) -> dict[str, int]:
    """Return the lines of /proc/PID/status that count KiB."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {words[0][:-1]: int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def command_line(pid: int) -> tuple[str, ...]:
    """Return the words that a process was started with, as far as it shows them; none when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in words if word)
