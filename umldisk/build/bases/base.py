"""What every base is: something that yields entries once, and afterwards can say what it was.

A base is a context manager that owns what it opened. `entries` may be called once; contents are to be read before the
next entry is asked for, so that a base of any size passes through in constant memory. `origin` is complete when the
last entry has been yielded: the digest of an archive is known only then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from umldisk.build.tree import Entry, HardLink


@dataclass(frozen=True, slots=True)
class Origin:
    """What a base was, for the manifest.

    `kind` is busybox, bootstrap, tar, directory or ext; `source` what the user called it; `sha256` the digest of the
    file that was read (None for a directory); `packages` are names with versions where a package manager made it.
    """

    kind: str
    source: str
    sha256: str | None = None
    packages: tuple[str, ...] = ()


class Base(Protocol):
    """A source of a guest's files, as a context manager."""

    def entries(self) -> Iterator[Entry | HardLink]:
        """Yield everything, parents not necessarily first; raises UmldiskError for what cannot be kept."""

    @property
    def origin(self) -> Origin:
        """What was read; complete after the last entry."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
