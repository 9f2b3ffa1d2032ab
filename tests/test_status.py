"""How guests are: states made of real processes, locks and sockets, and the memory of families of processes."""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.children import child
from tests.kit.command_line import CommandLine
from tests.kit.commands import holding
from tests.kit.runs import NAME, STARTED, Run, ended_process, look, process_id
from umldisk.config.site import Site
from umldisk.cow.findings import Severity
from umldisk.guest.state import EXIT, LOCK, STATE, RunState
from umldisk.ops.running import status_run
from umldisk.ops.running.status import GuestStatus, site_status
from umldisk.ops.running.status_run import GuestState, is_frozen
from umldisk.system.processes import all_processes, family_of, resident_bytes


@pytest.fixture
def site(tmp_path: Path) -> Site:
    directory = tmp_path / "guests" / NAME
    directory.mkdir(parents=True)
    for name in ("root_fs", "var_fs", "home_fs", "tmp_fs", "swap_fs"):
        (directory / name).write_bytes(b"x" * 4096)
    return Site(str(tmp_path))


@pytest.fixture
def run(site: Site) -> Run:
    return Run(site)


def codes(guest: GuestStatus) -> list[str]:
    return [finding.code for finding in guest.findings]


# -- states of guests that run ----------------------------------------------------------------------------------------


def test_a_run_is_starting_then_running_then_ready(site: Site, run: Run) -> None:
    before = time.monotonic()
    with child("") as kernel:
        run.begins(process_id(kernel.pid))
        run.ends(0, started_at=STARTED - timedelta(days=1))
        run.is_ready(started_at=STARTED - timedelta(days=1))  # both tell of another run
        assert look(site, answers=False).state is GuestState.STARTING
        assert look(site).state is GuestState.RUNNING
        run.is_ready()
        ready = look(site)
        assert (ready.state, ready.pid, ready.umid, ready.memory_bytes) == (
            GuestState.READY,
            kernel.pid,
            NAME,
            64 << 20,
        )
        assert (ready.started_at, ready.exit_status, codes(ready)) == (STARTED, None, [])
        assert ready.uptime_seconds is not None
        assert 0 <= ready.uptime_seconds <= time.monotonic() - before + 1


def test_a_ready_guest_whose_mconsole_is_silent_is_ready_with_a_warning(site: Site, run: Run) -> None:
    with child("") as kernel:
        run.begins(process_id(kernel.pid))
        run.is_ready()
        silent = look(site, answers=False)
        assert (silent.state, codes(silent)) == (GuestState.READY, ["mconsole-silent"])


def test_a_guest_without_its_supervisor_is_not_recorded(site: Site, run: Run) -> None:
    with child("") as kernel:
        run.begins(process_id(kernel.pid), supervisor=ended_process())
        assert codes(look(site)) == ["supervisor-gone"]


def test_a_jailed_guest_without_bubblewrap_goes_on_with_a_warning(site: Site, run: Run) -> None:
    with child("") as kernel:
        run.begins(process_id(kernel.pid), leader=ended_process(), jailed=True)
        found = look(site)
        assert (found.state, found.resident_bytes is None) == (GuestState.RUNNING, False)
        assert [(one.code, one.severity) for one in found.findings] == [("bubblewrap-gone", Severity.WARNING)]
        run.begins(process_id(kernel.pid), jailed=True)
        assert codes(look(site)) == []


def test_a_claimed_run_that_nobody_knows_of_yet_is_starting(site: Site, run: Run) -> None:
    with holding(run.path / LOCK):
        assert look(site).state is GuestState.STARTING
    assert look(site).state is GuestState.STOPPED


def test_a_guest_that_somebody_else_runs_is_told_by_the_lock_on_its_disk(site: Site) -> None:
    disk = Path(site.directory, "guests", NAME, "tmp_fs")
    lock = "import fcntl; file = open(sys.argv[1], 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX)"
    with child(lock, str(disk), "umid=mine") as guest:
        found = look(site)
        assert (found.state, found.pid, found.umid) == (GuestState.FOREIGN, guest.pid, "mine")
        assert found.resident_bytes is not None
        assert found.uptime_seconds is not None
    with child(lock, str(disk)) as copying:
        found = look(site)
        assert found.state is GuestState.STOPPED
        (holder,) = [disk.locked_by for disk in found.disks if disk.locked_by]
        assert (holder.pid, holder.umid) == (copying.pid, None)


