"""Properties of what a policy keeps, over arbitrary histories and policies, and a reference to agree with."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from datetime import datetime, tzinfo

from hypothesis import given
from hypothesis import strategies as st

from tests.kit.policies import histories, nows, policies, zones
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.retention import Duration, Policy, Rule, decide

COUNTED = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def kept(checkpoints: Sequence[Checkpoint], policy: Policy, *, now: datetime, zone: tzinfo) -> list[int]:
    """Return the numbers that are kept, oldest first."""
    verdicts = decide(checkpoints, policy, now=now, zone=zone)
    return [verdict.checkpoint.number for verdict in verdicts if not verdict.is_removable]


@given(histories(), policies, nows, zones)
def test_pruning_twice_removes_nothing_more(
    history: list[Checkpoint], policy: Policy, now: datetime, zone: tzinfo
) -> None:
    left = [v.checkpoint for v in decide(history, policy, now=now, zone=zone) if not v.is_removable]
    assert not [v for v in decide(left, policy, now=now, zone=zone) if v.is_removable]


@given(histories(), policies, policies, nows, zones)
def test_who_asks_for_more_keeps_no_less(
    history: list[Checkpoint], policy: Policy, more: Policy, now: datetime, zone: tzinfo
) -> None:
    if policy.is_empty:
        return
    larger = dataclasses.replace(
        policy,
        **{name: getattr(policy, name) + getattr(more, name) for name in COUNTED},
        within=_added(policy.within, more.within),
        tags=tuple({*policy.tags, *more.tags}),
    )
    assert set(kept(history, policy, now=now, zone=zone)) <= set(kept(history, larger, now=now, zone=zone))


def _added(one: Duration | None, other: Duration | None) -> Duration | None:
    if one is None or other is None:
        return one or other
    return Duration(*(getattr(one, n) + getattr(other, n) for n in ("years", "months", "days", "hours")))


@given(histories(), policies, nows, zones)
def test_what_is_always_kept_is_kept(history: list[Checkpoint], policy: Policy, now: datetime, zone: tzinfo) -> None:
    there = [c for c in history if c.deleted_at is None]
    left = kept(history, policy, now=now, zone=zone)
    assert {c.number for c in there if c.protected or c.time > now} <= set(left)
    good = [c for c in there if not c.damage] or there
    if good:
        assert max(c.number for c in good) in left
        assert max(good, key=lambda c: (c.time, c.number)).number in left
    if policy.is_empty:
        assert sorted(left) == [c.number for c in there]


@given(histories(), policies, nows, zones)
def test_counts_are_never_exceeded_and_are_what_the_reasons_say(
    history: list[Checkpoint], policy: Policy, now: datetime, zone: tzinfo
) -> None:
    verdicts = decide(history, policy, now=now, zone=zone)
    for rule in map(Rule, COUNTED):
        own = [reason for verdict in verdicts for reason in verdict.kept if reason.rule is rule]
        limit = getattr(policy, rule.value)
        assert sorted(reason.count for reason in own) == list(range(1, len(own) + 1))
        assert len(own) <= limit
        assert all(reason.limit == limit for reason in own)


@given(histories(), policies, nows, zones)
def test_it_agrees_with_a_reference(history: list[Checkpoint], policy: Policy, now: datetime, zone: tzinfo) -> None:
    """The reference asks of each checkpoint alone how many periods with something good come after its own."""
    left = set(kept(history, policy, now=now, zone=zone))
    there = [c for c in history if c.deleted_at is None]
    good = [c for c in there if not c.damage and c.time <= now]
    for one in there:
        always = one.protected or one.time > now or policy.is_empty or bool(set(one.tags) & set(policy.tags))
        reference = any(
            one in good and _is_newest(one, good, rule, zone) and _periods_after(one, good, rule, zone) < limit
            for rule, limit in ((rule, getattr(policy, rule)) for rule in COUNTED)
        )
        if policy.within:
            begin = policy.within.before(max((c.time for c in good), default=now), zone)
            reference |= begin <= one.time
        newest = good or [c for c in there if c.time <= now]
        last = [c for c in there if not c.damage] or there
        reference |= one is max(newest, key=_order, default=None) or one is max(last, key=lambda c: c.number)
        assert (one.number in left) == (always or reference)


def _order(one: Checkpoint) -> tuple[datetime, int]:
    return one.time, one.number


def _period(one: Checkpoint, rule: str, zone: tzinfo) -> object:
    wall = one.time.astimezone(zone)
    return {
        "last": one.number,
        "hourly": (wall.year, wall.month, wall.day, wall.hour, wall.utcoffset()),
        "daily": (wall.year, wall.month, wall.day),
        "weekly": wall.strftime("%G-%V"),
        "monthly": (wall.year, wall.month),
        "yearly": wall.year,
    }[rule]


def _is_newest(one: Checkpoint, good: list[Checkpoint], rule: str, zone: tzinfo) -> bool:
    own = _period(one, rule, zone)
    return all(_order(other) <= _order(one) for other in good if _period(other, rule, zone) == own)


def _periods_after(one: Checkpoint, good: list[Checkpoint], rule: str, zone: tzinfo) -> int:
    later = {_period(other, rule, zone) for other in good if _order(other) > _order(one)}
    return len(later - {_period(one, rule, zone)})


@given(histories(), policies, nows, zones, st.randoms())
def test_the_order_in_which_they_are_given_does_not_matter(
    history: list[Checkpoint], policy: Policy, now: datetime, zone: tzinfo, chance: random.Random
) -> None:
    shuffled = list(history)
    chance.shuffle(shuffled)
    verdicts = decide(history, policy, now=now, zone=zone)
    assert decide(shuffled, policy, now=now, zone=zone) == verdicts
    assert [_order(v.checkpoint) for v in verdicts] == sorted(_order(v.checkpoint) for v in verdicts)
