"""Which checkpoints a policy keeps, and why: a pure function of checkpoints, policy, time and time zone.

    newest                                                             oldest
    Fri 20 Nov   Thu 19 Nov   Wed 18   ...   Sun 15   ...   Sat 31 Oct   ...
    daily 1      daily 2      daily 3
    weekly 1                                 weekly 2       weekly 4
    monthly 1                                               monthly 2

A rule counts periods (hours, days, ISO weeks, months, years), from the newest one that has a checkpoint backwards, and
keeps the newest checkpoint of each. Days are those of a time zone: the hour that comes twice in autumn is two hours, a
day that lasts 23 hours is one day, and a period that a clock enters a second time stays the same period. Every guest's
drive is decided for itself.

Invariants, which the tests prove for arbitrary histories and policies:
- Deciding again over what was kept removes nothing more.
- A policy that asks for more keeps no less.
- Kept whatever the policy says are the protected ones, the newest good one (by time, and by its place in the history,
  which differ when a clock was set back), and those whose time has not come yet: some clock was wrong.
- A damaged one never stands for its period and uses up no count. It is kept by a tag or by its age only.

Left out on purpose: an oldest one that is kept beyond its rule while a count is not used up. It makes the first months
of a history look fuller, and makes it hard to say why something is still there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum

from umldisk.checkpoint.checkpoint import Checkpoint
from umldisk.errors import UsageError


class Rule(Enum):
    """Why a checkpoint is kept."""

    LAST = "last"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    YEARLY = "yearly"
    WITHIN = "within"
    TAG = "tag"
    PROTECTED = "protected"
    NEWEST = "newest"
    FUTURE = "future"
    NO_POLICY = "no policy"


class Cause(Enum):
    """Why a rule of the policy does not keep a checkpoint."""

    NOT_NEWEST = "a newer one stands for its period"
    USED_UP = "the count is used up"
    TOO_OLD = "it is too old"
    NO_TAG = "it has no such tag"
    DAMAGED = "it is damaged"


@dataclass(frozen=True, slots=True)
class Duration:
    """A time by the calendar: years and months back on the clock on the wall, then days, then hours that passed."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def __str__(self) -> str:
        parts = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in parts if number)

    def before(self, time: datetime, zone: tzinfo | None) -> datetime:
        """Return the time in UTC that lies this long before `time`; a day that its month lacks is the month's last."""
        wall = time.astimezone(zone)
        try:
            wall = _months_back(wall, 12 * self.years + self.months) - timedelta(days=self.days)
            return wall.replace(tzinfo=zone, fold=0).astimezone(UTC) - timedelta(hours=self.hours)
        except (OverflowError, ValueError, OSError):  # before the calendar begins
            return datetime.min.replace(tzinfo=UTC)


def _months_back(wall: datetime, months: int) -> datetime:
    year, month = divmod(12 * wall.year + wall.month - 1 - months, 12)
    first = wall.replace(year=year, month=month + 1, day=1)
    last_day = ((first + timedelta(days=31)).replace(day=1) - timedelta(days=1)).day
    return first.replace(day=min(wall.day, last_day))


_DURATION = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,7})d)?(?:(\d{1,8})h)?", re.ASCII)


def parse_duration(text: str) -> Duration:
    """Read a duration such as 1y2m3d4h, of which any part may be missing; raises UsageError when it is none."""
    found = _DURATION.fullmatch(text)
    duration = Duration(*(int(part or 0) for part in found.groups())) if found else Duration()
    if duration == Duration():
        raise UsageError("not a duration", expected="years, months, days and hours, as in 1y2m3d4h", found=text or '""')
    return duration


