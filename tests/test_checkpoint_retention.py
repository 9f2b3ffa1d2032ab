"""What a policy keeps: tables of rules, calendars and clocks."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest

from tests.kit.checkpoints import checkpoint
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.retention import (
    Cause,
    Duration,
    Kept,
    Missed,
    Policy,
    Rule,
    Verdict,
    decide,
    parse_duration,
    require_policy,
)
from umldisk.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def at(*times: str, zone: tzinfo = UTC) -> list[Checkpoint]:
    """Return checkpoints with these times, numbered from 1 in this order; without an offset they are in `zone`."""
    read = [datetime.fromisoformat(text) for text in times]
    return [
        checkpoint(number, moment if moment.tzinfo else moment.replace(tzinfo=zone))
        for number, moment in enumerate(read, 1)
    ]


def kept(
    checkpoints: Sequence[Checkpoint], policy: Policy, *, now: datetime = NOW, zone: tzinfo | None = UTC
) -> list[int]:
    """Return the numbers that are kept, oldest first."""
    return numbers(decide(checkpoints, policy, now=now, zone=zone))


def numbers(verdicts: Sequence[Verdict]) -> list[int]:
    return [verdict.checkpoint.number for verdict in verdicts if not verdict.is_removable]


# -- rules ------------------------------------------------------------------------------------------------------------


def nightly(count: int, *, last: datetime = NOW) -> list[Checkpoint]:
    """Return one checkpoint a night, of which number `count` is the newest."""
    return [checkpoint(number, last - timedelta(days=count - number)) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy(last=3), [38, 39, 40]),
        (Policy(daily=3), [38, 39, 40]),
        (Policy(hourly=2), [39, 40]),
        # 20 November 2026 is a Friday, the Sundays before it are the 15th and the 8th
        (Policy(weekly=3), [28, 35, 40]),
        # the last days of October and, earlier, the first night that there is
        (Policy(monthly=5), [20, 40]),
        (Policy(yearly=2), [40]),
        (Policy(daily=2, weekly=2, monthly=2), [20, 35, 39, 40]),
        (Policy(within=Duration(days=2)), [38, 39, 40]),
        (Policy(within=Duration(months=1)), list(range(9, 41))),
        (Policy(tags=("none",)), [40]),
        (Policy(last=1000), list(range(1, 41))),
        (Policy(), list(range(1, 41))),
    ],
)
def test_each_rule_over_forty_nights(policy: Policy, expected: list[int]) -> None:
    assert kept(nightly(40), policy) == expected


def test_the_newest_of_each_period_is_kept() -> None:
    day = at("2026-11-19T03:00", "2026-11-19T15:00", "2026-11-20T01:00", "2026-11-20T02:00")
    assert kept(day, Policy(daily=2)) == [2, 4]


def test_reasons_name_rule_count_and_who_is_newer() -> None:
    verdicts = decide(nightly(4), Policy(daily=3, weekly=1), now=NOW, zone=UTC)
    assert [verdict.reason for verdict in verdicts] == [
        "daily: 3 newer are kept; weekly: 4 is newer in 2026-W47",
        "daily 3 of 3",
        "daily 2 of 3",
        "daily 1 of 3; weekly 1 of 1; the newest good one",
    ]
    assert verdicts[1].kept == (Kept(Rule.DAILY, 3, 3, "2026-11-18"),)
    assert verdicts[1].missed == (Missed(Rule.WEEKLY, Cause.NOT_NEWEST, "2026-W47", 4),)


def test_reasons_of_age_tag_and_what_is_always_kept() -> None:
    nights = nightly(5)
    nights[0] = dataclasses.replace(nights[0], tags=("release", "x"))
    nights[1] = dataclasses.replace(nights[1], protected=True)
    nights.append(checkpoint(6, NOW + timedelta(minutes=1)))
    policy = Policy(within=Duration(days=1, hours=2), tags=("release",))
    assert [verdict.reason for verdict in decide(nights, policy, now=NOW, zone=UTC)] == [
        "tag release",
        "protected",
        "within: it is too old; tag: it has no such tag",
        "within 1d2h",
        "within 1d2h; the newest good one",
        "the newest good one; its time is still to come",
    ]


def test_deleted_ones_are_ignored() -> None:
    nights = [dataclasses.replace(night, deleted_at=NOW if night.number > 2 else None) for night in nightly(4)]
    assert numbers(decide(nights, Policy(last=1), now=NOW, zone=UTC)) == [2]
    assert len(decide(nights, Policy(last=1), now=NOW, zone=UTC)) == 2


def test_damaged_ones_use_up_no_count_and_stand_for_no_period() -> None:
    twice = at("2026-11-18T01:00", "2026-11-18T02:00", "2026-11-19T01:00", "2026-11-20T01:00", "2026-11-20T02:00")
    broken = [dataclasses.replace(one, damage="x" if one.number in {2, 3, 5} else "") for one in twice]
    assert kept(broken, Policy(daily=2)) == [1, 4]
    assert kept(broken, Policy(last=1)) == [4]
    verdicts = {v.checkpoint.number: v for v in decide(broken, Policy(daily=2), now=NOW, zone=UTC)}
    assert verdicts[5].missed == (Missed(Rule.DAILY, Cause.DAMAGED),)
    assert verdicts[5].reason == "it is damaged"


def test_where_all_are_damaged_the_newest_stays() -> None:
    broken = [dataclasses.replace(night, damage="x") for night in nightly(3)]
    assert kept(broken, Policy(daily=2)) == [3]


def test_age_counts_from_the_newest_good_one_and_not_from_today() -> None:
    old = nightly(5, last=NOW - timedelta(days=400))
    assert kept(old, Policy(within=Duration(days=1))) == [4, 5]
    old[4] = dataclasses.replace(old[4], damage="x")
    assert kept(old, Policy(within=Duration(days=1))) == [3, 4, 5]


def test_every_drive_of_every_guest_for_itself() -> None:
    nights = [
        checkpoint(number, NOW - timedelta(days=10 - number), guest=guest, drive=drive)
        for guest, drive, own in (("a", "var", (1, 3, 5)), ("a", "home", (2, 4)), ("b", "var", (1, 2)))
        for number in own
    ]
    verdicts = decide(nights, Policy(last=1), now=NOW, zone=UTC)
    assert [(v.checkpoint.guest, v.checkpoint.drive, v.checkpoint.number, v.is_removable) for v in verdicts] == [
        ("a", "home", 2, True),
        ("a", "home", 4, False),
        ("a", "var", 1, True),
        ("a", "var", 3, True),
        ("a", "var", 5, False),
        ("b", "var", 1, True),
        ("b", "var", 2, False),
    ]


def test_an_empty_policy_is_refused_for_commands_and_a_negative_count_always() -> None:
    with pytest.raises(UsageError):
        require_policy(Policy())
    assert require_policy(Policy(tags=("x",))).tags == ("x",)
    with pytest.raises(UsageError) as refused:
        Policy(weekly=-1)
    assert "--keep-weekly" in refused.value.line()


# -- durations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("1y2m3d4h", Duration(1, 2, 3, 4)),
        ("26h", Duration(hours=26)),
        ("90d", Duration(days=90)),
        ("1y4h", Duration(years=1, hours=4)),
    ],
)
def test_durations_are_read_and_written(text: str, duration: Duration) -> None:
    assert parse_duration(text) == duration
    assert str(duration) == text


@pytest.mark.parametrize(
    "text", ["", "0d", "1", "d", "1w", "-1d", "1d2y", "1.5d", " 1d", "1d ", "1D", "\u0661d", "9" * 30 + "d"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "time_text", "expected"),
    [
        (Duration(months=1), "2026-03-31T03:00", "2026-02-28T03:00"),
        (Duration(months=1), "2028-03-31T03:00", "2028-02-29T03:00"),
        (Duration(years=1), "2028-02-29T03:00", "2027-02-28T03:00"),
        (Duration(years=4), "2028-02-29T03:00", "2024-02-29T03:00"),
        (Duration(months=14, days=1), "2026-01-31T03:00", "2024-11-29T03:00"),
        # across the end of summer time: a day is 25 hours long, 24 hours are 24 hours
        (Duration(days=1), "2026-10-25T12:00", "2026-10-24T12:00"),
        (Duration(hours=24), "2026-10-25T12:00", "2026-10-24T13:00"),
        # into the hour that is left out in spring, and into the one that comes twice in autumn: its first time
        (Duration(days=1), "2026-03-30T02:30", "2026-03-29T01:30+00:00"),
        (Duration(days=1), "2026-10-26T02:30", "2026-10-25T02:30+02:00"),
        (Duration(years=9999), "2026-10-26T02:30", "0001-01-01T00:00+00:00"),
        (Duration(months=24310), "2026-10-26T02:30", "0001-01-01T00:00+00:00"),
        (Duration(days=9999999), "2026-10-26T02:30", "0001-01-01T00:00+00:00"),
        (Duration(hours=99999999), "2026-10-26T02:30", "0001-01-01T00:00+00:00"),
    ],
)
def test_how_long_ago_by_the_calendar(duration: Duration, time_text: str, expected: str) -> None:
    (one,), (other,) = at(time_text, zone=BERLIN), at(expected, zone=BERLIN)
    assert duration.before(one.time, BERLIN) == other.time


# -- calendars and clocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "policy", "times", "expected"),
    [
        # days are those of the zone: 23:30 UTC is the next day in Berlin
        (BERLIN, Policy(daily=9), ["2026-11-18T22:30Z", "2026-11-18T23:30Z", "2026-11-19T22:30Z"], [1, 3]),
        (UTC, Policy(daily=9), ["2026-11-18T22:30Z", "2026-11-18T23:30Z", "2026-11-19T22:30Z"], [2, 3]),
        # the hour that comes twice is two hours, on one day
        (BERLIN, Policy(hourly=9), ["2026-10-25T00:30Z", "2026-10-25T01:30Z", "2026-10-25T01:45Z"], [1, 3]),
        (BERLIN, Policy(daily=9), ["2026-10-25T00:30Z", "2026-10-25T01:30Z"], [2]),
        # around the hour that is left out: 01:59 and 03:00 follow each other
        (BERLIN, Policy(hourly=9), ["2026-03-29T00:59Z", "2026-03-29T01:00Z"], [1, 2]),
        (BERLIN, Policy(daily=9), ["2026-03-28T23:00Z", "2026-03-29T21:59Z", "2026-03-29T22:00Z"], [2, 3]),
        # half an hour set back: 01:30 to 02:00 comes twice
        ("Australia/Lord_Howe", Policy(hourly=9), ["2026-04-04T14:45Z", "2026-04-04T15:15Z"], [1, 2]),
        # set back over midnight: Saturday, a minute of Sunday, Saturday again, Sunday again
        (
            "America/St_Johns",
            Policy(daily=9),
            ["2010-11-07T02:29Z", "2010-11-07T02:30:30Z", "2010-11-07T03:00Z", "2010-11-07T03:40Z"],
            [3, 4],
        ),
        # a day that Samoa never had
        ("Pacific/Apia", Policy(daily=9), ["2011-12-30T09:59Z", "2011-12-30T10:00Z"], [1, 2]),
        # ISO weeks: 1 January 2027 is in the last week of 2026, 29 December 2025 in the first one of 2026
        (
            UTC,
            Policy(weekly=9),
            ["2026-12-28T03:00", "2027-01-01T03:00", "2027-01-03T03:00", "2027-01-04T03:00"],
            [3, 4],
        ),
        (UTC, Policy(weekly=9), ["2025-12-28T03:00", "2025-12-29T03:00", "2026-01-04T03:00"], [1, 3]),
        # years end with the zone's midnight, and not with a week
        (BERLIN, Policy(yearly=9), ["2026-12-31T22:59Z", "2026-12-31T23:00Z"], [1, 2]),
        # the leap day is a day of its own, in February
        (UTC, Policy(daily=9), ["2028-02-28T03:00", "2028-02-29T03:00", "2028-03-01T03:00"], [1, 2, 3]),
        (UTC, Policy(monthly=9), ["2028-02-28T03:00", "2028-02-29T03:00", "2028-03-01T03:00"], [2, 3]),
        # the same week number of another year, the same day of another month
        (UTC, Policy(weekly=9), ["2025-11-20T03:00", "2026-11-19T03:00"], [1, 2]),
        (UTC, Policy(daily=9), ["2026-10-19T03:00", "2026-11-19T03:00"], [1, 2]),
    ],
)
def test_periods_of_the_calendar(zone: tzinfo | str, policy: Policy, times: list[str], expected: list[int]) -> None:
    where = ZoneInfo(zone) if isinstance(zone, str) else zone
    assert kept(at(*times), policy, now=datetime(2030, 1, 1, tzinfo=UTC), zone=where) == expected


def test_at_equal_times_the_later_one_is_newer() -> None:
    assert kept(at("2026-11-19T03:00", "2026-11-19T03:00", "2026-11-19T03:00"), Policy(daily=1)) == [3]
    assert kept(at("2026-11-19T03:00", "2026-11-19T03:00"), Policy(last=2)) == [1, 2]


def test_a_clock_that_was_set_back_costs_neither_newest() -> None:
    # 3 is the newest by its time, 4 by its place in the history
    back = at("2026-11-17T03:00", "2026-11-18T03:00", "2026-11-19T03:00", "2026-11-16T03:00")
    assert kept(back, Policy(last=1)) == [4, 3]
    assert kept(back, Policy(daily=2)) == [4, 2, 3]


def test_those_still_to_come_are_kept_and_use_up_no_count() -> None:
    ahead = at("2026-11-17T03:00", "2026-11-18T03:00", "2027-06-01T03:00", "2036-01-01T03:00", "2026-11-19T03:00")
    assert kept(ahead, Policy(daily=2, yearly=1)) == [2, 5, 3, 4]
    assert kept(ahead, Policy(within=Duration(hours=1))) == [5, 3, 4]


@pytest.fixture
def sydney() -> Iterator[ZoneInfo]:
    """Let the machine's own zone be Sydney's."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Australia/Sydney"
    time.tzset()
    yield ZoneInfo("Australia/Sydney")
    del os.environ["TZ"]
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def test_the_machines_zone_is_taken_with_the_rules_of_each_time(sydney: ZoneInfo) -> None:
    spread = [checkpoint(n, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=7 * n)) for n in range(1, 1000)]
    for policy in (Policy(daily=200), Policy(weekly=30, monthly=9), Policy(within=Duration(months=7, days=3))):
        assert kept(spread, policy, zone=None) == kept(spread, policy, zone=sydney)
    assert kept(spread, Policy(daily=200), zone=sydney) != kept(spread, Policy(daily=200), zone=UTC)
