"""`umldisk changes`: what an intruder changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from umldisk.cli.checkpoints.common import local
from umldisk.cli.options import report_options
from umldisk.cli.output import Presenter, counted, human_bytes, table
from umldisk.cli.sites import current_site
from umldisk.errors import FINDINGS_EXIT_CODE

if TYPE_CHECKING:
    from umldisk.ops.changes.finding import Change, ChangesReport, ComparedDrive

_HELP = """Say which files differ from what they should be, worst first.

GUEST may be off or run; EVIDENCE is a directory that `umldisk restore` kept, or its name. Each file
that the guest saw is compared by type, mode, owner, size, contents, attributes and time: /var with
its newest good checkpoint, or with the one that the restore brought back, all else with what was
built. Nothing is mounted, and nothing that runs in the guest is asked.

First come files that give rights (setuid, setgid, capabilities, devices), then programs, accounts
and keys, what starts by itself, the rest of /etc, and logs that are gone or shorter. Contents that
changed while the time did not are marked "time put back".

\b
Examples:
  umldisk changes blackdance
  umldisk changes evidence/blackdance-20261120T031500Z
  umldisk changes --since 12 blackdance var

\b
Exit codes:
   0  all files are as they should be
   1  files differ, or a drive cannot be read
   2  there is no such drive, or the arguments make no sense
  65  umldisk.toml, the evidence or a checkpoint is damaged, or a running guest's disk cannot be had
  66  there is no such guest, evidence or checkpoint
  73  no copy of a running guest's disk can be made
  74  reading or writing failed, or there is no room for a copy
  75  somebody else uses the disks, or a restore was not finished
"""


@click.command(help=_HELP)
@click.argument("target", metavar="GUEST|EVIDENCE")
@click.argument("drives", metavar="[DRIVE]...", nargs=-1)
@click.option("--since", metavar="CHECKPOINT", help="Compare with this checkpoint: a number, latest, or a time.")
@click.option("--times", is_flag=True, help="List files, too, of which only the time differs.")
@report_options
@click.pass_context
def changes(
    context: click.Context,
    /,
    target: str,
    drives: tuple[str, ...],
    *,
    since: str | None,
    times: bool,
    presenter: Presenter,
) -> None:
    """Parse, compare, present."""
    from umldisk.ops.changes.finding import find_changes
    from umldisk.ops.checkpoints.naming import parse_name

    named = None if since is None else parse_name(since)
    report = find_changes(current_site(context), target, drives, since=named, progress=presenter.progress)
    presenter.show(report, lambda found: _lines(found, times=times))
    if not report.same:
        context.exit(FINDINGS_EXIT_CODE)


def _lines(report: ChangesReport, *, times: bool) -> Iterator[str]:
    whose = report.directory if report.is_evidence else report.guest
    yield f"{whose}: {_verdict(report)}"
    if report.pause_seconds is not None:
        yield f"  the guest runs and stood still for {report.pause_seconds * 1000:.1f} ms"
    yield from table(_drive_row(drive) for drive in report.drives)
    for concern, group in groupby(report.changes, key=lambda change: change.concern.value):
        listed = list(group)
        if concern == "times" and not times:
            yield f"{concern}: of {counted(len(listed), 'path')} only the time differs; --times lists them"
            continue
        yield f"{concern}:"
        yield from table(("", change.kind.value, change.drive, change.path, _details(change)) for change in listed)


def _verdict(report: ChangesReport) -> str:
    if report.same:
        return "all files are as they should be"
    number = len(report.changes)
    return f"{number} paths are not as they should be" if number != 1 else "1 path is not as it should be"


def _drive_row(drive: ComparedDrive) -> tuple[str, ...]:
    against = "built"
    if drive.checkpoint is not None and drive.taken_at is not None:
        against = f"checkpoint {drive.checkpoint} of {local(drive.taken_at)}"
    if drive.state.value == "unreadable":
        return ("", drive.name, f"cannot be compared: {drive.reason}")
    found = f"{counted(drive.changes, 'change')} since {against}" if drive.changes else f"as {against}"
    return ("", drive.name, f"{found}; {drive.reason}" if drive.reason else found)


def _details(change: Change) -> str:
    """Say what became of a file, and what is remarkable about it."""
    if change.before is None or change.after is None:
        said = _described(change.after or change.before or {})
    else:
        said = ", ".join(_transitions(change.before, change.after, change.fields))
    marks = ", ".join(mark.value for mark in change.marks)
    return f"{said}  [{marks}]" if marks else said


def _described(row: Mapping[str, Any]) -> str:
    said = f"{_type(row)} {row['mode']} {_owner(row)}"
    if "size" in row:
        return f"{said}, {human_bytes(row['size'])}"
    return f"{said} to {row['target']}" if "target" in row else said


def _transitions(before: Mapping[str, Any], after: Mapping[str, Any], fields: tuple[str, ...]) -> Iterator[str]:
    """Yield in words how a file differs; what follows from another type is not told once more."""
    if "type" in fields:
        yield f"{_type(before)} became {_described(after)}"
        return
    if "mode" in fields:
        yield f"mode {before['mode']} became {after['mode']}"
    if {"uid", "gid"} & set(fields):
        yield f"owner {_owner(before)} became {_owner(after)}"
    if "size" in fields:
        yield f"{human_bytes(before['size'])} became {human_bytes(after['size'])}"
    if {"sha256", "sparse"} & set(fields):
        yield "other contents"
    if "target" in fields:
        yield f"leads to {after['target']}, not {before['target']}"
    if "device" in fields:
        yield "another device"
    if "xattrs" in fields:
        yield "other attributes"
    if fields == ("mtime_ns",):
        yield "another time"


def _type(row: Mapping[str, Any]) -> str:
    return str(row["type"]).replace("_", " ")


def _owner(row: Mapping[str, Any]) -> str:
    return f"{row['uid']}:{row['gid']}"
