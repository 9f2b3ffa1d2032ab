"""Disks that are made in several threads, and what becomes of those when the main thread is interrupted."""

import contextlib
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.kit.interruptions import Interrupted
from umldisk.build import crew
from umldisk.build.crew import DiskPlan, make_disks
from umldisk.build.disks import Workshop
from umldisk.config.guest import Guest
from umldisk.errors import StorageError
from umldisk.progress import SILENT
from umldisk.system.process import run

WAIT_SECONDS = 60


@pytest.fixture
def plans(tmp_path: Path) -> list[DiskPlan]:
    """Return as many disks as are made at a time."""
    guest = Guest("blackdance", str(tmp_path))
    return [DiskPlan(guest, drive, {}, str(tmp_path), str(tmp_path / "tree")) for drive in guest.drives[:2]]


@pytest.mark.usefixtures("interrupting_signals")
def test_a_thread_whose_start_is_interrupted_has_ended_when_that_is_told(
    plans: list[DiskPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(3)
    ended = []

    def make(_maker: object, plan: DiskPlan) -> str:
        both.wait(WAIT_SECONDS)
        with contextlib.suppress(StorageError):
            run(["sleep", "86400"])
        time.sleep(0.3)  # it has something to tidy up
        ended.append(plan.drive.name)
        return ""

    start = threading.Thread.start
    threads = []

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        threads.append(thread)
        if len(threads) == len(plans):
            both.wait(WAIT_SECONDS)
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(crew._Maker, "make", make)
    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(Interrupted):
        make_disks(plans, Workshop(str(tmp_path), {}), task=SILENT.task(""))
    assert sorted(ended) == sorted(plan.drive.name for plan in plans)
