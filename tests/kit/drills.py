"""Drills with a made-up bench in the place of a guest that boots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kit.restorable import Broken
from umldisk.checkpoint.catalog import Catalog
from umldisk.checkpoint.record import Kind
from umldisk.image.drives import Drive
from umldisk.ops.checkpoints.storage import catalog_path
from umldisk.ops.drilling.drill import DrillOptions, DrillReport, drill_guest
from umldisk.ops.drilling.scratch import ScratchSite
from umldisk.ops.drilling.steps import (
    Found,
    passed,
)
from umldisk.ops.restoring.planning import Wish

_GOOD = passed("good")


@dataclass
class FakeBench:
    """Finds what it is told to find, everything else good, and notes what it was asked."""

    drives: Sequence[str] = ("root", "var")
    finds: dict[str, Found | BaseException] = field(default_factory=dict)
    ready_seconds: float | None = 2.5
    warnings: tuple[str, ...] = ("it is cold",)
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Found]:
        if name.startswith("_"):
            raise AttributeError(name)

        def step(*drive: str) -> Found:
            said = " ".join((name, *drive))
            self.asked.append(said)
            found = self.finds.get(said, _GOOD)
            if isinstance(found, BaseException):
                raise found
            return found

        return step


@dataclass
class Drilled:
    """A drill of a broken guest: `look` sees the scratch site while it is there."""

    broken: Broken
    bench: FakeBench = field(default_factory=lambda: FakeBench(drives=("var",)))
    look: Callable[[ScratchSite], Any] = id
    checked: list[str] = field(default_factory=list)

    def __call__(self, wish: Wish | None = None, **options: Any) -> DrillReport:
        def make(site: ScratchSite, checked: Sequence[Drive], timeout_seconds: float) -> FakeBench:
            self.checked = [drive.name for drive in checked]
            self.look(site)
            return self.bench

        return drill_guest(
            self.broken.site,
            self.broken.name,
            wish or Wish(),
            DrillOptions(**options),
            store=self.broken.store,
            make_bench=make,
            clock=self.broken.clock,
        )

    @property
    def place(self) -> Path:
        return Path(self.broken.site.directory, "drill")


def records_of(broken: Broken) -> list[tuple[Kind, tuple[int, ...], str]]:
    with Catalog.open(catalog_path(broken.site), writable=False) as catalog:
        return [(one.kind, one.subjects, one.detail) for one, _digest in catalog.records(broken.name)]
