"""Running one command and measuring it."""

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from family import Watch

_LAUNCHER = Path(__file__).with_name("launch.py")


class BenchError(Exception):
    """The measurement cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run took; `peak_bytes` is the largest resident set of the process or of a child of it.

    When it was watched, it is what all of them had together, if that is more. With `cut_off` the process was ended
    before it was done: both numbers are lower bounds.
    """

    seconds: float
    peak_bytes: int
    cut_off: bool = False


def measure(command: tuple[str, ...], directory: Path, *, timeout_seconds: float, watched: bool = False) -> Sample:
    """Run a command in `directory`, from its start to its end; ended when it takes longer than the timeout.

    The first word is an absolute path. A run that is watched is slowed down by it, and its time should not count.
    Raises BenchError when the command fails.
    """
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", _LAUNCHER, str(timeout_seconds), *command],
        cwd=directory,
        # Without what may be set for Python here: byte code is kept, as it is for whoever uses umldisk.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    watch = Watch(launcher.pid)
    try:
        with watch if watched else contextlib.nullcontext():
            told, complaints = launcher.communicate()
    except BaseException:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        raise
    if launcher.returncode:
        raise BenchError(f"cannot run {' '.join(command)}: {complaints.strip()}")
    seconds, peak_kib, status, cut_off = told.split()
    if status != "0" and cut_off == "0":
        raise BenchError(f"{' '.join(command)} failed with {status}: {complaints.strip()}")
    return Sample(float(seconds), max(int(peak_kib) * 1024, watch.peak_bytes), cut_off == "1")


def floor_bytes() -> int:
    """Return the smallest peak that can be told: that of a program which does nothing."""
    return measure((shutil.which("true") or "/bin/true",), Path("/"), timeout_seconds=10).peak_bytes


def settle() -> None:
    """Let the disk finish what was begun, so that no run pays for the one before."""
    os.sync()
    time.sleep(0.2)


def touch_memory(wanted_bytes: int) -> None:
    """Have so much free memory used once by a process that ends at once.

    A virtual machine gives free memory back to its host, and getting it again costs a run more than its work. At most
    half of what is free is taken, so that nothing falls out of the page cache.
    """
    count_bytes = min(wanted_bytes, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    child = os.fork()
    if child == 0:
        try:
            mmap.mmap(-1, max(count_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