# -- states of guests that do not run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state", "text"),
    [
        (0, GuestState.STOPPED, "stopped"),
        (1, GuestState.ENDED, "ended with status 1"),
        (-signal.SIGKILL, GuestState.ENDED, "ended by SIGKILL"),
        (-99, GuestState.ENDED, "ended by signal 99"),
    ],
)
def test_how_the_last_run_ended_is_told(site: Site, run: Run, status: int, state: GuestState, text: str) -> None:
    run.begins(ended_process())
    run.ends(status)
    found = look(site)
    assert (found.state, found.exit_status, found.ended_at) == (state, status, STARTED + timedelta(hours=1))
    assert (found.pid, found.uptime_seconds, codes(found)) == (None, None, [])
    said = CommandLine(Path(site.directory))("status")
    assert f" {text} " in said.lines[1]


def test_while_the_supervisor_puts_things_in_order_the_guest_is_ending(site: Site, run: Run) -> None:
    run.begins(ended_process())
    assert look(site).state is GuestState.ENDING


def test_a_supervisor_that_is_through_and_has_not_gone_is_nobody_who_starts(site: Site, run: Run) -> None:
    with holding(run.path / LOCK) as supervisor:
        run.begins(ended_process(), supervisor=process_id(supervisor))
        assert look(site).state is GuestState.ENDING
        run.ends(0)
        assert look(site).state is GuestState.STOPPED


def test_an_end_that_comes_while_it_is_looked_for_is_no_crash(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with child("") as supervisor:
        run.begins(ended_process(), supervisor=process_id(supervisor.pid))

        def just_before(_run_directory: str) -> None:
            run.ends(0)
            supervisor.communicate(timeout=60)

        monkeypatch.setattr(status_run, "read_end", just_before)
        assert look(site).state is GuestState.ENDING
    monkeypatch.undo()
    assert look(site).state is GuestState.STOPPED


def test_a_run_of_which_nobody_saw_the_end_crashed(site: Site, run: Run) -> None:
    run.begins(ended_process(), supervisor=ended_process())
    found = look(site)
    assert (found.state, codes(found)) == (GuestState.CRASHED, ["crashed"])
    assert "unseen" in found.findings[0].message


def test_a_run_before_the_machines_own_restart_names_nobody(site: Site, run: Run) -> None:
    now = process_id(os.getpid())
    former = replace(now, boot="00000000-0000-0000-0000-000000000000")
    run.begins(former, supervisor=former)
    found = look(site)
    assert (found.state, found.pid) == (GuestState.CRASHED, None)
    assert "restart" in found.findings[0].message


def test_a_process_id_that_was_given_away_is_not_the_guest(site: Site, run: Run) -> None:
    now = process_id(os.getpid())
    run.begins(replace(now, start_ticks=now.start_ticks - 1), supervisor=ended_process())
    assert look(site).state is GuestState.CRASHED


def test_processes_that_a_killed_kernel_leaves_are_found(site: Site, run: Run) -> None:
    code = (
        "import os; run = open(sys.argv[1])\n"
        "if not os.fork():\n os.close(0); os.close(1); os.close(2); import signal; signal.pause()\n"
    )
    with child(code, str(run.path / LOCK)) as kernel:
        leader = process_id(kernel.pid)
        family = [one for one in family_of(all_processes(), leader) if one.pid != kernel.pid]
        run.begins(leader, supervisor=ended_process())
        kernel.kill()
        kernel.wait(timeout=20)
        try:
            found = look(site)
            assert (found.state, codes(found)) == (GuestState.CRASHED, ["processes-left"])
            assert f"PID {family[0].pid}" in found.findings[0].message
        finally:
            for one in family:
                os.kill(one.pid, signal.SIGKILL)


def test_a_guest_without_disks_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "guests" / NAME).mkdir(parents=True)
    found = look(Site(str(tmp_path)))
    assert (found.state, found.allocated_bytes, codes(found)) == (GuestState.NOT_BUILT, 0, [])


