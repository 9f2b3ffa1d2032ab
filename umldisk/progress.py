"""How long operations report on themselves, without knowing who listens.

An operation is given a `Progress`; it opens one `Task` a stage and adds the units (bytes, unless said otherwise) that
it has done. The default hears nothing and costs nothing. The command line passes an adapter that draws a bar.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Task(Protocol):
    """One stage of an operation, as a context manager."""

    def add(self, amount: int) -> None:
        """Count `amount` more units as done."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Progress(Protocol):
    """Someone who may want to know how far an operation is."""

    def task(self, name: str, total: int | None = None) -> Task:
        """Begin the stage `name` of `total` units (None: not known)."""


class _SilentTask:
    def add(self, amount: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class SilentProgress:
    """The null listener, the default everywhere."""

    def task(self, name: str, total: int | None = None) -> Task:
        """Return a task that forgets what it is told."""
        return _SilentTask()


SILENT: Progress = SilentProgress()
