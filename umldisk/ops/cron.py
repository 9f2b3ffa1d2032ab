"""The nightly job of a guest, as texts that its owner installs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import time

from umldisk.checkpoint.retention import Policy
from umldisk.config.site import Site
from umldisk.ops.checkpoints.pruning import policy_words
from umldisk.ops.nightly import Job, crontab_line, nightly_job, systemd_units

UNIT_DIRECTORY = "/etc/systemd/system"


@dataclass(frozen=True, slots=True)
class CronOptions:
    """What the job does at `at` by the machine's clock: a checkpoint, and a prune if the policy keeps anything."""

    at: time
    merge: bool = False
    metrics: str | None = None
    policy: Policy = field(default_factory=Policy)
    lock_wait_seconds: float = 0


@dataclass(frozen=True, slots=True)
class CronReport:
    """The job for systemd, a text for each file name, and for cron, one line."""

    guest: str
    units: Mapping[str, str]
    crontab: str


def nightly_texts(site: Site, guest: str, options: CronOptions, *, program: str) -> CronReport:
    """Return the texts for a guest; `program` is the absolute path of umldisk.

    Raises UsageError for what is no guest's name, or when a word can be written into neither.
    """
    site.guest(guest)
    job = job_of(site, guest, options, program=program)
    return CronReport(guest, systemd_units(job), crontab_line(job))


def job_of(site: Site, guest: str, options: CronOptions, *, program: str) -> Job:
    """Return the job of a guest, or of any guest when it is INSTANCE.

    Raises UsageError when a word can be written into neither a unit nor a crontab.
    """
    wait = ("--lock-wait", f"{options.lock_wait_seconds:g}") if options.lock_wait_seconds else ()
    metrics = ("--metrics", os.path.abspath(options.metrics)) if options.metrics else ()
    take = (*(("--merge",) if options.merge else ()), *metrics, *wait)
    words = policy_words(options.policy)
    return nightly_job(
        guest,
        program=program,
        site=site.directory,
        take=take,
        prune=(*words, *wait) if words else (),
        at=options.at,
    )