@dataclass(frozen=True, slots=True)
class Policy:
    """What to keep: so many of the last ones and of each period, all within a duration, all with one of the tags.

    Raises UsageError for a negative count.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for rule, count in self._all_counts():
            if count < 0:
                raise UsageError(f"cannot keep less than nothing (--keep-{rule.value})", found=count)

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing at all, and so keeps everything."""
        return not any(self.counts()) and self.within is None and not self.tags

    def counts(self) -> Iterator[tuple[Rule, int]]:
        """Yield the rules that count, with how many each keeps."""
        return ((rule, count) for rule, count in self._all_counts() if count)

    def _all_counts(self) -> Iterator[tuple[Rule, int]]:
        return ((rule, getattr(self, rule.value)) for rule in _PERIODS)


def require_policy(policy: Policy) -> Policy:
    """Return `policy`; raises UsageError when it is empty, so that forgetting every rule is not taken for a wish."""
    if policy.is_empty:
        raise UsageError("no rule says what to keep", hint="give at least one of the --keep options")
    return policy


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule that keeps a checkpoint, as the `count`th of `limit` where it counts; `what` is the period, age or tag."""

    rule: Rule
    count: int = 0
    limit: int = 0
    what: str = ""

    def __str__(self) -> str:
        if self.limit:
            return f"{self.rule.value} {self.count} of {self.limit}"
        if self.rule in _ALWAYS:
            return _ALWAYS[self.rule]
        return f"{self.rule.value} {self.what}"


@dataclass(frozen=True, slots=True)
class Missed:
    """A rule of the policy that does not keep a checkpoint; `by` is who stands for its period instead."""

    rule: Rule
    cause: Cause
    what: str = ""
    by: int | None = None

    def __str__(self) -> str:
        if self.cause is Cause.NOT_NEWEST:
            return f"{self.rule.value}: {self.by} is newer in {self.what}"
        if self.cause is Cause.USED_UP:
            return f"{self.rule.value}: {self.what} newer are kept"
        return f"{self.rule.value}: {self.cause.value}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a checkpoint: every rule that keeps it, and every rule of the policy that does not."""

    checkpoint: Checkpoint
    kept: tuple[Kept, ...]
    missed: tuple[Missed, ...]

    @property
    def is_removable(self) -> bool:
        """Whether no rule keeps it."""
        return not self.kept

    @property
    def reason(self) -> str:
        """Why, in one line."""
        if self.is_removable and self.checkpoint.damage:
            return "it is damaged"
        return "; ".join(map(str, self.kept or self.missed))


_ALWAYS = {
    Rule.PROTECTED: "protected",
    Rule.NEWEST: "the newest good one",
    Rule.FUTURE: "its time is still to come",
    Rule.NO_POLICY: "no rule says what to keep",
}

_PERIODS: Mapping[Rule, Callable[[datetime], str]] = {
    Rule.LAST: str,
    Rule.HOURLY: lambda wall: wall.isoformat(timespec="hours"),  # with the offset: an hour may come twice
    Rule.DAILY: lambda wall: wall.date().isoformat(),
    Rule.WEEKLY: lambda wall: "{}-W{:02}".format(*wall.isocalendar()),
    Rule.MONTHLY: lambda wall: wall.date().isoformat()[:7],
    Rule.YEARLY: lambda wall: wall.date().isoformat()[:4],
}
"""How the period is called that a time is in."""

_Answers = Mapping[int, Kept | Missed]


