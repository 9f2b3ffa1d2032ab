"""Work beside ours: order, failures, how much may wait, and the end of the thread whatever happens."""

import signal
import subprocess
import sys
import threading

import pytest

from tests.kit.interruptions import Interrupted
from umldisk.build.aside import Aside

WAIT_SECONDS = 60


def fail(number: int) -> None:
    raise ValueError(number)


def test_calls_are_made_in_order_by_another_thread() -> None:
    made: list[tuple[int, int]] = []

    def make(number: int) -> None:
        made.append((number, threading.get_ident()))

    with Aside() as aside:
        for number in range(100):
            aside.do(make, number)
        aside.wait()
        assert [number for number, _ in made] == list(range(100))
        aside.do(make, 100)
    assert made[-1][0] == 100
    assert len({thread for _, thread in made} - {threading.get_ident()}) == 1


def test_we_go_on_while_a_call_is_being_made() -> None:
    may_end = threading.Event()
    ended: list[bool] = []
    with Aside() as aside:
        aside.do(lambda: ended.append(may_end.wait(WAIT_SECONDS)))
        assert not ended
        may_end.set()
        aside.wait()
        assert ended == [True]


def test_only_a_few_calls_wait() -> None:
    may_end = threading.Event()
    handed_over: list[int] = []

    def hand_over(aside: Aside) -> None:
        for number in range(50):
            aside.do(may_end.wait, WAIT_SECONDS)
            handed_over.append(number)

    with Aside() as aside:
        giver = threading.Thread(target=hand_over, args=(aside,))
        giver.start()
        giver.join(0.2)
        held_up = giver.is_alive() and len(handed_over) < 10
        may_end.set()
        giver.join(WAIT_SECONDS)
    assert held_up
    assert len(handed_over) == 50


def test_a_failure_is_raised_where_it_is_waited_for_and_later_calls_are_made() -> None:
    made: list[int] = []
    with Aside() as aside:
        aside.do(fail, 1)
        aside.do(made.append, 2)
        with pytest.raises(ValueError, match="1"):
            aside.wait()
        aside.wait()
    assert made == [2]


def test_a_failure_is_told_though_the_thread_has_ended() -> None:
    with Aside() as aside:
        aside.do(fail, 3)
    with pytest.raises(ValueError, match="3"):
        aside.wait()


def test_the_thread_ends_with_the_block() -> None:
    before = threading.active_count()
    with Aside() as aside:
        assert threading.active_count() == before
        aside.do(int)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.mark.usefixtures("interrupting_signals")
def test_a_thread_whose_start_is_interrupted_has_ended_when_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    start = threading.Thread.start

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(Interrupted), Aside() as aside:
        aside.do(int)
    assert threading.active_count() == before


def test_one_that_nobody_closes_does_not_keep_the_process() -> None:
    program = "from umldisk.build.aside import Aside; aside = Aside(); aside.do(print, 'made'); aside.wait()"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=WAIT_SECONDS, text=True
    )
    assert finished.stdout == "made\n"
