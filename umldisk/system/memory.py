"""What the kernel says of the machine's memory, in /proc/meminfo (proc(5))."""

from __future__ import annotations

from umldisk.system.swapping import explained

_SOURCE = "/proc/meminfo"


def available_bytes() -> int:
    """Return how much memory a new program could have without swapping; raises StorageError."""
    return _facts().get("MemAvailable", 0)


def unwritten_bytes() -> int:
    """Return how much all programs together have written that is not on its disk yet; raises StorageError."""
    facts = _facts()
    return facts.get("Dirty", 0) + facts.get("Writeback", 0)


def _facts() -> dict[str, int]:
    """Return the rows that count KiB, in bytes."""
    with explained("read", _SOURCE), open(_SOURCE, encoding="ascii") as file:
        rows = [line.split() for line in file]
    return {words[0].removesuffix(":"): int(words[1]) * 1024 for words in rows if words[2:] == ["kB"]}
