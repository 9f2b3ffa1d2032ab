"""Starts that are broken off while the kernel boots, and kernels that end at once: scripts in a kernel's place."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.kit.sites import NAME, WAIT_SECONDS, BuiltSite
from umldisk.guest.kernel import Kernel
from umldisk.guest.state import read_end
from umldisk.ops.running import starting

pytestmark = needs("linux", "setarch", "mke2fs", "busybox")

_START = """
import os, signal, sys
from pathlib import Path
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
kernel, pid, *words = sys.argv[1:]
Path(pid).write_text(str(os.getpid()))
from umldisk.cli.main import main
from umldisk.guest.kernel import Kernel
from umldisk.ops.running import starting
starting.find_kernel = lambda _name: Kernel(kernel)
sys.exit(main(words))
"""
_MOMENTS = {"before it is known": "true", "while it boots": "until [ -s {run}/state.json ]; do sleep 0.02; done"}
_ENDS = {signal.SIGTERM: -signal.SIGTERM, signal.SIGHUP: -signal.SIGHUP, signal.SIGINT: 130}


@pytest.fixture
def site() -> Iterator[BuiltSite]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        site = BuiltSite(Path(directory)).build()
        yield site
        site.end()


def _kernel(site: BuiltSite, script: str) -> Path:
    path = site.directory / "kernel"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _broken_off(site: BuiltSite, moment: str, number: signal.Signals, *words: str) -> tuple[int, str]:
    """Start a guest whose kernel signals whoever starts it, and then neither answers nor ends."""
    pid = site.directory / "pid"
    wait = _MOMENTS[moment].format(run=site.run)
    kernel = _kernel(site, f"{wait}; kill -{number.name[3:]} $(cat {pid}); exec sleep 600")
    command = [sys.executable, "-c", _START, kernel, pid, "--site", site.directory, "start", "--no-jail", *words, NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("number", _ENDS)
@pytest.mark.parametrize("moment", _MOMENTS)
def test_in_the_foreground_the_guest_is_stopped(site: BuiltSite, moment: str, number: signal.Signals) -> None:
    assert _broken_off(site, moment, number, "--foreground")[0] == _ENDS[number]
    assert not site.state().is_alive()
    assert read_end(str(site.run)) is not None


@pytest.mark.parametrize("moment", _MOMENTS)
def test_otherwise_it_is_said_that_the_guest_goes_on(site: BuiltSite, moment: str) -> None:
    code, said = _broken_off(site, moment, signal.SIGTERM)
    assert code == -signal.SIGTERM
    assert f"{NAME} goes on; umldisk stop {NAME} ends it" in said
    assert site.state().is_alive()


def test_a_start_that_is_refused_and_broken_off_does_nothing_to_the_guest_that_runs(
    site: BuiltSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken_off(site, "while it boots", signal.SIGTERM)
    running = site.state()

    def broken_off(_directory: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(starting.rundir, "claim", broken_off)
    said = site("start", "--foreground", "--no-jail", NAME)
    assert (said.code, said.err) == (130, "")
    assert site.state() == running
    assert running.is_alive()


# -- kernels that end at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("words", ["", "bad luck"])
def test_the_words_of_the_run_before_are_no_cause(
    site: BuiltSite, monkeypatch: pytest.MonkeyPatch, moment: str, words: str
) -> None:
    kernel = _kernel(site, f"echo '{words}'; {_MOMENTS[moment].format(run=site.run)}; exit 3")
    monkeypatch.setattr(starting, "find_kernel", lambda _name: Kernel(str(kernel)))
    site.run.mkdir(parents=True)
    (site.run / "console.log").write_text("root@blackdance:~# ")
    said = site("start", "--no-jail", NAME)
    assert said.code == 74
    assert "root@" not in said.err
    assert words in said.err
    if moment == "while it boots":
        found = f", found {words}" if words else ""
        assert f"the guest ended at once with status 3 ({site.run}/console.log{found})\n" in said.err
