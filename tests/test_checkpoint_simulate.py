"""The simulation against doing the same by hand, night after night; and the manual's worked example."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.checkpoints import checkpoint
from tests.kit.policies import histories, policies, zones
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.retention import Duration, Policy, decide
from umldisk.checkpoint.simulate import MOST_DAYS, SIMULATED, Simulation, simulate
from umldisk.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
DRIVE = [("blackdance", "var")]
MANUAL = Path(__file__).parents[1] / "docs" / "retention.md"


def left(simulation: Simulation) -> list[tuple[datetime, bool]]:
    """Return when each checkpoint was taken, and whether it is imagined."""
    found = [verdict.checkpoint for verdict in simulation.verdicts]
    return [(one.time, one.taken.reason == SIMULATED) for one in found]


def by_hand(
    there: list[Checkpoint], policy: Policy, *, days: int, now: datetime, zone: tzinfo
) -> list[tuple[datetime, bool]]:
    """Take and prune each night with checkpoints that are made here."""
    there = [one for one in there if one.deleted_at is None]
    number = max((one.number for one in there), default=0)
    wall = now.astimezone(zone)
    for day in range(1, days + 1):
        night = (wall + timedelta(days=day)).replace(fold=0).astimezone(UTC)
        there.append(checkpoint(number + day, night, reason=SIMULATED))
        there = [v.checkpoint for v in decide(there, policy, now=night, zone=zone) if not v.is_removable]
    return [(one.time, one.taken.reason == SIMULATED) for one in sorted(there, key=lambda one: (one.time, one.number))]


@given(histories(), policies, st.integers(1, 40), zones)
def test_it_is_what_so_many_real_nights_would_leave(
    history: list[Checkpoint], policy: Policy, days: int, zone: tzinfo
) -> None:
    now = datetime(2011, 3, 20, 2, 30, tzinfo=zone)
    found = simulate(history, policy, days=days, now=now, zone=zone, drives=DRIVE)
    assert left(found) == by_hand(history, policy, days=days, now=now, zone=zone)
    there = sum(1 for one in history if one.deleted_at is None)
    assert found.removed == there + days - len(found.verdicts)
    assert len(found.verdicts) <= found.most <= there + days


@settings(max_examples=20)
@given(policies, zones)
def test_after_long_enough_a_policy_holds_as_many_as_ever(policy: Policy, zone: tzinfo) -> None:
    # within 40 days there are 41 nights; the newest is kept beyond all counts
    steady = replace(policy, within=Duration(days=40) if policy.within else None)
    if steady.is_empty:
        return
    now = datetime(2026, 1, 1, 3, tzinfo=UTC)
    found = simulate([], steady, days=300, now=now, zone=zone, drives=DRIVE)
    limits = sum(limit for _rule, limit in steady.counts()) + (41 if steady.within else 0) + 1
    assert found.most <= limits + 1


def test_nights_keep_their_hour_across_the_changes_of_the_clock() -> None:
    found = simulate([], Policy(last=9), days=3, now=datetime(2026, 3, 27, 3, tzinfo=BERLIN), zone=BERLIN, drives=DRIVE)
    assert [time.astimezone(BERLIN).isoformat() for time, _imagined in left(found)] == [
        "2026-03-28T03:00:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T03:00:00+02:00",
    ]


def test_every_drive_that_has_checkpoints_gets_one_a_night() -> None:
    now = datetime(2026, 11, 20, 3, tzinfo=UTC)
    there = [checkpoint(1, now, drive="var"), checkpoint(2, now, drive="home"), checkpoint(1, now, guest="other")]
    found = simulate(there, Policy(last=2), days=5, now=now, zone=UTC)
    assert [(v.checkpoint.guest, v.checkpoint.drive) for v in found.verdicts] == [
        ("blackdance", "home"),
        ("blackdance", "home"),
        ("blackdance", "var"),
        ("blackdance", "var"),
        ("other", "var"),
        ("other", "var"),
    ]
    assert found.removed == 12
    assert found.most == 9


def test_without_drives_nothing_comes() -> None:
    found = simulate([], Policy(last=2), days=5, now=datetime(2026, 11, 20, tzinfo=UTC), zone=UTC)
    assert (found.verdicts, found.removed, found.most) == ((), 0, 0)


@pytest.mark.parametrize("days", [0, -1, MOST_DAYS + 1])
def test_days_that_make_no_sense_are_refused(days: int) -> None:
    with pytest.raises(UsageError):
        simulate([], Policy(last=2), days=days, now=datetime(2026, 11, 20, tzinfo=UTC), zone=UTC)


def test_the_end_of_the_calendar_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        simulate([], Policy(last=1), days=40, now=datetime(9999, 12, 1, tzinfo=UTC), zone=UTC, drives=DRIVE)


# -- the manual -------------------------------------------------------------------------------------------------------


def policy_of(line: str) -> Policy:
    """Read the --keep options of a command line in the manual."""
    options = dict(re.findall(r"--keep-([a-z]+) (\S+)", line))
    return Policy(**{name: int(value) for name, value in options.items()})  # type: ignore[arg-type]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_worked_example_of_the_manual_is_what_happens() -> None:
    text = MANUAL.read_text()
    example = text.partition("## A worked example")[2].partition("\n## ")[0]
    command = re.search(r"umldisk checkpoint prune .+", example)
    first, last = re.findall(r"\*\*(\d{4}-\d\d-\d\d)\*\*", example)
    assert command is not None
    nights = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    now = datetime.combine(date.fromisoformat(first), datetime.min.time().replace(hour=3), BERLIN) - timedelta(days=1)
    found = simulate([], policy_of(command[0]), days=nights, now=now, zone=BERLIN, drives=DRIVE)
    told = [[f"{v.checkpoint.time.astimezone(BERLIN):%Y-%m-%d, %A}", v.reason] for v in reversed(found.verdicts)]
    assert rows(example) == told
    counted = re.search(r"(\d+) of (\d+) nights are left", example)
    assert counted is not None
    assert (int(counted[1]), int(counted[2])) == (len(told), nights)


def test_the_manual_names_every_rule() -> None:
    named = set(re.findall(r"^\| `--keep-([a-z]+) ", MANUAL.read_text(), re.MULTILINE))
    assert named == {"last", "hourly", "daily", "weekly", "monthly", "yearly", "within", "tag"}
