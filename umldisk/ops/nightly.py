r"""The nightly job and who watches it: texts for systemd and cron, a Prometheus textfile, and a monitoring verdict.

    cron GUEST          ->  umldisk-GUEST.service + .timer, or a crontab line     rendered here, installed by people
    the job, each night ->  checkpoint take, then checkpoint prune --gc           silent when all is well
    --metrics FILE      ->  FILE.prom for node_exporter's textfile collector      written after a success only
    drill --metrics     ->  the same for a drill                                  written whether it passed or not
    status --max-age    ->  0 OK, 1 WARNING, 2 CRITICAL                           by the age of what is there

Rendering is pure. Each target has its own quoting: systemd expands % and $ and knows backslashes inside double quotes
(systemd.unit(5), systemd.service(5)); cron turns a bare % into a line break before the shell sees it (crontab(5)), and
what it makes of two backslashes depends on whose cron it is. So backslashes and control characters are refused.

Metrics tell the last success, so that a job that does not run any more is seen by the time that passes. The same holds
for the verdict, which asks the checkpoints themselves and not the job.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import IntEnum

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.errors import UsageError
from umldisk.system.staging import write_file

_AT = time(3, 0)


class Specifier(str):
    """A word that systemd puts another in place of, where all others are written to stay what they are."""

    __slots__ = ()


INSTANCE = Specifier("%i")
"""What stands behind the @ in the name of a unit that is made of a template: the guest (systemd.unit(5))."""


@dataclass(frozen=True, slots=True)
class Job:
    """What runs every night at `at` by the machine's clock, one command after the other until one fails.

    Raises UsageError when a word cannot be written into a unit or a crontab.
    """

    guest: str
    commands: tuple[tuple[str, ...], ...]
    at: time = _AT

    def __post_init__(self) -> None:
        for word in (word for command in self.commands for word in command):
            if re.search(r"[\x00-\x1f\x7f\ud800-\udfff\\]", word):
                raise UsageError("this cannot be written into a unit or a crontab", found=ascii(word))
        for program, *_arguments in self.commands:
            if not program.startswith("/") or "$" in program:  # systemd does not look for it, nor expands $ there
                raise UsageError("a program that systemd cannot start", expected="an absolute path", found=program)


def nightly_job(
    guest: str,
    *,
    program: str,
    site: str,
    take: Sequence[str] = (),
    prune: Sequence[str] = (),
    at: time = _AT,
) -> Job:
    """Return the job of a guest: a checkpoint, and then, if `prune` says what to keep, pruning and reclaiming.

    `program` and `site` are absolute paths; `take` and `prune` are further arguments of the two commands.
    """
    start = (program, "--site", site, "checkpoint")
    commands = [(*start, "take", "--quiet", *take, guest)]
    if prune:
        commands.append((*start, "prune", "--quiet", "--gc", *prune, guest))
    return Job(guest, tuple(commands), at)


# -- systemd ----------------------------------------------------------------------------------------------------------


def systemd_units(job: Job) -> dict[str, str]:
    """Return the texts of the job's service and timer by file name, templates for any guest when it is INSTANCE."""
    name = "umldisk-checkpoint@" if isinstance(job.guest, Specifier) else f"umldisk-{job.guest}"
    starts = "".join(f"ExecStart={systemd_command(command)}\n" for command in job.commands)
    service = f"""\
[Unit]
Description=Nightly checkpoint of the guest {job.guest}
Documentation=man:systemd.service(5)

[Service]
Type=oneshot
{starts}Nice=10
IOSchedulingClass=idle
"""
    timer = f"""\
[Unit]
Description=Nightly checkpoint of the guest {job.guest}

[Timer]
OnCalendar=*-*-* {job.at:%H:%M:%S}
Persistent=true

[Install]
WantedBy=timers.target
"""
    return {f"{name}.service": service, f"{name}.timer": timer}


def systemd_command(words: Iterable[str]) -> str:
    """Return a command line for ExecStart= that gives the program exactly these words, a Specifier's value for it."""
    return " ".join(map(_systemd_word, words))


def _systemd_word(word: str) -> str:
    if isinstance(word, Specifier):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if re.fullmatch(r"[\w%$@/.,:=+-]+", escaped, re.ASCII) else f'"{escaped}"'


# -- cron -------------------------------------------------------------------------------------------------------------


def crontab_line(job: Job) -> str:
    """Return one line for a user's crontab."""
    shell = " && ".join(shlex.join(command) for command in job.commands)
    return f"{job.at.minute} {job.at.hour} * * * {shell.replace('%', chr(92) + '%')}\n"


# -- Prometheus -------------------------------------------------------------------------------------------------------

_METRICS = {
    "umldisk_checkpoint_last_success_timestamp_seconds": "When the newest checkpoint was taken, in Unix time.",
    "umldisk_checkpoint_duration_seconds": "How long taking it took.",
    "umldisk_checkpoint_size_bytes": "The size of the drive.",
    "umldisk_checkpoint_changed_bytes": "Bytes of chunks that differ from the checkpoint before it.",
    "umldisk_checkpoint_stored_bytes": "Bytes that the store grew by.",
}


