"""One disk over many nights, recorded by umldisk and backed up by its peers.

    run-N/          of one first state: a site, the peers' repositories; the last one stays
      site/guests/bench/var_fs, var_cow
      disk          what the peers back up: the same disk as an image, and what every result is compared with
      kept          the disk as it was in the night that is restored

First states go in `first_rounds` times, each time into empty repositories. Then night follows night: the guest's COW
file is written, the same changes go into the image, both are read once, and each program runs, the first one changing
from night to night. On odd nights umldisk records without merging, and the merge comes afterwards; on even nights it
does both at once. The first night is not counted: what it leaves is compared.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import extents
from building.checks import Finding
from running import BenchError, Sample, measure, settle, touch_memory

from checkpointing import image
from checkpointing.contenders import BORG, UMLDISK, Command, Peer, Programs, Site, find_peers
from checkpointing.image import Scale
from checkpointing.results import Results

FIRST, TAKE, MERGE, EXPORT = (f"{UMLDISK}: {what}" for what in ("first", "take", "take --merge", "export"))

_Run = Callable[[], Sample]


def first_of(peer: str) -> str:
    """Return the case of a peer's first backup."""
    return f"{peer}: first"


def later_of(peer: str) -> str:
    """Return the case of a peer's later backups."""
    return f"{peer}: later"


def restore_of(peer: str) -> str:
    """Return the case of a peer's restore."""
    return f"{peer}: restore"


