"""What /proc/PID/stat says, whatever a process calls itself."""

import os
import subprocess
import sys

import pytest

from umldisk.system.process_status import ProcessStatus, status_of, visible_pids

_UNUSED_PID = (1 << 22) - 1
_REST = "{state} 7 70 700 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 4242 0"


def line(name: str = "linux", *, state: str = "S", flags: int = 0, threads: int = 1) -> str:
    return f"12 ({name}) " + _REST.format(state=state, flags=flags, threads=threads)


@pytest.mark.parametrize("name", ["linux", "", ")", "a) Z 1 (b", "two words", "line\nbreak", "(sd-pam)"])
def test_a_name_may_hold_anything(name: str) -> None:
    status = ProcessStatus.parse(line(name))
    assert status == ProcessStatus("S", parent=7, session=700, threads=1, start_ticks=4242, is_kernel_thread=False)


@pytest.mark.parametrize(
    ("state", "threads", "is_over"),
    [
        ("R", 1, False),
        ("D", 3, False),
        ("t", 1, False),
        ("Z", 1, True),
        ("Z", 0, True),
        ("Z", 2, False),
        ("X", 0, True),
    ],
)
def test_a_process_is_over_when_all_its_threads_are(state: str, threads: int, is_over: bool) -> None:
    assert ProcessStatus.parse(line(state=state, threads=threads)).is_over is is_over


def test_a_thread_of_the_kernel_is_told_by_its_flag() -> None:
    assert ProcessStatus.parse(line(flags=0x00208040)).is_kernel_thread
    assert not ProcessStatus.parse(line(flags=0x00400040)).is_kernel_thread


def test_a_real_process_is_seen_until_it_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        status = status_of(process.pid)
        assert status is not None
        assert (status.parent, status.session, status.is_over) == (os.getpid(), process.pid, False)
        assert {process.pid, os.getpid()} <= set(visible_pids())
        process.communicate(b"\n", timeout=60)
    assert status_of(_UNUSED_PID) is None