_DRILL_METRICS = {
    "umldisk_drill_success": "1 when the last drill passed, 0 when it failed.",
    "umldisk_drill_timestamp_seconds": "When the last drill ended, in Unix time.",
    "umldisk_drill_seconds": "How long it took.",
    "umldisk_drill_ready_seconds": "How long the guest took to be ready; not there when it never was.",
}


@dataclass(frozen=True, slots=True)
class DrillResult:
    """How a drill of a guest ended; `ready_seconds` is None when the guest did not become ready."""

    guest: str
    passed: bool
    ended_at: datetime
    seconds: float
    ready_seconds: float | None


def render_metrics(checkpoints: Iterable[Checkpoint]) -> str:
    """Return what one run recorded in Prometheus' text format, a sample for each drive."""
    return _render(_METRICS, [({"guest": c.guest, "drive": c.drive}, _values(c)) for c in checkpoints])


def render_drill_metrics(result: DrillResult) -> str:
    """Return how a drill ended in Prometheus' text format."""
    values = float(result.passed), result.ended_at.timestamp(), result.seconds, result.ready_seconds
    return _render(_DRILL_METRICS, [({"guest": result.guest}, values)])


def write_metrics(path: str, checkpoints: Iterable[Checkpoint]) -> None:
    """Put the metrics in place, all or nothing; raises CannotCreateError and StorageError."""
    _put(path, render_metrics(checkpoints))


def write_drill_metrics(path: str, result: DrillResult) -> None:
    """Put the metrics of a drill in place, as `write_metrics` does."""
    _put(path, render_drill_metrics(result))


def _put(path: str, text: str) -> None:
    write_file(path, text.encode("utf-8", "replace"), mode=0o644)


def _render(explained: Mapping[str, str], rows: Sequence[tuple[Mapping[str, str], Sequence[float | None]]]) -> str:
    """Return the metrics, each with the values of all rows that have one, which stand in the metrics' order."""
    lines: list[str] = []
    for number, (name, explanation) in enumerate(explained.items()):
        samples = [(labels, values[number]) for labels, values in rows]
        lines += [f"# HELP {name} {explanation}", f"# TYPE {name} gauge"]
        lines += [f"{name}{_labels(labels)} {value!r}" for labels, value in samples if value is not None]
    return "\n".join(lines) + "\n"


def _values(checkpoint: Checkpoint) -> tuple[float, ...]:
    taken = checkpoint.taken
    moment = checkpoint.time.timestamp()
    return moment, taken.duration_seconds, taken.size_bytes, taken.changed_bytes, taken.stored_bytes


def _labels(labels: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items()) + "}"


# -- monitoring -------------------------------------------------------------------------------------------------------


class Status(IntEnum):
    """What a monitoring plugin answers, which is also its exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst status of all drives, and the one line that a monitoring plugin prints, with performance data."""

    status: Status
    line: str


_AGE = re.compile(r"(\d{1,9})([smhd]?)", re.ASCII)
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_age(text: str) -> timedelta:
    """Read an age such as 26h: seconds, or a number with s, m, h or d; raises UsageError when it is none."""
    found = _AGE.fullmatch(text)
    seconds = int(found[1]) * _UNIT_SECONDS[found[2]] if found else 0
    if not 0 < seconds <= 86400 * 36525:
        raise UsageError("not an age", expected="a number above 0 with s, m, h or d, as in 26h", found=text or '""')
    return timedelta(seconds=seconds)


def judge_ages(
    checkpoints: Iterable[Checkpoint], drives: Sequence[tuple[str, str]], *, max_age: timedelta, now: datetime
) -> Verdict:
    """Judge by the newest good checkpoint of each drive, of which `drives` names guest and drive.

    Older than `max_age` is a warning; older than twice that, or none at all, is critical. One whose time is still to
    come is a warning: a clock is wrong.
    """
    newest: dict[tuple[str, str], datetime] = {}
    for checkpoint in checkpoints:
        key = (checkpoint.guest, checkpoint.drive)
        if checkpoint.is_good:
            newest[key] = max(checkpoint.time, newest.get(key, checkpoint.time))
    judged = [_judge(f"{guest} {drive}", newest.get((guest, drive)), max_age, now) for guest, drive in drives]
    status = max((status for status, _text, _data in judged), default=Status.CRITICAL)
    texts = ", ".join(text for own, text, _data in judged if own is status) or "no drive has checkpoints"
    data = " ".join(data for _status, _text, data in judged if data)
    return Verdict(status, f"UMLDISK {status.name} - {texts}" + (f" | {data}" if data else ""))


def _judge(name: str, newest: datetime | None, max_age: timedelta, now: datetime) -> tuple[Status, str, str]:
    """Return the status, its text and the performance data of one drive."""
    if newest is None:
        return Status.CRITICAL, f"{name}: no good checkpoint", ""
    age = now - newest
    if age < timedelta():
        time_text = newest.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Status.WARNING, f"{name}: the newest checkpoint is from {time_text}, still to come", ""
    seconds, limit = int(age.total_seconds()), int(max_age.total_seconds())
    text = f"{name}: the newest checkpoint is {_spoken(seconds)} old"
    status = Status.OK if age <= max_age else Status.WARNING if age <= 2 * max_age else Status.CRITICAL
    return status, text, f"'{name}'={seconds}s;{limit};{2 * limit};0"


def _spoken(seconds: int) -> str:
    """Return an age in its two largest units."""
    days, rest = divmod(seconds, 86400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
