"""Guests that are started, used and ended by the commands, with the real kernel in its jail."""

import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.kit.sites import NAME, SMALL, WAIT_SECONDS, BuiltSite, until
from umldisk.cow.creating import create
from umldisk.cow.file import CowFile
from umldisk.guest.mconsole.client import Mconsole
from umldisk.guest.state import read_end, ready_at

pytestmark = [
    needs("linux", "bwrap", "setarch", "mke2fs", "e2fsck", "busybox"),
    pytest.mark.real,
    pytest.mark.guest,
    pytest.mark.slow,
]


@pytest.fixture
def site() -> Iterator[BuiltSite]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        site = BuiltSite(Path(directory)).build()
        yield site
        site.end()


def _started(site: BuiltSite, *words: str) -> None:
    site.good("start", *words, NAME)
    site.good("wait", "--timeout", str(WAIT_SECONDS), NAME)


def _require_clean(site: BuiltSite) -> None:
    for drive in ("root", "var", "home"):
        image = site.directory / f"{drive}.merged"
        site.good("merge", "-q", site.guest / f"{drive}_cow", image)
        checked = subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        image.unlink()


def test_a_life(site: BuiltSite) -> None:
    _started(site)
    state = site.state()
    assert state.is_alive()
    assert ready_at(str(site.run), state) is not None
    assert site.shell("cat /proc/swaps; mount").count("/dev/ubd") >= 4
    site.shell("echo kept >/home/note; sync")
    said = site("start", NAME)
    assert said.code == 75
    assert f"PID {state.kernel.pid}" in said.err
    assert Mconsole(state.mconsole_path).send("version").startswith("Linux blackdance")
    site.good("stop", NAME)
    assert not state.is_alive()
    end = read_end(str(site.run))
    assert end is not None
    assert end.status == 0
    with CowFile.open(site.guest / "home_cow") as cow:
        assert b"kept\n" in cow.read(0, cow.size_bytes)
    _require_clean(site)
    _started(site)  # the same again, on what was left
    assert site.shell("cat /home/note").endswith("kept\n")
    site.good("stop", NAME)
    assert site.console.count("is ready") == 2


def test_of_two_starts_at_once_one_wins(site: BuiltSite) -> None:
    barrier = threading.Barrier(2)
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "-q", NAME]

    def start() -> int:
        barrier.wait()
        return subprocess.run(program, capture_output=True, check=False).returncode

    with ThreadPoolExecutor(2) as both:
        codes = sorted(job.result() for job in [both.submit(start), both.submit(start)])
    assert codes == [0, 75]
    site.good("wait", "--timeout", str(WAIT_SECONDS), NAME)
    site.good("stop", NAME)


def test_discarded_changes_are_gone_and_others_stay(site: BuiltSite) -> None:
    _started(site)
    site.shell("echo one >/root/note; echo one >/home/note; sync")
    site.good("stop", NAME)
    _started(site, "--discard", "root", "--discard", "tmp")
    assert site.shell("cat /root/note").endswith("one\n")
    site.shell("echo two >/root/note; echo two >/home/note; echo two >/tmp/note; sync")
    site.good("stop", NAME)
    assert not [name for name in os.listdir(site.guest) if "discard" in name]
    _started(site)
    assert site.shell("cat /root/note /home/note; ls /tmp").split() == ["one", "two", "lost+found"]
    site.good("stop", NAME)
    _require_clean(site)


def test_a_guest_goes_on_when_all_of_umldisk_is_killed(site: BuiltSite) -> None:
    _started(site)
    state = site.state()
    os.kill(state.supervisor.pid, signal.SIGKILL)
    assert state.supervisor.wait(WAIT_SECONDS)
    for _ in range(20):
        site.type("echo a line that nobody records\n")
    assert Mconsole(state.mconsole_path).send("proc uptime")
    assert state.is_alive()
    site.good("stop", NAME)
    assert not state.is_alive()
    _require_clean(site)
    _started(site)
    site.good("stop", NAME)


def test_a_jail_whose_guard_is_killed_is_watched_on(site: BuiltSite) -> None:
    _started(site)
    state = site.state()
    assert state.leader != state.kernel
    os.kill(state.leader.pid, signal.SIGKILL)
    assert state.leader.wait(WAIT_SECONDS)
    assert not state.supervisor.wait(0.5)
    assert state.is_alive()
    assert site.shell("echo still $((40 + 2))").endswith("still 42\n")
    assert "bubblewrap-gone" in site.good("status", NAME).out
    site.good("checkpoint", "take", NAME, "var")
    stopped = site.good("stop", NAME)
    assert "stopped by ctrl-alt-del" in stopped.out
    assert "SIG" not in stopped.out
    end = read_end(str(site.run))
    assert end is not None
    assert end.status is None
    assert "stopped" in site.good("status", NAME).lines[1]
    _require_clean(site)