@dataclass(frozen=True, slots=True)
class Plan:
    """How many states there are: first ones, nights, and among these those that borg takes part in."""

    scale: Scale
    first_rounds: int
    night_count: int
    borg_nights: int
    restore_rounds: int

    @property
    def kept_night(self) -> int:
        """The night that is restored at the end."""
        return max(1, min(self.night_count, self.borg_nights) // 2)


class Nights:
    """The course of it; whatever is done stands in `results` at any time."""

    def __init__(
        self, results: Results, plan: Plan, directory: Path, programs: Programs, *, timeout_seconds: float
    ) -> None:
        self._results = results
        self._plan = plan
        self._directory = directory
        self._programs = programs
        self._timeout_seconds = timeout_seconds
        self._disk = directory / "disk"
        self._kept = directory / "kept"
        self._taken = 0
        self._kept_number = 0

    def hold(self) -> None:
        """Make the disk and run everything; raises BenchError when a command fails."""
        say("making the disk")
        base = self._directory / image.BASE
        image.make_base(base, self._plan.scale)
        extents.duplicate(base, self._disk)
        for number in range(1, self._plan.first_rounds + 1):
            base = self._first(number, base)
        for night in range(1, self._plan.night_count + 1):
            self._night(night)
        self._results.findings.append(_same("the base after all merges", self._site.base, self._disk))
        self._measure_rooms()
        self._disk.unlink()
        for number in range(self._plan.restore_rounds + 1):
            self._restore(number)

    # -- first states ---------------------------------------------------------------------------------------------

    def _first(self, number: int, base: Path) -> Path:
        """Let everybody store the disk for the first time; return where its base lies now."""
        place = self._directory / f"run-{number}"
        self._site = Site(place / "site", self._programs.umldisk)
        self._site.make()
        base.rename(self._site.base)
        if number > 1:
            shutil.rmtree(self._directory / f"run-{number - 1}")
        self._peers = find_peers(self._programs, place)
        runs: dict[str, _Run] = {FIRST: partial(self._run, self._site.take())}
        for peer in self._peers:
            peer.prepare()
            runs[first_of(peer.name)] = partial(self._run, peer.back_up(self._disk, 0))
        self._in_turns(runs, number)
        self._taken = 1
        return self._site.base

    # -- nights ---------------------------------------------------------------------------------------------------

    def _night(self, night: int) -> None:
        image.make_cow(self._site.cow, self._site.base, self._plan.scale, night)
        image.apply_night(self._disk, self._plan.scale, night)
        case, options = (TAKE, ()) if night % 2 else (MERGE, ("--merge",))
        runs: dict[str, _Run] = {case: partial(self._run, self._site.take(*options))}
        for peer in self._peers:
            if peer.name != BORG or night <= self._plan.borg_nights:
                runs[later_of(peer.name)] = partial(self._run, peer.back_up(self._disk, night))
        self._in_turns(runs, night, counts=night > 1)
        self._taken += 1
        if night == self._plan.kept_night:
            extents.duplicate(self._disk, self._kept)
            self._kept_number = self._taken
        if night == 1:
            self._compare_export(self._taken, self._disk)
        if case == TAKE:
            self._run(self._site.take("--merge"))
            self._taken += 1
        if night <= 2:
            self._results.findings.append(_same(f"the base after night {night}", self._site.base, self._disk))

    def _compare_export(self, number: int, expected: Path) -> None:
        out = self._directory / "out"
        self._run(self._site.export(number, out))
        self._results.findings.append(_same(f"umldisk: checkpoint {number}, exported", out, expected))
        out.unlink()

    def _measure_rooms(self) -> None:
        sizes = self._results.sizes
        sizes[UMLDISK] = image.allocated_bytes(self._site.store)
        for peer in self._peers:
            if peer.name != BORG or self._plan.borg_nights >= self._plan.night_count:
                sizes[peer.name] = image.allocated_bytes(peer.repository)

    # -- back again -----------------------------------------------------------------------------------------------

    def _restore(self, number: int) -> None:
        """Let everybody bring the kept night back; the first time it is compared and not counted."""
        runs: dict[str, _Run] = {EXPORT: partial(self._export, number)}
        for peer in self._peers:
            runs[restore_of(peer.name)] = partial(self._restore_by, peer, number)
        self._in_turns(runs, number, counts=number > 0)

    def _export(self, number: int) -> Sample:
        out = self._directory / "out"
        sample = self._run(self._site.export(self._kept_number, out))
        if number == 0:
            self._results.findings.append(_same(f"umldisk: checkpoint {self._kept_number}, exported", out, self._kept))
        out.unlink()
        return sample

    def _restore_by(self, peer: Peer, number: int) -> Sample:
        place = self._directory / "back"
        place.mkdir()
        sample = self._run(peer.restore(self._disk, self._plan.kept_night), place)
        if number == 0:
            made = peer.restored(place, self._disk)
            self._results.findings.append(_same(f"{peer.name}: night {self._plan.kept_night}", made, self._kept))
        shutil.rmtree(place)
        return sample

    # -- running --------------------------------------------------------------------------------------------------

    def _in_turns(self, runs: dict[str, _Run], number: int, *, counts: bool = True) -> None:
        """Run everything once, beginning with another one each time."""
        names = list(runs)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = runs[name]()
            if counts:
                self._results.samples[name][number] = sample
            say(f"{name}, {number}: {sample.seconds:.2f} s, {sample.peak_bytes / 1e6:.0f} MB")

    def _run(self, command: Command, place: Path | None = None) -> Sample:
        """Measure a command with the disks in memory and nothing left to write back."""
        settle()
        for path in (self._disk, self._site.base, self._site.cow):
            if path.exists():
                extents.warm(path)
        touch_memory(self._plan.scale.disk_bytes // 2)
        return run(command, place or self._directory, timeout_seconds=self._timeout_seconds)


def run(command: Command, directory: Path, *, timeout_seconds: float) -> Sample:
    """Measure a command; raises BenchError when it fails or takes too long."""
    sample = measure(command, directory, timeout_seconds=timeout_seconds)
    if sample.cut_off:
        raise BenchError(f"{' '.join(command)} took more than {timeout_seconds:g} s")
    return sample


def _same(what: str, made: Path, expected: Path) -> Finding:
    difference = extents.first_difference(made, expected)
    if difference is None:
        return Finding(f"{what}: byte for byte the disk of that night", True)
    return Finding(f"{what}: differs from the disk of that night: {difference}", False)


def say(text: str) -> None:
    """Tell whoever waits what goes on."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
