"""Keeping signals waiting while something comes into being."""

import signal
import threading
from types import FrameType

import pytest

from tests.kit.children import run_unmeasured
from tests.kit.interruptions import Interrupted, interrupt
from umldisk.system.deferring import interruptions_deferred

pytestmark = pytest.mark.usefixtures("interrupting_signals")


def block(number: int, done: list[str], error: Exception | None = None) -> None:
    """Defer, signal ourselves, and be done."""
    with interruptions_deferred():
        signal.raise_signal(number)
        done.append("all of it")
        if error is not None:
            raise error


def test_a_block_ends_before_it_is_interrupted() -> None:
    done: list[str] = []
    with pytest.raises(Interrupted) as caught:
        block(signal.SIGUSR1, done)
    assert caught.value.args == (signal.SIGUSR1,)
    assert done == ["all of it"]


def test_nothing_is_raised_when_nothing_came() -> None:
    with interruptions_deferred():
        assert signal.getsignal(signal.SIGUSR1) is not interrupt
    assert signal.getsignal(signal.SIGUSR1) is interrupt
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGUSR1)


def test_the_keyboard_waits_as_well() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        block(signal.SIGINT, done)
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_outermost_of_nested_blocks_counts() -> None:
    done: list[str] = []

    def twice() -> None:
        with interruptions_deferred():
            block(signal.SIGUSR1, done)
            done.append("and more")

    with pytest.raises(Interrupted):
        twice()
    assert done == ["all of it", "and more"]


def test_a_failure_gives_way_to_the_signal_and_is_its_context() -> None:
    with pytest.raises(Interrupted) as caught:
        block(signal.SIGUSR1, [], ValueError())
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(ValueError), interruptions_deferred():
        raise ValueError
    assert signal.getsignal(signal.SIGUSR1) is interrupt


def test_a_handler_that_only_takes_note_loses_no_signal() -> None:
    noted = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    signal.signal(signal.SIGUSR1, note)
    with interruptions_deferred():
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert noted == []
    assert noted == [signal.SIGUSR1, signal.SIGUSR1]


def test_what_is_ignored_or_left_to_the_system_stays_so() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with interruptions_deferred():
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        signal.raise_signal(signal.SIGUSR1)


def test_another_thread_holds_nothing_up() -> None:
    inside, enough = threading.Event(), threading.Event()

    def work() -> None:
        with interruptions_deferred():
            inside.set()
            assert enough.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        enough.set()
        thread.join()


_STORM = """
import itertools, os, signal
from tests.kit.children import run_unmeasured
from tests.kit.interruptions import Interrupted, interruptible
from umldisk.system.deferring import interruptions_deferred

begun = ended = 0
with interruptible():
    for interrupted in itertools.count():
        if interrupted >= 300 and begun >= 300:
            break
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00001 + interrupted * 0.000001)
            with interruptions_deferred():
                begun += 1
                os.stat("/")
                ended += 1
            while True:  # until the signal comes, if it did not
                os.stat("/")
        except Interrupted:
            pass
        assert begun == ended
"""


def test_a_storm_of_signals_finds_no_gap() -> None:
    """Interrupted at any instruction, also of the deferral itself, a block is seen done or not begun."""
    run_unmeasured(_STORM)
