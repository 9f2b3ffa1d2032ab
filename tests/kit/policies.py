"""Arbitrary histories of checkpoints, policies, times and zones, for properties of what is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from tests.kit.checkpoints import checkpoint
from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.checkpoint.retention import Duration, Policy

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [UTC, BERLIN, ZoneInfo("America/St_Johns"), ZoneInfo("Pacific/Apia"), ZoneInfo("Australia/Lord_Howe")]
START = datetime(2010, 10, 1, tzinfo=UTC)
counts = st.integers(0, 6)
durations = st.builds(Duration, st.integers(0, 1), st.integers(0, 3), st.integers(0, 40), st.integers(0, 50)).filter(
    lambda duration: duration != Duration()
)
policies = st.builds(
    Policy,
    last=counts,
    hourly=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    within=st.none() | durations,
    tags=st.sampled_from([(), ("a",), ("a", "b")]),
)
minutes = st.one_of(
    st.integers(0, 800 * 1440),
    st.integers(0, 3 * 1440),
    st.integers(36 * 1440, 39 * 1440),  # 7 November 2010 in St. John's
    st.integers(0, 60).map(lambda night: 1440 * night + 180),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Checkpoint]:
    """Draw the checkpoints of one drive; mostly in the order of time, as clocks are set back seldom."""
    times = draw(st.lists(minutes, max_size=25))
    if draw(st.booleans()):
        times.sort()
    return [
        checkpoint(
            number,
            START + timedelta(minutes=minute),
            protected=draw(st.integers(0, 9)) == 0,
            damage="x" if draw(st.integers(0, 5)) == 0 else "",
            deleted=draw(st.integers(0, 9)) == 0,
            tags=draw(st.sampled_from([(), (), (), ("a",), ("b",), ("b", "a")])),
        )
        for number, minute in enumerate(times, 1)
    ]


nows = st.integers(0, 900 * 1440).map(lambda minute: START + timedelta(minutes=minute))
zones = st.sampled_from(ZONES)
