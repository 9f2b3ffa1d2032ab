"""Programs that are interrupted while they start, in the main thread and in others."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.kit.children import run_unmeasured
from tests.kit.interruptions import Interrupted
from umldisk.errors import StorageError
from umldisk.system.process import Leash, run

FOR_EVER = ["sleep", "86400"]
WAIT_SECONDS = 60


@pytest.fixture
def mark() -> Iterator[dict[str, str]]:
    """Return an environment by which programs are found; those that a failed test left are ended."""
    mark = {"UMLDISK_TEST_LEASH": uuid4().hex}
    yield mark
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def marked(mark: dict[str, str]) -> list[int]:
    """Return the programs that live in that environment."""
    ((name, value),) = mark.items()
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{name}={value}".encode() in (directory / "environ").read_bytes():
                found.append(int(directory.name))
    return found


class Held:
    """A thread whose programs a leash holds; what its action raises is kept."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.leash = Leash()
        self.raised: BaseException | None = None
        self._action = action
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        self.leash.take()
        try:
            self._action()
        except BaseException as error:  # noqa: BLE001  (the test looks at it)
            self.raised = error

    def join(self) -> None:
        """Wait for its end."""
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()


def after_start(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[int]:
    """Let `action` run while the start of a program is under way and the program lives; return a list of those."""
    started: list[int] = []

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self.pid)
            action()

    monkeypatch.setattr("umldisk.system.process.subprocess.Popen", Slow)
    return started


def is_there(pid: int) -> bool:
    """Whether a process lives, or is dead and nobody waited for it."""
    return Path(f"/proc/{pid}").exists()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_just_being_started_is_dead_when_the_leash_was_pulled(
    mark: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = threading.Event()

    def start_slowly() -> None:
        lives.set()
        time.sleep(0.5)  # the start takes so long from here; nothing waits for it but the leash

    started = after_start(monkeypatch, start_slowly)
    held = Held(lambda: run(FOR_EVER, environment=mark))
    assert lives.wait(WAIT_SECONDS)
    held.leash.pull()
    assert len(started) == 1
    assert not is_there(started[0])
    held.join()
    assert isinstance(held.raised, StorageError)


def test_what_runs_is_dead_and_waited_for_when_the_leash_was_pulled(mark: dict[str, str]) -> None:
    held = Held(lambda: run(FOR_EVER, environment=mark))
    wait_for(lambda: marked(mark))
    (pid,) = marked(mark)
    held.leash.pull()
    assert not is_there(pid)
    held.join()
    assert isinstance(held.raised, StorageError)
    assert "sleep failed with status -9" in held.raised.line()


def test_after_the_leash_was_pulled_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    started = after_start(monkeypatch, lambda: None)
    may = threading.Event()

    def work() -> None:
        assert may.wait(WAIT_SECONDS)
        run(["true"])

    held = Held(work)
    held.leash.pull()
    may.set()
    held.join()
    assert isinstance(held.raised, StorageError)
    assert "true was not started" in held.raised.line()
    assert started == []


def test_children_of_what_was_killed_are_not_waited_for(mark: dict[str, str]) -> None:
    """They may hold its pipes for as long as they like."""
    held = Held(lambda: run(["sh", "-c", "sleep 86400 & wait"], environment=mark))
    wait_for(lambda: len(marked(mark)) == 2)
    held.leash.pull()
    held.join()
    assert isinstance(held.raised, StorageError)
    assert len(marked(mark)) == 1


def test_a_group_on_a_leash_may_tidy_up(mark: dict[str, str], tmp_path: Path) -> None:
    script = "trap 'echo tidy >tidied; exit 0' TERM; echo >ready; while :; do sleep 0.05; done"
    with (tmp_path / "lock").open("wb") as lock:
        held = Held(lambda: run(["sh", "-c", script], environment=mark, cwd=tmp_path, kept_lock=lock.fileno()))
        wait_for((tmp_path / "ready").exists)
        held.leash.pull()
        held.join()
    assert (tmp_path / "tidied").read_text() == "tidy\n"


@pytest.mark.usefixtures("interrupting_signals")
def test_who_interrupts_the_start_kills_the_program(mark: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    started = after_start(monkeypatch, lambda: signal.raise_signal(signal.SIGUSR1))
    with pytest.raises(Interrupted):
        run(FOR_EVER, environment=mark)
    assert len(started) == 1
    assert not is_there(started[0])


_MOMENTS = """
import json, signal, sys
from tests.kit.interruptions import Interrupted, interruptible
from tests.test_leash import FOR_EVER, marked
from umldisk.system.process import run

mark = json.loads(sys.argv[1])
with interruptible():
    for tenth_milliseconds in range(1, 100):
        try:
            signal.setitimer(signal.ITIMER_REAL, tenth_milliseconds / 10_000)
            run(FOR_EVER, environment=mark)
        except Interrupted:
            assert marked(mark) == [], tenth_milliseconds
        else:
            raise AssertionError
"""


def test_no_moment_leaves_a_program_behind(mark: dict[str, str]) -> None:
    run_unmeasured(_MOMENTS, json.dumps(mark))
