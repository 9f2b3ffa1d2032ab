"""The ladder against guests that obey, refuse, stay silent and are frozen."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import StorageError
from umldisk.guest.ladder import Ladder, Outcome, Rung, Step, Tried, descend

_SYNCS = ("sysrq j", "sysrq s", "settle", "sysrq u", "settle")


@dataclass
class FakeGuest:
    """A guest as the ladder meets it, with the laws that were measured on real ones.

    `obeys` are the ways in which it ends, `mconsole` is False when nobody answers there, `refuses` are commands that
    are answered with an error. `heard` is all that was done to it.
    """

    obeys: frozenset[Rung] = frozenset(Rung)
    mconsole: bool = True
    refuses: frozenset[str] = frozenset()
    frozen: bool = False
    main_lives: bool = True
    ending_seconds: float = 1.0
    heard: list[str] = field(default_factory=list)
    clock: float = 1000.0
    ends_at: float | None = None
    aborted: bool = False
    deaf_to_presses: int = 0

    def ask(self, command: str) -> str:
        self.heard.append(command)
        if not self.mconsole or self.is_over():
            self.clock += 5.0
            raise StorageError("nobody answers")
        if command in self.refuses or (command == "go" and not self.frozen):
            raise StorageError(f"refused {command}")
        if command == "go":
            self.frozen = False
        if command == "halt" and self.frozen:
            self.aborted = True
        if command == "cad" and not self.frozen and self.heard.count("cad") > self.deaf_to_presses:
            self._end(Rung.CAD)
        if command == "halt":
            self._end(Rung.HALT)
        return ""

    def settle(self) -> None:
        self.heard.append("settle")
        self.clock += 0.5

    def terminate(self) -> bool:
        self.heard.append("SIGTERM")
        self._end(Rung.TERM)
        return self.main_lives

    def kill(self) -> None:
        self.heard.append("SIGKILL")
        self._end(Rung.KILL)

    def ended(self, timeout_seconds: float) -> bool:
        if self.ends_at is not None and self.ends_at <= self.clock + timeout_seconds:
            self.clock = max(self.clock, self.ends_at)
            return True
        self.clock += timeout_seconds
        return False

    def now_seconds(self) -> float:
        return self.clock

    def is_over(self) -> bool:
        return self.ends_at is not None and self.clock >= self.ends_at

    def _end(self, rung: Rung) -> None:
        if rung in self.obeys and self.ends_at is None:
            self.ends_at = self.clock + self.ending_seconds


_LADDER = Ladder.of()


def outcomes(tried: tuple[Tried, ...]) -> list[tuple[str, str]]:
    return [(one.rung.value, one.outcome.value) for one in tried]


def test_the_ladder_begins_where_it_is_told() -> None:
    assert Ladder.of().steps == (
        Step(Rung.CAD, 60),
        Step(Rung.HALT, 10),
        Step(Rung.TERM, 5),
        Step(Rung.KILL, 10),
    )
    short = Ladder.of(first=Rung.TERM, timeouts_seconds={Rung.KILL: 1, Rung.CAD: 7})
    assert short.steps == (Step(Rung.TERM, 5), Step(Rung.KILL, 1))


def test_a_guest_that_shuts_down_is_asked_once() -> None:
    guest = FakeGuest()
    tried = descend(_LADDER, guest)
    assert guest.heard == ["version", "go", "sysrq j", "cad"]
    assert tried == (Tried(Rung.CAD, Outcome.ENDED, 1.0),)


def test_a_guest_that_ignores_ctrl_alt_del_is_written_out_and_halted() -> None:
    guest = FakeGuest(obeys=frozenset({Rung.HALT, Rung.TERM, Rung.KILL}))
    tried = descend(_LADDER, guest)
    assert guest.heard == ["version", "go", "sysrq j", *["cad"] * 8, "version", "go", *_SYNCS, "halt"]
    assert outcomes(tried) == [("cad", "no effect"), ("halt", "ended")]
    assert tried[0].seconds == 60.0


def test_a_guest_that_is_only_starting_is_pressed_again() -> None:
    guest = FakeGuest(obeys=frozenset(Rung), deaf_to_presses=2)
    tried = descend(_LADDER, guest)
    assert tried == (Tried(Rung.CAD, Outcome.ENDED, 17.0),)
    assert guest.heard == ["version", "go", "sysrq j", "cad", "cad", "cad"]


def test_every_rung_may_be_needed() -> None:
    guest = FakeGuest(obeys=frozenset({Rung.KILL}))
    tried = descend(_LADDER, guest)
    assert outcomes(tried) == [
        ("cad", "no effect"),
        ("halt", "no effect"),
        ("term", "no effect"),
        ("kill", "ended"),
    ]
    # What was written out for `halt` is not written out again.
    assert guest.heard[-3:] == ["halt", "SIGTERM", "SIGKILL"]


def test_a_guest_that_obeys_nothing_is_told_of() -> None:
    tried = descend(_LADDER, FakeGuest(obeys=frozenset()))
    assert [one.outcome for one in tried] == [Outcome.NO_EFFECT] * 4


def test_without_mconsole_signals_are_sent_at_once() -> None:
    guest = FakeGuest(mconsole=False)
    tried = descend(_LADDER, guest)
    assert guest.heard == ["version", "SIGTERM"]
    assert outcomes(tried) == [("cad", "skipped"), ("halt", "skipped"), ("term", "ended")]
    assert tried[0].reason == tried[1].reason == "nobody answers"
    assert tried[0].seconds == 5.0  # the one timeout
    assert tried[1].seconds == 0.0


def test_a_frozen_guest_goes_on_to_hear_ctrl_alt_del() -> None:
    guest = FakeGuest(frozen=True)
    assert outcomes(descend(_LADDER, guest)) == [("cad", "ended")]
    assert guest.heard == ["version", "go", "sysrq j", "cad"]


def test_a_frozen_guest_goes_on_before_it_is_halted_lest_it_aborts() -> None:
    guest = FakeGuest(frozen=True)
    assert outcomes(descend(Ladder.of(first=Rung.HALT), guest)) == [("halt", "ended")]
    assert not guest.aborted
    assert guest.heard == ["version", "go", *_SYNCS, "halt"]


def test_before_sigterm_everything_is_written_out_where_that_goes() -> None:
    guest = FakeGuest()
    descend(Ladder.of(first=Rung.TERM), guest)
    assert guest.heard == ["version", "go", *_SYNCS, "SIGTERM"]


def test_sigkill_asks_nobody() -> None:
    guest = FakeGuest()
    descend(Ladder.of(first=Rung.KILL), guest)
    assert guest.heard == ["SIGKILL"]


def test_a_refused_command_skips_its_rung_soon() -> None:
    guest = FakeGuest(refuses=frozenset({"cad", "sysrq u"}), obeys=frozenset({Rung.HALT}))
    tried = descend(_LADDER, guest)
    assert outcomes(tried) == [("cad", "skipped"), ("halt", "ended")]
    assert tried[0].reason == "refused cad"
    assert tried[0].seconds == 1.0
    assert guest.heard[-5:] == ["sysrq j", "sysrq s", "settle", "sysrq u", "halt"]


def test_a_guest_that_ends_by_itself_meanwhile_has_ended() -> None:
    guest = FakeGuest(obeys=frozenset(), ends_at=1003.0)
    assert outcomes(descend(_LADDER, guest)) == [("cad", "ended")]
    gone = FakeGuest(obeys=frozenset(), ends_at=999.0)
    assert outcomes(descend(_LADDER, gone)) == [("cad", "ended")]
    assert gone.heard == ["version"]


def test_an_end_that_swallows_the_answer_to_halt_counts() -> None:
    class Swallowing(FakeGuest):
        def ask(self, command: str) -> str:
            said = super().ask(command)
            if command == "halt":
                raise StorageError("no answer")
            return said

    tried = descend(Ladder.of(first=Rung.HALT), Swallowing(ending_seconds=0.3))
    assert outcomes(tried) == [("halt", "ended")]


def test_no_main_process_to_terminate_skips_to_sigkill() -> None:
    guest = FakeGuest(main_lives=False, obeys=frozenset({Rung.KILL}), mconsole=False)
    tried = descend(Ladder.of(first=Rung.TERM), guest)
    assert outcomes(tried) == [("term", "skipped"), ("kill", "ended")]
    assert tried[0].reason == "UML's main process is gone"


@given(
    st.frozensets(st.sampled_from(list(Rung))),
    st.booleans(),
    st.frozensets(st.sampled_from(["cad", "halt", "sysrq j", "sysrq s", "sysrq u"])),
    st.booleans(),
    st.sampled_from(list(Rung)),
    st.floats(0, 100),
)
def test_any_guest(
    obeys: frozenset[Rung],
    mconsole: bool,
    refuses: frozenset[str],
    frozen: bool,
    first: Rung,
    ending_seconds: float,
) -> None:
    guest = FakeGuest(obeys, mconsole, refuses, frozen, ending_seconds=ending_seconds)
    ladder = Ladder.of(first=first)
    tried = descend(ladder, guest)
    # The rungs are tried in their order, none is left out, and nothing is done after the end.
    assert [one.rung for one in tried] == [step.rung for step in ladder.steps][: len(tried)]
    assert all(one.outcome is not Outcome.ENDED for one in tried[:-1])
    assert len(tried) == len(ladder.steps) or tried[-1].outcome is Outcome.ENDED
    assert (tried[-1].outcome is Outcome.ENDED) == guest.is_over()
    # It ends if it obeys some rung in time, and no frozen guest is aborted.
    reachable = obeys & {step.rung for step in ladder.steps}
    if Rung.KILL in reachable and ending_seconds <= 10:
        assert guest.is_over()
    if not obeys:
        assert not guest.is_over()
    assert not guest.aborted
    # Each rung takes no longer than its time and what writing out and one silence cost.
    for step, one in zip(ladder.steps, tried, strict=False):
        assert one.seconds <= step.timeout_seconds + 5.0 + 2 * 0.5 + 1e-6
    if not mconsole:
        assert guest.heard.count("version") <= 1
        assert set(guest.heard) <= {"version", "SIGTERM", "SIGKILL"}
