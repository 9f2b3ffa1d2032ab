"""`umldisk status` and `who` about a real guest in its jail, from its start to the end of all its processes."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.command_line import CommandLine
from tests.kit.peers import needs
from umldisk.config.site import Site
from umldisk.guest.mconsole.address import mconsole_of
from umldisk.guest.state import RunState, read_state
from umldisk.ops.provision import build_guest
from umldisk.ops.running.starting import start_guest
from umldisk.ops.running.status import GuestStatus, site_status
from umldisk.ops.running.status_run import GuestState
from umldisk.ops.running.who import who_has

pytestmark = [needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

_NAME = "blackdance"
_PATIENCE_SECONDS = 60.0


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="umldisk-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        Path(name, "umldisk.toml").write_text(f'[guest.{_NAME}]\nuser = "nobody"\n')
        yield Site(name)


@pytest.fixture
def state(site: Site) -> Iterator[RunState]:
    build_guest(site, _NAME)
    start_guest(site, _NAME)
    found = read_state(site.run_directory(_NAME))
    assert found is not None
    try:
        yield found
    finally:
        for process in (found.kernel, found.leader):
            process.send(signal.SIGKILL)
        for process in (found.kernel, found.leader, found.supervisor):
            assert process.wait(_PATIENCE_SECONDS)


def look(site: Site) -> GuestStatus:
    (guest,) = site_status(site, _NAME).guests
    return guest


def until(site: Site, reached: Callable[[GuestStatus], bool]) -> GuestStatus:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not reached(guest := look(site)):
        assert time.monotonic() < deadline, guest
        time.sleep(0.1)
    return guest


def test_a_guest_in_its_jail_is_seen_from_its_start_to_its_end(site: Site, state: RunState) -> None:
    disks = Path(site.directory, "guests", _NAME)
    umldisk = CommandLine(Path(site.directory))

    ready = until(site, lambda guest: guest.state is GuestState.READY)
    assert (ready.pid, ready.umid, ready.jailed, ready.findings) == (state.kernel.pid, _NAME, True, ())
    assert ready.resident_bytes is not None
    assert 8 << 20 < ready.resident_bytes < (64 << 20) + (16 << 20)
    until(site, lambda guest: all(disk.locked_by for disk in guest.disks))
    assert {disk.locked_by.umid for disk in ready.disks if disk.locked_by} <= {_NAME}
    assert f"{_NAME}  ready" in umldisk("status").out

    ask = mconsole_of(state).send
    ask("stop")
    assert look(site).state is GuestState.FROZEN
    assert ask("version")
    assert look(site).state is GuestState.FROZEN
    ask("go")
    assert look(site).state is GuestState.READY

    for name in ("root_fs", "root_cow", "tmp_fs"):
        (hold,) = who_has([str(disks / name)], site).files[0].holds
        assert (hold.guest, hold.umid, hold.former) == (_NAME, _NAME, False)
    moved = (disks / "tmp_fs").rename(disks / "elsewhere")
    (disks / "tmp_fs").write_bytes(b"not what the guest writes")
    (hold,) = who_has([str(disks / "tmp_fs")], site).files[0].holds
    assert (hold.guest, hold.former) == (_NAME, True)
    moved.replace(disks / "tmp_fs")

    state.supervisor.send(signal.SIGKILL)
    assert state.supervisor.wait(_PATIENCE_SECONDS)
    assert [finding.code for finding in look(site).findings] == ["supervisor-gone"]
    assert umldisk("status").code == 1
    state.kernel.send(signal.SIGKILL)
    gone = until(site, lambda guest: guest.pid is None and "processes-left" not in [f.code for f in guest.findings])
    assert (gone.state, [finding.code for finding in gone.findings]) == (GuestState.CRASHED, ["crashed"])
    assert not who_has([str(disks / "root_cow")], site).is_any_held


def test_a_guest_that_ends_is_stopped_when_its_supervisor_is_through(site: Site, state: RunState) -> None:
    until(site, lambda guest: guest.state is GuestState.READY)
    mconsole_of(state).send("cad")
    ended = until(site, lambda guest: guest.pid is None and guest.state is not GuestState.ENDING)
    assert (ended.state, ended.exit_status, ended.findings) == (GuestState.STOPPED, 0, ())
    assert ended.ended_at is not None
    assert not any(disk.locked_by for disk in ended.disks)