def test_what_cannot_be_read_of_a_run_is_a_finding_and_hides_nothing_else(site: Site, run: Run) -> None:
    (run.path / STATE).write_text("{}")
    found = look(site)
    assert (found.state, codes(found)) == (GuestState.STOPPED, ["run-unreadable"])
    with child("") as kernel:
        run.begins(process_id(kernel.pid))
        (run.path / EXIT).write_text("nonsense")
        assert look(site).pid == kernel.pid


# -- frozen -----------------------------------------------------------------------------------------------------------

_BIND = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1]); s.setblocking(%s)"


@pytest.fixture
def socket_path() -> Iterator[str]:
    """Make a place whose path is short enough for a socket, with a blank in it."""
    with tempfile.TemporaryDirectory(prefix="um ", dir="/tmp") as directory:
        yield f"{directory}/mconsole"


@pytest.mark.parametrize("blocking", [True, False])
def test_a_kernel_that_waits_for_go_has_a_blocking_socket(socket_path: str, blocking: bool) -> None:
    with child(_BIND % blocking, socket_path) as kernel:
        assert is_frozen([kernel.pid], socket_path) is blocking
        assert not is_frozen([kernel.pid], socket_path.removesuffix("e"))
        assert not is_frozen([os.getpid()], socket_path)
    assert not is_frozen([kernel.pid], socket_path)


def test_a_frozen_guest_is_not_asked(site: Site, run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="um", dir="/tmp") as name:
        os.mkdir(f"{name}/{NAME}")
        with child(_BIND % True, f"{name}/{NAME}/mconsole") as kernel:
            run.begins(process_id(kernel.pid), socket_directory=name)
            run.is_ready()
            found = look(site, answers=False)
            assert (found.state, codes(found)) == (GuestState.FROZEN, [])


def test_a_silent_mconsole_ends_no_later_than_its_timeout(site: Site, run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="um", dir="/tmp") as name:
        os.mkdir(f"{name}/{NAME}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent, child("") as kernel:
            silent.bind(f"{name}/{NAME}/mconsole")
            run.begins(process_id(kernel.pid), socket_directory=name)
            run.is_ready()
            (found,) = site_status(site, NAME).guests
            assert (found.state, codes(found)) == (GuestState.READY, ["mconsole-silent"])
            assert silent.recv(4096).endswith(b"version")


def test_guests_are_asked_side_by_side(tmp_path: Path) -> None:
    site, names = Site(str(tmp_path)), [f"guest{number:02}" for number in range(20)]
    all_at_once = threading.Barrier(len(names))

    def ask(_state: RunState) -> bool:
        all_at_once.wait(timeout=60)  # raises unless as many wait here at the same time
        return True

    with child("") as kernel:
        for name in names:
            (tmp_path / "guests" / name).mkdir(parents=True)
            Run(site, name).begins(process_id(kernel.pid))
        found = site_status(site, ask=ask).guests
    assert [guest.guest for guest in found] == names
    assert {guest.state for guest in found} == {GuestState.RUNNING}


# -- memory -----------------------------------------------------------------------------------------------------------

_SHARED = 128 << 20
_FAMILY = f"""
import mmap, os, signal
fd = os.memfd_create("vm")
os.ftruncate(fd, {_SHARED})
memory = mmap.mmap(fd, {_SHARED})
memory.write(b"x" * {_SHARED})
own = bytearray(os.urandom(1 << 20)) * 8
up, ready = os.pipe()
for _ in range(3):
    if not os.fork():
        sum(memory[at] for at in range(0, {_SHARED}, 4096))
        os.write(ready, b".")
        os.read(0, 1)
        os._exit(0)
[os.read(up, 1) for _ in range(3)]
"""


def test_memory_that_processes_share_counts_once_and_their_own_for_each() -> None:
    with child(_FAMILY) as kernel:
        family = family_of(all_processes(), process_id(kernel.pid))
        assert len(family) == 4
        found = resident_bytes(family)
        assert found is not None
        assert _SHARED + (8 << 20) <= found < 2 * _SHARED
        assert resident_bytes(family[:1]) is not None
    assert resident_bytes(family) is None
