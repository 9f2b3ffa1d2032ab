"""A bar on the terminal for operations that take longer than half a second.

Nobody waits for tqdm: it is imported when the first bar is due, which for most commands is never.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from umldisk.progress import SILENT, Progress, Task

DELAY_SECONDS = 0.5
"""How long an operation runs before its bar appears."""


def terminal_progress(quiet: bool) -> Progress:
    """Return who draws bars on stderr if that is a terminal, and otherwise who does nothing."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return SILENT
    return TerminalProgress()


class TerminalProgress:
    """Draws one bar a stage."""

    def task(self, name: str, total: int | None = None) -> Task:
        """Begin the stage `name` of `total` bytes."""
        return _Bar(name, total)


class _Bar:
    """Counts at once and draws once it is worth it; leaves no trace on the terminal."""

    def __init__(self, name: str, total: int | None) -> None:
        self._name = name
        self._total = total
        self._pending = 0
        self._due = time.monotonic() + DELAY_SECONDS
        self._tqdm: Any = None

    def add(self, amount: int) -> None:
        """Count, and draw when the time has come."""
        if self._tqdm is not None:
            self._tqdm.update(amount)
            return
        self._pending += amount
        if time.monotonic() >= self._due:
            self._tqdm = _open_tqdm(self._name, self._total)
            self._tqdm.update(self._pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


def _open_tqdm(name: str, total: int | None) -> Any:
    import threading

    from tqdm import tqdm

    # Without these tqdm starts a thread and makes a semaphore for processes that are not there.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    bar = tqdm(
        total=total,
        desc=name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        dynamic_ncols=True,
        file=sys.stderr,
        delay=DELAY_SECONDS,
    )
    bar.start_t = bar.last_print_t = bar.start_t - DELAY_SECONDS  # that was the stage's own beginning
    return bar