def decide(checkpoints: Iterable[Checkpoint], policy: Policy, *, now: datetime, zone: tzinfo | None) -> list[Verdict]:
    """Return what becomes of each checkpoint that is not deleted, by guest and drive, oldest first.

    `zone` says where a day begins; None is this machine's zone, with the rules that it had at each time.
    """
    drives: dict[tuple[str, str], list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        if checkpoint.deleted_at is None:
            drives.setdefault((checkpoint.guest, checkpoint.drive), []).append(checkpoint)
    return [verdict for key in sorted(drives) for verdict in _decide_drive(drives[key], policy, now=now, zone=zone)]


def _decide_drive(
    checkpoints: Sequence[Checkpoint], policy: Policy, *, now: datetime, zone: tzinfo | None
) -> list[Verdict]:
    newest_first = sorted(checkpoints, key=_age, reverse=True)
    past = [checkpoint for checkpoint in newest_first if checkpoint.time <= now]
    answers = [_counted(past, rule, limit=limit, zone=zone) for rule, limit in policy.counts()]
    if policy.within:
        answers.append(_within(past, policy.within, now=now, zone=zone))
    if policy.tags:
        answers.append(_tagged(newest_first, policy.tags))
    answers += _kept_always(newest_first, past, is_empty=policy.is_empty)
    return [_verdict(checkpoint, answers) for checkpoint in reversed(newest_first)]


def _age(checkpoint: Checkpoint) -> tuple[datetime, int]:
    return checkpoint.time, checkpoint.number


def _verdict(checkpoint: Checkpoint, answers: Iterable[_Answers]) -> Verdict:
    own = [answer[checkpoint.number] for answer in answers if checkpoint.number in answer]
    kept = tuple(answer for answer in own if isinstance(answer, Kept))
    return Verdict(checkpoint, kept, tuple(answer for answer in own if isinstance(answer, Missed)))


def _counted(past: Sequence[Checkpoint], rule: Rule, *, limit: int, zone: tzinfo | None) -> _Answers:
    """Answer for a rule that keeps the newest of each of `limit` periods."""
    answers: dict[int, Kept | Missed] = {}
    stands: dict[object, int | None] = {}
    for checkpoint in past:
        name = _PERIODS[rule](checkpoint.time.astimezone(zone))
        period = checkpoint.number if rule is Rule.LAST else name
        if not checkpoint.is_good:
            answers[checkpoint.number] = Missed(rule, Cause.DAMAGED)
        elif period in stands:
            answers[checkpoint.number] = Missed(rule, Cause.NOT_NEWEST, name, stands[period])
        elif len(stands) < limit:
            stands[period] = checkpoint.number
            answers[checkpoint.number] = Kept(rule, len(stands), limit, name)
        else:
            answers[checkpoint.number] = Missed(rule, Cause.USED_UP, str(limit))
    return answers


def _within(past: Sequence[Checkpoint], age: Duration, *, now: datetime, zone: tzinfo | None) -> _Answers:
    """Answer by age, which counts back from the newest good one: a guest that is not saved any more loses nothing."""
    newest = next((checkpoint.time for checkpoint in past if checkpoint.is_good), now)
    oldest = age.before(newest, zone)
    kept, missed = Kept(Rule.WITHIN, what=str(age)), Missed(Rule.WITHIN, Cause.TOO_OLD)
    return {checkpoint.number: kept if checkpoint.time >= oldest else missed for checkpoint in past}


def _tagged(checkpoints: Iterable[Checkpoint], tags: Sequence[str]) -> _Answers:
    answers: dict[int, Kept | Missed] = {}
    for checkpoint in checkpoints:
        own = [tag for tag in tags if tag in checkpoint.tags]
        answers[checkpoint.number] = Kept(Rule.TAG, what=", ".join(own)) if own else Missed(Rule.TAG, Cause.NO_TAG)
    return answers


def _kept_always(
    newest_first: Sequence[Checkpoint], past: Sequence[Checkpoint], *, is_empty: bool
) -> Iterator[_Answers]:
    """Yield what holds whatever the policy says; where none is good, the newest is the best there is."""
    best = [checkpoint for checkpoint in past if checkpoint.is_good] or past
    last = [checkpoint for checkpoint in newest_first if checkpoint.is_good] or newest_first
    newest = {best[0].number} if best else set()
    newest.add(max(checkpoint.number for checkpoint in last))
    yield {checkpoint.number: Kept(Rule.PROTECTED) for checkpoint in newest_first if checkpoint.protected}
    yield {number: Kept(Rule.NEWEST) for number in newest}
    yield {checkpoint.number: Kept(Rule.FUTURE) for checkpoint in newest_first[: len(newest_first) - len(past)]}
    if is_empty:
        yield {checkpoint.number: Kept(Rule.NO_POLICY) for checkpoint in newest_first}
