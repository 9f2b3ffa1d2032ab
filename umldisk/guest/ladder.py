"""The ladder that a guest is brought down by: which ways there are to end it, in which order, and for how long.

    cad     ctrl-alt-del: the guest shuts down and unmounts                    clean
    halt    mconsole `sysrq s`, `sysrq u`, `halt`: at once, but written out    clean while the guest's kernel works
    term    SIGTERM for UML's main process, after the same `sysrq`s            as a power cut when the mconsole is gone
    kill    SIGKILL for every process                                          as a power cut

Before `cad` and before the `sysrq`s a guest is thawed: one that mconsole `stop` froze runs `cad` only after `go`, and
`halt` aborts it; `sysrq j` thaws file systems, on which the others would wait for ever. The `sysrq`s answer before they
have done their work; it is done when the disks' files no longer change. Ctrl-alt-del is pressed again and again, since
a guest that is only starting does not notice it.

An mconsole that does not answer costs one timeout in all: whoever is silent once is not asked again.

The ladder is data, and `descend` knows nothing of processes and sockets: it has `Hands`, a real guest's of which are in
`umldisk.guest.stopping`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from umldisk.errors import UmldiskError


class Rung(Enum):
    """A way to end a guest, gentlest first."""

    CAD = "cad"
    HALT = "halt"
    TERM = "term"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Step:
    """A rung, and how long the guest is given to end."""

    rung: Rung
    timeout_seconds: float


_LAST_WORDS_SECONDS = 1.0
_PRESS_SECONDS = 8.0
"""How often ctrl-alt-del is pressed; systemd takes seven of them within two seconds for impatience."""
_DEFAULT_SECONDS = {Rung.CAD: 60.0, Rung.HALT: 10.0, Rung.TERM: 5.0, Rung.KILL: 10.0}


@dataclass(frozen=True, slots=True)
class Ladder:
    """The steps, in the order in which they are taken."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, *, first: Rung = Rung.CAD, timeouts_seconds: Mapping[Rung, float] | None = None) -> Ladder:
        """Return the ladder from `first` down, with the default timeouts for rungs that `timeouts_seconds` lacks."""
        seconds = _DEFAULT_SECONDS | dict(timeouts_seconds or {})
        rungs = list(Rung)
        return cls(tuple(Step(rung, seconds[rung]) for rung in rungs[rungs.index(first) :]))


class Hands(Protocol):
    """What the ladder does to a guest, and how it sees the time."""

    def ask(self, command: str) -> str:
        """Send one mconsole command and return its answer; raises UmldiskError when there is none, or a refusal."""

    def settle(self) -> None:
        """Wait until the guest's disks no longer change, or long enough."""

    def terminate(self) -> bool:
        """Send SIGTERM to UML's main process; False when it is gone."""

    def kill(self) -> None:
        """Send SIGKILL to all of the guest's processes."""

    def ended(self, timeout_seconds: float) -> bool:
        """Wait for the kernel's end; False when it is still there."""

    def now_seconds(self) -> float:
        """Return a clock's time."""


class Outcome(Enum):
    """What came of a rung."""

    ENDED = "ended"
    NO_EFFECT = "no effect"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Tried:
    """A rung that was tried: what came of it, how long it took, and why when it was skipped."""

    rung: Rung
    outcome: Outcome
    seconds: float
    reason: str | None = None


def descend(ladder: Ladder, hands: Hands) -> tuple[Tried, ...]:
    """Try the rungs until the guest has ended, and tell of each; the last one's outcome is that of all."""
    climber = _Climber(hands)
    tried: list[Tried] = []
    for step in ladder.steps:
        tried.append(climber.take(step))
        if tried[-1].outcome is Outcome.ENDED:
            break
    return tuple(tried)


class _Climber:
    """One descent: what was learnt of the mconsole on the rungs before."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._silence: str | None = None
        self._is_quiet = False

    def take(self, step: Step) -> Tried:
        """Take one step."""
        began = self._hands.now_seconds()
        ways: dict[Rung, Callable[[], str | None]] = {
            Rung.CAD: self._press,
            Rung.HALT: self._halt,
            Rung.TERM: self._terminate,
            Rung.KILL: self._kill,
        }
        reason = ways[step.rung]()
        if reason:
            ended = self._hands.ended(self._patience_seconds(step))
        elif step.rung is Rung.CAD:
            ended = self._ended_by_pressing(step.timeout_seconds)
        else:
            ended = self._hands.ended(step.timeout_seconds)
        seconds = self._hands.now_seconds() - began
        if ended:
            return Tried(step.rung, Outcome.ENDED, seconds)
        return Tried(step.rung, Outcome.SKIPPED if reason else Outcome.NO_EFFECT, seconds, reason)

    def _ended_by_pressing(self, timeout_seconds: float) -> bool:
        """Wait, and press again: a guest whose init has not asked the kernel for the keys yet does not notice them."""
        deadline = self._hands.now_seconds() + timeout_seconds
        while not self._hands.ended(max(0.0, min(_PRESS_SECONDS, deadline - self._hands.now_seconds()))):
            if self._hands.now_seconds() >= deadline:
                return False
            self._refusal("cad")
        return True

    def _patience_seconds(self, step: Step) -> float:
        """Return how long to look for an end after a failed rung: an answer may be missing because the guest ended."""
        return 0.0 if self._silence else min(_LAST_WORDS_SECONDS, step.timeout_seconds)

    def _press(self) -> str | None:
        if silence := self._unanswering():
            return silence
        self._refusal("sysrq j")  # a shutdown would wait for a frozen root
        return self._refusal("cad")

    def _halt(self) -> str | None:
        if silence := self._unanswering():
            return silence
        self._quieten()
        return self._refusal("halt")

    def _terminate(self) -> str | None:
        if not self._is_quiet and not self._unanswering():
            self._quieten()
        return None if self._hands.terminate() else "UML's main process is gone"

    def _kill(self) -> None:
        self._hands.kill()

    def _unanswering(self) -> str | None:
        """Return why the mconsole cannot be used, or None when it answers; a frozen guest then runs again."""
        if self._silence is None:
            self._silence = self._refusal("version")
        if self._silence is None:
            self._refusal("go")  # which a guest that is not frozen refuses
        return self._silence

    def _quieten(self) -> None:
        """Have everything written out and no file system written any more, as well as the guest can."""
        for command in ("sysrq j", "sysrq s", "sysrq u"):
            if self._refusal(command) is None and command != "sysrq j":
                self._hands.settle()
        self._is_quiet = True

    def _refusal(self, command: str) -> str | None:
        try:
            self._hands.ask(command)
        except UmldiskError as error:
            return error.line()
        return None