def test_a_kernel_that_cannot_start_is_told(site: BuiltSite) -> None:
    (site.directory / "umldisk.toml").write_text(SMALL + 'kernel = "/bin/false"\n')
    said = site("start", NAME)
    assert said.code == 74
    assert "the guest" in said.err
    site.build(SMALL, "--force")
    _started(site)  # nothing of it is in the way of the next one
    site.good("stop", NAME)


def test_a_signal_to_the_foreground_stops_the_guest(site: BuiltSite) -> None:
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "--foreground", NAME]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        shown = b""
        while b"is ready" not in shown:
            shown += os.read(process.stdout.fileno(), 1 << 16)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == -signal.SIGTERM
    assert not site.state().is_alive()
    _require_clean(site)


def test_a_signal_to_the_foreground_stops_a_guest_that_only_boots(site: BuiltSite) -> None:
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "--foreground", NAME]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until((site.run / "state.json").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == -signal.SIGTERM
    assert not site.state().is_alive()
    _started(site)
    site.good("stop", NAME)
    _require_clean(site)


def test_in_the_foreground_the_terminal_is_the_console(site: BuiltSite) -> None:
    ours, theirs = pty.openpty()
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "--foreground", NAME]
    with subprocess.Popen(program, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        screen = bytearray()

        def read() -> None:
            while True:
                try:
                    screen.extend(os.read(ours, 65536))
                except OSError:
                    return

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        until(lambda: b"blackdance is ready" in screen and b"# " in screen)
        os.write(ours, b"echo i'm'n $((6 * 7))\n")
        until(lambda: b"imn 42" in screen)
        os.write(ours, b"poweroff\n")
        assert process.wait(WAIT_SECONDS) == 0
    reader.join(WAIT_SECONDS)
    os.close(ours)
    assert b"reboot: System halted" in screen


def test_a_screen_that_goes_away_leaves_the_guest(site: BuiltSite) -> None:
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "--foreground", NAME]
    with subprocess.Popen(
        program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(f"{NAME}: runs as ")  # before anything of the console
        process.stdout.close()
        assert process.wait(WAIT_SECONDS) == 141
        assert f"{NAME} goes on" in process.stderr.read()
    assert site.state().is_alive()
    site.good("wait", "--timeout", str(WAIT_SECONDS), NAME)
    site.good("stop", NAME)


@pytest.mark.parametrize("ending", ["left", "a signal", "unrecorded"])
def test_the_terminal_is_as_before_whatever_ended_it(site: BuiltSite, ending: str) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    program = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "start", "--foreground", NAME]
    with subprocess.Popen(program, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON)
        if ending == "left":
            os.write(ours, b"\x1d")
        elif ending == "a signal":
            process.send_signal(signal.SIGHUP)
        else:
            os.kill(site.state().supervisor.pid, signal.SIGKILL)
        expected = {"left": 0, "a signal": -signal.SIGHUP, "unrecorded": 1}[ending]
        assert process.wait(WAIT_SECONDS) == expected
    assert termios.tcgetattr(theirs) == before
    assert site.state().is_alive() is (ending != "a signal")
    os.close(ours)
    os.close(theirs)


def test_a_site_whose_path_is_very_long(site: BuiltSite) -> None:
    far = BuiltSite(site.directory.joinpath(*["a" * 60] * 3))
    far.directory.mkdir(parents=True)
    far.build()
    try:
        far.good("start", NAME)
        state = far.state()
        assert len(os.fsencode(state.mconsole_path)) <= 107
        far.good("wait", "--timeout", str(WAIT_SECONDS), NAME)
        assert "Linux" in far.good("console", NAME, "--", "version").out
        far.good("stop", NAME)
        assert not os.path.exists(state.socket_directory)
    finally:
        far.end()


def test_a_header_that_names_the_base_by_a_symlink_and_bytes_that_are_no_text(site: BuiltSite) -> None:
    odd = BuiltSite(Path(f"{site.directory}/\udcff"))
    odd.directory.mkdir()
    odd.build()
    link = site.directory / "link_fs"
    link.symlink_to(odd.guest / "root_fs")
    create(odd.guest / "root_cow", link)
    try:
        _started(odd)
        odd.good("stop", NAME)
        _require_clean(odd)
    finally:
        odd.end()
