"""What a restore made and did, for whoever reads its report, now or after it was cut off and taken up again."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from umldisk.checkpoint.assemble import Assembled
from umldisk.config.guest import Guest, boot_argv
from umldisk.config.site import Site
from umldisk.ops.restoring import evidence
from umldisk.ops.restoring.evidence import EvidenceFile
from umldisk.ops.restoring.making import Made
from umldisk.ops.restoring.noted import parse_note
from umldisk.ops.restoring.planning import DrivePlan, RestorePlan, Way
from umldisk.ops.restoring.removed import RemovedFile


@dataclass(frozen=True, slots=True)
class RestoredDrive:
    """One drive of a report.

    `digest` is of its base, None where that was not read. `reference` says who vouched for a base that stayed, and
    `index_sha256` is of the index that the base equals, where there is one. `assembled` says where the chunks of a
    checkpoint came from.
    """

    name: str
    way: Way
    path: str
    cow_path: str | None
    checkpoint: int | None
    taken_at: datetime | None
    index_sha256: str | None
    digest: str | None
    reference: str
    assembled: Assembled | None


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did, or with `dry_run` would do.

    `steps` are the plan in words, and after it the `notes`: of which drives the next checkpoint reads everything, as it
    is not known, or could not be written down, what their base equals. `evidence` is the directory with the old files,
    which are `kept`, "" when there is none; `sums_sha256` is of its SHA256SUMS. `removed` are old files of which
    nothing is kept. `resumed` says that an interrupted restore was finished.
    """

    guest: str
    site: str
    directory: str
    steps: tuple[str, ...]
    notes: tuple[str, ...]
    drives: tuple[RestoredDrive, ...]
    evidence: str
    kept: tuple[EvidenceFile, ...]
    sums_sha256: str
    removed: tuple[RemovedFile, ...]
    boot_argv: tuple[str, ...]
    boot_command: str
    resumed: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What making gave; kept beside the plan, so that whoever finishes can report it."""

    made: Mapping[str, Made] = dataclasses.field(default_factory=dict)
    kept: tuple[EvidenceFile, ...] = ()
    sums_sha256: str = ""
    removed: tuple[RemovedFile, ...] = ()

    def build(self) -> bytes:
        """Return it as a file."""
        return json.dumps(dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read it; an outcome that cannot be read is none, because it is for the report alone."""
        try:
            row = json.loads(data)
            made = {name: _made(one) for name, one in row["made"].items()}
            removed = tuple(RemovedFile(**file) for file in row["removed"])
            return cls(made, tuple(EvidenceFile(**file) for file in row["kept"]), row["sums_sha256"], removed)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()


def _made(row: Mapping[str, Any]) -> Made:
    assembled = None if row["assembled"] is None else Assembled(**row["assembled"])
    return Made(row["digest"], assembled, parse_note(row.get("known")))


def report(
    site: Site,
    guest: Guest,
    plan: RestorePlan,
    outcome: Outcome,
    *,
    notes: tuple[str, ...] = (),
    resumed: bool = False,
    dry_run: bool = False,
) -> RestoreReport:
    """Tell what was done, or with `dry_run` would be."""
    argv = boot_argv(guest)
    return RestoreReport(
        guest=guest.name,
        site=site.directory,
        directory=guest.directory,
        steps=(*plan.lines(), *notes),
        notes=notes,
        drives=tuple(_describe(guest, drive, outcome.made.get(drive.drive)) for drive in plan.drives),
        evidence=os.path.join(evidence.directory_of(site.directory), plan.evidence) if plan.evidence else "",
        kept=outcome.kept,
        sums_sha256=outcome.sums_sha256,
        removed=outcome.removed,
        boot_argv=argv,
        boot_command=shlex.join(argv),
        resumed=resumed,
        dry_run=dry_run,
    )


def _describe(guest: Guest, plan: DrivePlan, made: Made | None) -> RestoredDrive:
    return RestoredDrive(
        name=plan.drive,
        way=plan.way,
        path=os.path.join(guest.directory, plan.base),
        cow_path=os.path.join(guest.directory, plan.cow) if plan.cow else None,
        checkpoint=plan.checkpoint,
        taken_at=plan.taken_at,
        index_sha256=plan.index_sha256,
        digest=made.digest if made else plan.digest,
        reference=plan.reference,
        assembled=made.assembled if made else None,
    )
