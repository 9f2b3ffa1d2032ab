"""What the kernel says of the machine's memory, against what it says elsewhere."""

import os
from pathlib import Path

from umldisk.system.memory import available_bytes, unwritten_bytes

_MIB = 1 << 20


def test_the_memory_is_between_nothing_and_all_there_is() -> None:
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_was_just_written_is_unwritten(tmp_path: Path) -> None:
    """Others write and sync meanwhile, so that one round of some has to show it."""
    grew = []
    for number in range(10):
        before = unwritten_bytes()
        with (tmp_path / str(number)).open("wb") as file:
            file.write(b"x" * 64 * _MIB)
            file.flush()
            grew.append(unwritten_bytes() - before)
        (tmp_path / str(number)).unlink()
        if grew[-1] > 32 * _MIB:
            return
    raise AssertionError(grew)
