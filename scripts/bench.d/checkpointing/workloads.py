"""What is recorded, and what is to be reached."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from disks import GIB, MIB

from checkpointing import growth, nights
from checkpointing.contenders import BORG, RESTIC, UMLDISK, Programs
from checkpointing.growth import Growth
from checkpointing.image import Scale
from checkpointing.listing import LIST, Listing
from checkpointing.nights import EXPORT, FIRST, MERGE, TAKE, Nights, Plan
from checkpointing.results import Alike, MemoryAtMost, Results, RoomAtMost, SecondsAtMost, Target, TimesAsFast

_MEMORY_LIMIT_MB = 150
_NIGHT_BYTES, _PLACES = 32 * MIB, 500


@dataclass(frozen=True, slots=True)
class Setting:
    """How often, where and with what a workload is run."""

    runs: int
    directory: Path
    programs: Programs
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Workload:
    """One course of commands; `needed_bytes` is room on the disk."""

    name: str
    summary: str
    targets: tuple[Target, ...]
    needed_bytes: int
    hold: Callable[[Results, Setting], None]


_PEERS = (RESTIC, BORG)
_NIGHT_TARGETS: tuple[Target, ...] = (
    TimesAsFast(FIRST, nights.first_of(RESTIC), 1),
    *(TimesAsFast(case, nights.later_of(peer), 10) for case in (TAKE, MERGE) for peer in _PEERS),
    TimesAsFast(EXPORT, nights.restore_of(RESTIC), 1),
    RoomAtMost(UMLDISK, RESTIC, 1.3),
    MemoryAtMost(UMLDISK, _MEMORY_LIMIT_MB),
)


def _nights(scale: Scale, night_count: int) -> Callable[[Results, Setting], None]:
    def hold(results: Results, setting: Setting) -> None:
        plan = Plan(
            scale,
            first_rounds=min(3, setting.runs),
            night_count=night_count,
            borg_nights=min(night_count, 2 * setting.runs + 1),
            restore_rounds=min(3, setting.runs),
        )
        course = Nights(results, plan, setting.directory, setting.programs, timeout_seconds=setting.timeout_seconds)
        course.hold()

    return hold


def _growth(scales: tuple[Scale, ...]) -> Callable[[Results, Setting], None]:
    def hold(results: Results, setting: Setting) -> None:
        Growth(results, scales, setting.runs, setting.directory, setting.programs, setting.timeout_seconds).hold()

    return hold


def _growth_targets(scales: tuple[Scale, ...]) -> tuple[Target, ...]:
    cases = tuple(growth.case_of(scale) for scale in scales)
    return Alike(f"{UMLDISK}: take", cases, 1.5), MemoryAtMost(UMLDISK, _MEMORY_LIMIT_MB)


def _listing(count: int) -> Callable[[Results, Setting], None]:
    def hold(results: Results, setting: Setting) -> None:
        Listing(results, count, setting.runs, setting.directory, setting.programs, setting.timeout_seconds).hold()

    return hold


def _scales(*sizes_bytes: int, night_bytes: int, place_count: int) -> tuple[Scale, ...]:
    return tuple(Scale(size, night_bytes, place_count) for size in sizes_bytes)


_LARGE = _scales(GIB, 4 * GIB, 16 * GIB, night_bytes=_NIGHT_BYTES, place_count=_PLACES)
_SMALL = _scales(64 * MIB, 256 * MIB, GIB, night_bytes=2 * MIB, place_count=32)
_LIST_TARGETS: tuple[Target, ...] = (SecondsAtMost(LIST, 0.5), MemoryAtMost(UMLDISK, _MEMORY_LIMIT_MB))
# Small disks show that all works; what is to be reached is said of large ones.
_SMALL_TARGETS: tuple[Target, ...] = (MemoryAtMost(UMLDISK, _MEMORY_LIMIT_MB),)

WORKLOADS = (
    Workload(
        "C1",
        "4 GiB disk with 2 GiB of data, 30 nights of 32 MiB in 500 places, each after the one before",
        _NIGHT_TARGETS,
        45 * GIB,
        _nights(_LARGE[1], 30),
    ),
    Workload(
        "C2",
        "disks of 1, 4 and 16 GiB, half of each data, 32 MiB in 500 places changed a night",
        _growth_targets(_LARGE),
        26 * GIB,
        _growth(_LARGE),
    ),
    Workload("C3", "10,000 checkpoints of one drive", _LIST_TARGETS, GIB, _listing(10_000)),
)
QUICK = (
    Workload(
        "C1-small",
        "256 MiB disk with 128 MiB of data, 8 nights of 2 MiB in 32 places",
        _SMALL_TARGETS,
        2 * GIB,
        _nights(_SMALL[1], 8),
    ),
    Workload(
        "C2-small",
        "disks of 64, 256 and 1024 MiB, half of each data, 2 MiB in 32 places changed a night",
        _SMALL_TARGETS,
        2 * GIB,
        _growth(_SMALL),
    ),
    Workload("C3-small", "1,000 checkpoints of one drive", _SMALL_TARGETS, GIB, _listing(1_000)),
)


def select(names: list[str]) -> list[Workload]:
    """Return the workloads called `names`; all for none, the small ones for `quick`.

    Raises ValueError naming what means nothing.
    """
    known = {workload.name: [workload] for workload in WORKLOADS + QUICK} | {"quick": list(QUICK)}
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise ValueError(f"no such workload of checkpoint: {', '.join(unknown)} (there are {', '.join(known)})")
    return [workload for name in names for workload in known[name]] or list(WORKLOADS)
