"""Disks of several sizes with the same change: does the time of a night grow with the change or with the disk?

Each disk has a site of its own, is recorded whole once, and then goes through the same number of nights, in turns with
the others. Every night is recorded, which counts, and then merged, which does not.
"""

from dataclasses import dataclass
from pathlib import Path

import extents
from disks import GIB, MIB
from running import settle

from checkpointing import image
from checkpointing.contenders import UMLDISK, Programs, Site
from checkpointing.image import Scale
from checkpointing.nights import run, say
from checkpointing.results import Results


def case_of(scale: Scale) -> str:
    """Return the case of a disk's nights."""
    size = f"{scale.disk_bytes // GIB} GiB" if scale.disk_bytes >= GIB else f"{scale.disk_bytes // MIB} MiB"
    return f"{UMLDISK}: take, {size} disk"


@dataclass(frozen=True, slots=True)
class Growth:
    """The course of it; whatever is done stands in `results` at any time."""

    results: Results
    scales: tuple[Scale, ...]
    rounds: int
    directory: Path
    programs: Programs
    timeout_seconds: float

    def hold(self) -> None:
        """Make the disks and run everything; raises BenchError when a command fails."""
        sites = {scale: self._begun(scale) for scale in self.scales}
        for night in range(self.rounds + 1):
            first = night % len(self.scales)
            for scale in self.scales[first:] + self.scales[:first]:
                self._night(sites[scale], scale, night)

    def _begun(self, scale: Scale) -> Site:
        say(f"making and recording a disk of {scale.disk_bytes // MIB} MiB")
        site = Site(self.directory / str(scale.disk_bytes), self.programs.umldisk)
        site.make()
        image.make_base(site.base, scale)
        run(site.take(), self.directory, timeout_seconds=self.timeout_seconds)
        return site

    def _night(self, site: Site, scale: Scale, night: int) -> None:
        image.make_cow(site.cow, site.base, scale, night + 1)
        settle()
        extents.warm(site.cow)
        sample = run(site.take(), self.directory, timeout_seconds=self.timeout_seconds)
        run(site.take("--merge"), self.directory, timeout_seconds=self.timeout_seconds)
        if night > 0:
            self.results.samples[case_of(scale)][night] = sample
        say(f"{case_of(scale)}, {night}: {sample.seconds:.2f} s, {sample.peak_bytes / 1e6:.0f} MB")
