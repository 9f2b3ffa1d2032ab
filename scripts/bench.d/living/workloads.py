"""What is measured: file systems under the disks, and how much of the drive was changed before."""

from dataclasses import dataclass

from disks import MIB
from running import BenchError

_LONGEST_SHARED_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Workload:
    """Disks on a file system of their own; the guest writes `changed_mib` before the first take, and goes on writing.

    `longest_seconds` is how long the median pause may be; None where it grows with what was changed.
    """

    name: str
    file_system: str
    changed_mib: tuple[int, ...]
    longest_seconds: float | None
    summary: str

    @property
    def volume_bytes(self) -> int:
        """How large the file system is."""
        return (1024 + 6 * sum(self.changed_mib)) * MIB


_WORKLOADS = (
    Workload("L1", "ext4", (16, 256), None, "disks on ext4: what was changed is copied in the pause"),
    Workload("L2", "btrfs", (16, 256), _LONGEST_SHARED_SECONDS, "disks on btrfs: the copy shares its data"),
    Workload("L3", "xfs", (16, 256), _LONGEST_SHARED_SECONDS, "disks on xfs: the copy shares its data"),
)
_QUICK = tuple(Workload(w.name, w.file_system, (16,), w.longest_seconds, w.summary) for w in _WORKLOADS)


def select(names: list[str]) -> list[Workload]:
    """Return the workloads of these names, all without any; raises BenchError."""
    if names == ["quick"]:
        return list(_QUICK)
    known = {workload.name: workload for workload in _WORKLOADS}
    for name in names:
        if name not in known:
            raise BenchError(f"there is no workload {name}; there are {' '.join(known)} and quick")
    return [known[name] for name in names] or list(_WORKLOADS)
