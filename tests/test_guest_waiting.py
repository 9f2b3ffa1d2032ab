"""Waiting against guests that become ready, end, hang; and against real processes and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.runs import PATIENCE_SECONDS, process_id, run_state, silent, until_it_watches, write_end
from umldisk.cli.options import Globals
from umldisk.cli.wait import wait
from umldisk.config.site import Site
from umldisk.errors import NoInputError, StorageError
from umldisk.guest.state import CONSOLE_LOG, write_ready, write_state
from umldisk.guest.waiting import Goal, RunWatch, Waited, await_goal
from umldisk.ops.running.waiting import WaitReport, wait_for_guest

_NEVER = float("inf")


@dataclass
class FakeWatch:
    """A guest that is ready at one time and ends at another; `glances` are the times when it was looked at."""

    ready_at: float = _NEVER
    ends_at: float = _NEVER
    lasting: bool = True
    clock: float = 0.0
    glances: list[float] = field(default_factory=list)
    waits: int = 0

    def reached(self, goal: Goal) -> bool:
        assert goal is not Goal.EXIT
        self.glances.append(self.clock)
        return self.clock >= self.ready_at and (self.lasting or self.clock < self.ends_at)

    def ended(self, timeout_seconds: float) -> bool:
        assert timeout_seconds >= 0
        self.waits += 1
        assert self.waits < 100_000
        if self.ends_at <= self.clock + timeout_seconds:
            self.clock = max(self.clock, self.ends_at)
            return True
        self.clock += timeout_seconds
        return False

    def now_seconds(self) -> float:
        return self.clock


_TIMES = st.floats(0, 100) | st.just(_NEVER)


@given(_TIMES, _TIMES, st.floats(0, 100))
def test_what_comes_first_counts(ready_at: float, ends_at: float, timeout_seconds: float) -> None:
    watch = FakeWatch(ready_at, ends_at)
    outcome = await_goal(Goal.READY, watch, timeout_seconds=timeout_seconds)
    if outcome is Waited.REACHED:
        assert ready_at <= watch.clock <= timeout_seconds
        assert watch.clock - ready_at <= 0.1 + 1e-9
    elif outcome is Waited.ENDED:
        assert watch.clock == ends_at <= timeout_seconds
        assert ready_at > ends_at
    else:
        assert watch.clock == pytest.approx(timeout_seconds)
        assert ends_at > timeout_seconds
        assert ready_at > timeout_seconds - 0.1 - 1e-9


@given(_TIMES, st.floats(0, 100))
def test_the_end_is_what_is_waited_for(ends_at: float, timeout_seconds: float) -> None:
    watch = FakeWatch(ends_at=ends_at)
    outcome = await_goal(Goal.EXIT, watch, timeout_seconds=timeout_seconds)
    assert outcome is (Waited.REACHED if ends_at <= timeout_seconds else Waited.TIMED_OUT)
    assert watch.clock == min(ends_at, timeout_seconds)
    assert watch.glances == []
    assert watch.waits <= 2  # no busy waiting


def test_without_a_timeout_the_waiting_ends_with_the_guest() -> None:
    assert await_goal(Goal.EXIT, FakeWatch(ends_at=1e6)) is Waited.REACHED
    assert await_goal(Goal.READY, FakeWatch(ends_at=1000.0)) is Waited.ENDED
    assert await_goal(Goal.MCONSOLE, FakeWatch(ready_at=1000.0)) is Waited.REACHED


def test_a_guest_that_was_ready_and_ended_between_two_glances_was_ready() -> None:
    assert await_goal(Goal.READY, FakeWatch(0.05, 0.07)) is Waited.REACHED
    assert await_goal(Goal.MCONSOLE, FakeWatch(0.05, 0.07, lasting=False)) is Waited.ENDED


def test_a_timeout_of_nothing_is_one_glance() -> None:
    watch = FakeWatch()
    assert await_goal(Goal.READY, watch, timeout_seconds=0) is Waited.TIMED_OUT
    assert watch.glances == [0.0]
    assert await_goal(Goal.READY, FakeWatch(0.0), timeout_seconds=0) is Waited.REACHED


# -- real processes and files -----------------------------------------------------------------------------------------


class Setting:
    """A site with a guest whose kernel is a sleeping process."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(str(directory))
        self.run_directory = self.site.run_directory("g")
        os.makedirs(self.run_directory)
        self.kernel = subprocess.Popen(["sleep", "600"])
        process = process_id(self.kernel.pid)
        self.gone = replace(process, start_ticks=1)
        self.state = run_state(self.run_directory, process)
        write_state(self.run_directory, self.state)

    def be(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        write_state(self.run_directory, self.state)

    def be_ready(self) -> None:
        write_ready(self.run_directory, started_at=self.state.started_at, ready_at=datetime.now(UTC))

    def end(self, status: int) -> None:
        self.kernel.kill()
        self.kernel.wait()
        write_end(self.run_directory, status, started_at=self.state.started_at)

    def wait(self, goal: Goal = Goal.READY, timeout_seconds: float | None = PATIENCE_SECONDS) -> WaitReport:
        return wait_for_guest(self.site, "g", goal, timeout_seconds=timeout_seconds, ask=silent)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(tmp_path)
    try:
        yield setting
    finally:
        setting.kernel.kill()
        setting.kernel.wait()


def later(action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(0.3, action)
    timer.start()
    return timer


def test_the_marker_is_seen(setting: Setting) -> None:
    timer = later(setting.be_ready)
    report = setting.wait()
    timer.join()
    assert report.outcome is Waited.REACHED
    assert report.status is None
    assert setting.wait(timeout_seconds=0).outcome is Waited.REACHED


def test_the_marker_of_an_earlier_run_does_not_count(setting: Setting) -> None:
    setting.be_ready()
    setting.be(started_at=datetime(2026, 11, 21, tzinfo=UTC))
    assert setting.wait(timeout_seconds=0.2).outcome is Waited.TIMED_OUT


def test_a_marker_that_nobody_looks_for_is_not_waited_for(setting: Setting) -> None:
    setting.be(supervisor=setting.gone)
    with pytest.raises(StorageError) as failed:
        setting.wait(timeout_seconds=None)
    assert "--for mconsole" in str(failed.value.hint)
    setting.be_ready()
    assert setting.wait().outcome is Waited.REACHED


def test_a_guest_without_a_marker_is_ready_when_its_mconsole_answers(setting: Setting) -> None:
    setting.be(waits_for="mconsole")
    asked: list[str] = []

    def ask(command: str) -> str:
        asked.append(command)
        if len(asked) < 3:
            raise NoInputError("not yet")
        return "Linux"

    report = wait_for_guest(setting.site, "g", timeout_seconds=PATIENCE_SECONDS, ask=lambda _state: ask)
    assert report.outcome is Waited.REACHED
    assert asked == ["version"] * 3


def test_the_mconsole_may_be_asked_for_where_there_is_a_marker(setting: Setting) -> None:
    watch = RunWatch(setting.run_directory, setting.state, lambda command: command)
    assert watch.reached(Goal.MCONSOLE)
    assert not watch.reached(Goal.READY)


def test_a_guest_that_ends_first_leaves_its_last_words(setting: Setting) -> None:
    setting.be(supervisor=setting.gone, waits_for="mconsole")
    lines = [f"line {number}" for number in range(20)]
    Path(setting.run_directory, CONSOLE_LOG).write_text("\r\n".join([*lines, ""]))
    timer = later(lambda: setting.end(134))
    report = setting.wait()
    timer.join()
    assert report.outcome is Waited.ENDED
    assert report.console == tuple(lines[-5:])
    assert report.status in (134, None)  # whoever supervises is gone, and may have written before that


def test_the_status_is_read_when_the_supervisor_has_finished(setting: Setting) -> None:
    with subprocess.Popen(["sleep", "600"]) as supervisor:
        setting.be(supervisor=process_id(supervisor.pid))

        def finish() -> None:
            setting.end(-9)
            supervisor.kill()

        timer = later(finish)
        report = setting.wait(Goal.EXIT)
        timer.join()
    assert (report.outcome, report.status) == (Waited.REACHED, -9)
    assert setting.wait(Goal.EXIT).status == -9  # long ago


def test_what_does_not_run_is_not_waited_for(setting: Setting, tmp_path: Path) -> None:
    setting.be(kernel=setting.gone)
    for goal in (Goal.READY, Goal.MCONSOLE):
        with pytest.raises(NoInputError):
            setting.wait(goal)
    with pytest.raises(NoInputError):
        wait_for_guest(setting.site, "nobody", Goal.EXIT)


# -- the command ------------------------------------------------------------------------------------------------------


def command(setting: Setting, *words: str) -> None:
    with wait.make_context("wait", list(words), obj=Globals(site_dir=setting.site.directory)) as context:
        wait.invoke(context)


def test_the_command_says_that_it_is_ready(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.be_ready()
    command(setting, "g")
    assert capsys.readouterr().out.startswith("g: is ready, after ")


def test_the_command_exits_with_1_when_it_was_not_in_time(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    for goal, said in (("ready", "g: not yet there: ready, after 0.0 s\n"), ("exit", "g: still runs, after 0.0 s\n")):
        with pytest.raises(click.exceptions.Exit) as ended:
            command(setting, "--for", goal, "--timeout", "0", "g")
        assert ended.value.exit_code == 1
        assert capsys.readouterr().out == said


def test_the_command_fails_when_the_guest_ended_first(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.be(supervisor=setting.gone, waits_for="mconsole")
    Path(setting.run_directory, CONSOLE_LOG).write_text("Kernel panic\n")
    timer = later(lambda: setting.kernel.send_signal(signal.SIGKILL))
    with pytest.raises(StorageError) as failed:
        command(setting, "--json", "g")
    timer.join()
    assert failed.value.exit_code == 74
    assert str(failed.value) == "the guest ended before it was ready (g, found exit status unknown)"
    assert failed.value.hint == "its console ended with: Kernel panic"
    report = json.loads(capsys.readouterr().out)
    assert (report["outcome"], report["goal"], report["console"]) == ("ended", "ready", ["Kernel panic"])


def test_the_command_tells_the_exit_status(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.be(supervisor=setting.gone)
    setting.end(0)
    command(setting, "--for", "exit", "g")
    assert capsys.readouterr().out == "g: has ended, exit status 0\n"


@pytest.mark.parametrize("goal", ["ready", "exit"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_at_once_when_it_is_interrupted(setting: Setting, goal: str, number: signal.Signals) -> None:
    script = (
        "import sys\nfrom umldisk.cli.failures import guarded\nfrom umldisk.cli.options import Globals\n"
        "from umldisk.cli.wait import wait\n"
        "def run():\n"
        "    with wait.make_context('wait', ['--for', sys.argv[2], 'g'], obj=Globals(site_dir=sys.argv[1])) as it:\n"
        "        print('up', flush=True)\n"
        "        wait.invoke(it)\n"
        "    return 0\n"
        "sys.exit(guarded('umldisk', run))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, setting.site.directory, goal], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        until_it_watches(program)
        program.send_signal(number)
        status = program.wait(PATIENCE_SECONDS)
    assert status == (130 if number is signal.SIGINT else -number)
    assert setting.state.is_alive()
