"""What is measured and what is to be reached."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from disks import GIB, KIB, MIB, TIB, Contents, Disk, blocks, uneven_runs

UMLDISK, UML_MOO, CP, QEMU_IMG = "umldisk", "uml_moo", "cp", "qemu-img"
CONTENDERS = (UMLDISK, UML_MOO, CP, QEMU_IMG)
MEMORY_LIMIT_MB = 60


class Mode(Enum):
    """One use of umldisk, with the others' way to the same end beside it."""

    NEW = "merge"
    IN_PLACE = "merge -d"
    VERSION = "--version"
    INFO = "info"


class Check(Enum):
    """What must be true of the result besides its contents."""

    NO_BLOCKS = "no blocks for the zeros"
    SHARED = "all data shared"


@dataclass(frozen=True, slots=True)
class Faster:
    """At least `factor` times as fast as the peer."""

    mode: Mode
    peer: str | None
    factor: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≥ {self.factor:g} × as fast as {self.peer}" if self.factor != 1 else f"no slower than {self.peer}"

    def judge(self, own_seconds: float, peer_seconds: float) -> tuple[str, bool]:
        """Compare speeds."""
        speed = peer_seconds / own_seconds
        return f"{speed:.2f} × as fast", speed >= self.factor


@dataclass(frozen=True, slots=True)
class AtMost:
    """At most `factor` times the peer's time."""

    mode: Mode
    peer: str | None
    factor: float

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.factor:g} × {self.peer}"

    def judge(self, own_seconds: float, peer_seconds: float) -> tuple[str, bool]:
        """Compare times."""
        share = own_seconds / peer_seconds
        return f"{share:.2f} × {self.peer}", share <= self.factor


@dataclass(frozen=True, slots=True)
class Within:
    """At most so many seconds."""

    mode: Mode
    seconds: float
    peer: str | None = None

    @property
    def text(self) -> str:
        """The target in words."""
        return f"≤ {self.seconds:g} s"

    def judge(self, own_seconds: float, peer_seconds: float) -> tuple[str, bool]:
        """Compare with the clock; there is no peer."""
        return f"{own_seconds:.2f} s", own_seconds <= self.seconds


Target = Faster | AtMost | Within


@dataclass(frozen=True, slots=True)
class Workload:
    """One disk and what is done with it.

    `file_system` is made for it and mounted; None uses the scratch directory. `timed` are the contenders whose time is
    of interest, None means all.
    """

    name: str
    summary: str
    disk: Callable[[], Disk]
    targets: tuple[Target, ...]
    modes: tuple[Mode, ...] = (Mode.NEW, Mode.IN_PLACE)
    check: Check | None = None
    file_system: str | None = None
    timed: tuple[str, ...] | None = None


def _w1() -> Disk:
    data = blocks(11, disk_bytes=GIB, block_bytes=2 * MIB, count=100)
    return Disk(GIB, data, uneven_runs(12, disk_bytes=GIB, count=300, total_bytes=32 * MIB))


def _w2() -> Disk:
    whole = ((0, 512 * MIB),)
    return Disk(512 * MIB, whole, whole, page_bits=0b0101_0101)


def _w3() -> Disk:
    data = blocks(31, disk_bytes=TIB, block_bytes=MIB, count=64)
    return Disk(TIB, data, blocks(32, disk_bytes=TIB, block_bytes=4 * KIB, count=16_384))


def _w4() -> Disk:
    return Disk(4 * GIB, ((0, 4 * GIB),), blocks(41, disk_bytes=4 * GIB, block_bytes=64 * KIB, count=16_384))


def _w5() -> Disk:
    return Disk(4 * GIB, ((0, 4 * GIB),), blocks(51, disk_bytes=4 * GIB, block_bytes=64 * KIB, count=4_096))


def _w6(contents: Contents) -> Disk:
    return Disk(GIB, ((0, 640 * MIB),), ((64 * MIB, 576 * MIB),), contents=contents)


_HALF_OF_MOO = (AtMost(Mode.NEW, UML_MOO, 0.5), AtMost(Mode.IN_PLACE, UML_MOO, 0.5))

WORKLOADS = (
    Workload(
        "start",
        "what a command costs at least, on the COW file of W1",
        _w1,
        (Within(Mode.VERSION, 0.10), Within(Mode.INFO, 0.20)),
        modes=(Mode.VERSION, Mode.INFO),
    ),
    Workload(
        "W1",
        "1 GiB disk, 200 MiB of data, 32 MiB changed in 300 runs",
        _w1,
        (Faster(Mode.NEW, UML_MOO, 6), Faster(Mode.IN_PLACE, UML_MOO, 1)),
    ),
    Workload(
        "W2",
        "512 MiB disk, every other sector changed",
        _w2,
        (Faster(Mode.NEW, UML_MOO, 2), Faster(Mode.IN_PLACE, UML_MOO, 2)),
    ),
    Workload(
        "W3",
        "1 TiB sparse disk, 64 MiB of data, 64 MiB changed in scattered 4 KiB blocks",
        _w3,
        (Within(Mode.NEW, 2.5), Within(Mode.IN_PLACE, 2.5)),
    ),
    Workload(
        "W4",
        "4 GiB disk full of data, 1 GiB changed in 64 KiB blocks",
        _w4,
        (AtMost(Mode.NEW, CP, 1.1), Faster(Mode.IN_PLACE, UML_MOO, 8)),
    ),
    Workload(
        "W5",
        "4 GiB disk full of data, 256 MiB changed in 64 KiB blocks",
        _w5,
        (Faster(Mode.IN_PLACE, UML_MOO, 6),),
        modes=(Mode.IN_PLACE,),
    ),
    Workload(
        "W6-written",
        "640 MiB of data, 512 MiB of them overwritten with zeros",
        lambda: _w6(Contents.ZEROS),
        _HALF_OF_MOO,
        check=Check.NO_BLOCKS,
    ),
    Workload(
        "W6-discarded",
        "640 MiB of data, 512 MiB of them discarded",
        lambda: _w6(Contents.HOLES),
        _HALF_OF_MOO,
        check=Check.NO_BLOCKS,
    ),
    *(
        Workload(
            f"W7-{kind}",
            f"W4 on {kind}",
            _w4,
            (Within(Mode.NEW, 0.5), Within(Mode.IN_PLACE, 0.5)),
            check=Check.SHARED,
            file_system=kind,
            timed=(UMLDISK, CP, QEMU_IMG),  # uml_moo takes a minute and more; its result is compared all the same
        )
        for kind in ("btrfs", "xfs")
    ),
)

GROUPS = {"quick": ("start", "W1", "W2", "W3"), "all": tuple(workload.name for workload in WORKLOADS)}


def select(names: list[str]) -> list[Workload]:
    """Return the workloads that names, prefixes of names (W6) and groups mean, in the order above.

    Raises ValueError naming what means nothing.
    """
    wanted: set[str] = set()
    for name in names:
        found = GROUPS.get(name) or tuple(w.name for w in WORKLOADS if w.name.partition("-")[0] == name)
        found = found or tuple(w.name for w in WORKLOADS if w.name == name)
        if not found:
            raise ValueError(f"no such workload: {name} (there are {', '.join([*GROUPS, *GROUPS['all']])})")
        wanted.update(found)
    return [workload for workload in WORKLOADS if workload.name in wanted]
