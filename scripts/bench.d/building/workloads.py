"""What is built, and what is to be reached."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from disks import GIB, MIB

from building import archives

UMLDISK, PEER = "umldisk", "tar + mke2fs"
MEMORY_LIMIT_MB = 200
WITHOUT_MODULES = "[defaults]\nmodules = false\n"
_LARGE_ROOT = WITHOUT_MODULES + '[guest.bench.drives.root]\nsize = "4G"\n'


@dataclass(frozen=True, slots=True)
class Case:
    """One command that is timed: `name` says what it builds with what.

    `make_archive` writes what it builds from, None takes the embedded base; `settings` go into umldisk.toml.
    """

    name: str
    make_archive: Callable[[Path], None] | None = None
    settings: str = WITHOUT_MODULES
    is_peer: bool = False


class Times(Protocol):
    """What targets are judged by."""

    def seconds(self, case: str) -> float | None:
        """Return the median time of a case, or None when there was no run."""

    def ratio(self, case: str, other: str) -> float | None:
        """Return the median of what two runs of one round, side by side, have as their ratio."""


@dataclass(frozen=True, slots=True)
class SecondsAtMost:
    """At most so many seconds."""

    case: str
    limit: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.limit:g} s"

    def judge(self, times: Times) -> tuple[str, bool | None]:
        """Compare with the clock."""
        seconds = times.seconds(self.case)
        return ("-", None) if seconds is None else (f"{seconds:.2f} s", seconds <= self.limit)


@dataclass(frozen=True, slots=True)
class TimesAtMost:
    """At most `limit` times as long as another case."""

    case: str
    other: str
    limit: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.limit:g} × {self.other}"

    def judge(self, times: Times) -> tuple[str, bool | None]:
        """Compare two cases."""
        ratio = times.ratio(self.case, self.other)
        return ("-", None) if ratio is None else (f"{ratio:.2f} ×", ratio <= self.limit)


@dataclass(frozen=True, slots=True)
class Workload:
    """Cases that run in turns; `most_rounds` keeps one from taking all day, `needed_bytes` is room on the disk."""

    name: str
    summary: str
    cases: tuple[Case, ...]
    targets: tuple[SecondsAtMost | TimesAtMost, ...] = ()
    most_rounds: int | None = None
    needed_bytes: int = GIB


def _debian(given: Path | None) -> tuple[str, Callable[[Path], None]]:
    if given is not None:
        return "the archive that was given", lambda path: path.symlink_to(given.resolve())
    return "Debian bookworm by mmdebstrap, or where it cannot be had a tree of its shape", _make_debian


def _make_debian(path: Path) -> None:
    if not archives.bootstrap_debian(path):
        path.unlink(missing_ok=True)
        archives.write_like_debian(path, files=6_200, total_bytes=140 * MIB)


def _small(files: int) -> Case:
    return Case(f"{files} files", lambda path: archives.write_small_files(path, files))


def workloads(archive: Path | None) -> tuple[Workload, ...]:
    """Return all workloads; `archive` takes the place of the Debian that B1 would make."""
    text, make = _debian(archive)
    few, many = _small(10_000), _small(100_000)
    return (
        Workload(
            "B1",
            f"{text}, to five disks; the peer unpacks it and makes one ext4 of the tree, nothing checked or synced",
            (Case(UMLDISK, make), Case(PEER, make, is_peer=True)),
            (TimesAtMost(UMLDISK, PEER, 2.5), SecondsAtMost(UMLDISK, 8)),
            needed_bytes=2 * GIB,
        ),
        Workload("B2", "the embedded base to five disks", (Case(UMLDISK, settings=""),), (SecondsAtMost(UMLDISK, 2),)),
        Workload(
            "B3",
            "10,000 and 100,000 files of 1 to 4096 bytes, a hundred in each directory",
            (few, many),
            (TimesAtMost(many.name, few.name, 10),),
            needed_bytes=3 * GIB,
        ),
        Workload(
            "B4",
            "one file of 2 GiB, without a hole, on a root drive of 4 GiB",
            (Case("2 GiB file", lambda path: archives.write_one_file(path, 2 * GIB), _LARGE_ROOT),),
            most_rounds=1,
            needed_bytes=10 * GIB,
        ),
    )


def select(known: tuple[Workload, ...], names: list[str]) -> list[Workload]:
    """Return the workloads called `names`, all of them for none; raises ValueError naming what means nothing."""
    unknown = set(names) - {workload.name for workload in known}
    if unknown:
        all_names = ", ".join(workload.name for workload in known)
        raise ValueError(f"no such workload of build: {', '.join(sorted(unknown))} (there are {all_names})")
    return [workload for workload in known if not names or workload.name in names]
