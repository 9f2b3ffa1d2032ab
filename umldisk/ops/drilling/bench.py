"""The hands of a drill on a real guest in its scratch site; see `steps` for what they do when.

Every step goes through what umldisk's own commands use: start, wait, the agent, stop. So a drill tries these as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from umldisk.build import manifest
from umldisk.config.guest import Guest
from umldisk.cow.file import Access
from umldisk.cow.merging import MergeOptions, merge
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.guest.agent import Agent, AgentError, NoAnswerError
from umldisk.guest.console_log import last_lines
from umldisk.guest.ladder import Ladder, Rung
from umldisk.guest.state import CONSOLE_LOG, RunState, read_state
from umldisk.guest.waiting import Goal, Waited
from umldisk.image.drives import Content, Drive
from umldisk.ops.drilling import judging
from umldisk.ops.drilling.checking import check_file_system
from umldisk.ops.drilling.scratch import CHECKS, ScratchSite
from umldisk.ops.drilling.steps import Found, failed, passed, skipped
from umldisk.ops.running.starting import StartOptions, start_guest
from umldisk.ops.running.stopping import stop_guest
from umldisk.ops.running.waiting import WaitReport, wait_for_guest

_CONSOLE_LINES, _CONSOLE_BYTES = 200, 64 << 10
_START = StartOptions(answer_seconds=120.0)
_AGENT_SECONDS = 60.0
_QUIET_SECONDS, _GLANCE_SECONDS = 10.0, 0.5
_SHOW_MOUNTS = "cat /proc/mounts"
_SHOW_SWAPS = "cat /proc/swaps"


class RealBench:
    """The bench of the guest in `site`; `checked` are the drives with a file system that comes back.

    `timeout_seconds` bounds becoming ready, the probe and shutting down, each by itself.
    """

    def __init__(self, site: ScratchSite, checked: Sequence[Drive], *, timeout_seconds: float) -> None:
        self._site = site
        self._guest: Guest = site.drilled
        self._checked: Mapping[str, Drive] = {
            drive.name: drive for drive in checked if drive.content is not Content.SWAP
        }
        self._timeout_seconds = timeout_seconds
        self._run_directory = site.run_directory(self._guest.name)
        self._start_seconds = 0.0
        self.ready_seconds: float | None = None
        self.warnings: tuple[str, ...] = ()

    @property
    def drives(self) -> Sequence[str]:
        """The names of the drives with a file system that comes back."""
        return list(self._checked)

    def check(self, drive: str) -> Found:
        """Let e2fsck look at a base; what the guest will see over it is nothing else."""
        return check_file_system(self._guest.base_path(self._checked[drive]), self._scratch(f"{drive}.before"))

    def check_after(self, drive: str) -> Found:
        """Let e2fsck look at what the guest has left: its COW file merged into an image."""
        chosen = self._checked[drive]
        image, cow = self._guest.base_path(chosen), self._guest.cow_path(chosen)
        if cow is not None:
            backing, image = image, self._scratch(f"{drive}.after")
            merge(cow, image, access=Access(backing=backing), options=MergeOptions(sync=False))
        return check_file_system(image, self._scratch(f"{drive}.replayed"))

    def _scratch(self, name: str) -> str:
        return os.path.join(self._site.directory, CHECKS, name)

    # -- running ------------------------------------------------------------------------------------------------------

    def boot(self) -> Found:
        """Start the kernel; raises what a start raises when it was not even begun."""
        try:
            report = start_guest(self._site, self._guest.name, _START)
        except StorageError as error:
            if read_state(self._run_directory) is None:
                raise
            return failed(error.line(), judging.telling_lines(self._console()))
        self.warnings = report.warnings
        self._start_seconds = report.seconds or 0.0
        return passed(f"in {self._start_seconds:.1f} s")

    def ready(self) -> Found:
        """Wait for the ready marker; a guest that writes none is given until its console is quiet."""
        report = self._wait()
        found = judging.judge_wait(report, self._console(), timeout_seconds=self._timeout_seconds)
        if report.outcome is not Waited.REACHED:
            return found
        self.ready_seconds = round(self._start_seconds + report.seconds, 3)
        state = self._state()
        if state.waits_for == "marker":
            return found
        self._await_quiet(state)
        return passed(f"its mconsole answers, and its console is quiet; a guest of init {self._init} has no marker")

    def _wait(self) -> WaitReport:
        name = self._guest.name
        try:
            return wait_for_guest(self._site, name, timeout_seconds=self._timeout_seconds)
        except NoInputError:  # it has ended since its mconsole answered
            ended = wait_for_guest(self._site, name, Goal.EXIT)
            return replace(ended, goal=Goal.READY, outcome=Waited.ENDED)

    def _await_quiet(self, state: RunState) -> None:
        deadline, size = time.monotonic() + self._timeout_seconds, -1
        quiet_since = time.monotonic()
        while time.monotonic() < min(deadline, quiet_since + _QUIET_SECONDS):
            now = os.path.getsize(os.path.join(self._run_directory, CONSOLE_LOG))
            if now != size:
                size, quiet_since = now, time.monotonic()
            if state.kernel.wait(_GLANCE_SECONDS):
                return

    def _console(self) -> list[str]:
        return last_lines(self._run_directory, most=_CONSOLE_LINES, since_bytes=_CONSOLE_BYTES)

    def _state(self) -> RunState:
        state = read_state(self._run_directory)
        assert state is not None  # it was started
        return state

    @property
    def _init(self) -> str:
        try:
            return manifest.read(self._guest.directory).init
        except (NoInputError, DataError):
            return "other"

    # -- asking the guest ---------------------------------------------------------------------------------------------

    def mounts(self) -> Found:
        """Ask for the mounts and swaps."""
        return self._asked(self._judge_mounts, None)

    def probe(self) -> Found:
        """Run the probe."""
        command = self._guest.probe
        if command is None:
            return skipped("umldisk.toml has no probe")
        if (reason := self._why_no_agent()) is not None:
            return failed(f"the probe cannot run: {reason}")
        return self._asked(lambda agent: judging.judge_probe(command, agent.run(command, self._timeout_seconds)), None)

    def units(self) -> Found:
        """Ask for failed units."""
        why_not = None if self._init == "systemd" else f"init {self._init} has no units"
        has_network = bool(self._guest.files.network.interfaces)
        return self._asked(lambda agent: judging.judge_units(agent.failed_units(), has_network=has_network), why_not)

    def _judge_mounts(self, agent: Agent) -> Found:
        mounts, swaps = (agent.run(command, _AGENT_SECONDS).output for command in (_SHOW_MOUNTS, _SHOW_SWAPS))
        return judging.judge_mounts(self._guest.drives, mounts.decode(errors="replace"), swaps.decode(errors="replace"))

    def _why_no_agent(self) -> str | None:
        if self._state().has_agent:
            return None
        if not self._guest.files.agent:
            return "umldisk.toml says agent = false"
        return f"a guest of init {self._init} has no agent"

    def _asked(self, question: Callable[[Agent], Found], why_not: str | None) -> Found:
        """Put a question to the agent, unless there is a reason not to."""
        reason = why_not or self._why_no_agent()
        if reason is not None:
            return skipped(reason)
        try:
            with self._agent() as agent:
                return question(agent)
        except AgentError as error:
            return failed(error.line())

    @contextmanager
    def _agent(self) -> Iterator[Agent]:
        """Give the agent, which may be started a moment after the marker is written; raises NoAnswerError."""
        deadline = time.monotonic() + _AGENT_SECONDS
        with Agent(self._run_directory) as agent:
            while not agent.ping():
                if time.monotonic() > deadline:
                    raise NoAnswerError("the guest's agent does not answer", where=self._guest.name)
            yield agent

    # -- the end ------------------------------------------------------------------------------------------------------

    def power_off(self) -> Found:
        """Stop the guest by the whole ladder, of which only the first rung is good."""
        ladder = Ladder.of(timeouts_seconds={Rung.CAD: self._timeout_seconds})
        return judging.judge_end(stop_guest(self._site, self._guest.name, ladder))
