"""What the figures were taken on."""

import os
import platform
import subprocess
import time
from pathlib import Path

from disks import GIB
from workloads import CP, QEMU_IMG, UML_MOO, UMLDISK


def describe(directory: Path) -> dict[str, str]:
    """Return the machine and the scratch directory's file system."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "system": f"{_distribution()}, Linux {platform.release()}",
        "file system": _file_system(directory),
        "Python": platform.python_version(),
    }


def merge_tools(programs: dict[str, str]) -> dict[str, str]:
    """Return the versions of everything that merges."""
    return {
        UMLDISK: _first_line(programs[UMLDISK], "--version"),
        UML_MOO: _package("uml-utilities") if UML_MOO in programs else "-",
        CP: _first_line(CP, "--version"),
        QEMU_IMG: _first_line(QEMU_IMG, "--version") if QEMU_IMG in programs else "-",
    }


def build_tools(umldisk: str) -> dict[str, str]:
    """Return the versions of everything that builds."""
    return {
        UMLDISK: _first_line(umldisk, "--version"),
        "mke2fs": _package("e2fsprogs"),
        "tar": _first_line("tar", "--version"),
    }


def backup_tools(umldisk: str) -> dict[str, str]:
    """Return the versions of everything that keeps states of disks."""
    return {
        UMLDISK: _first_line(umldisk, "--version"),
        "restic": _package("restic"),
        "borg": _package("borgbackup"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _colon, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"


def _file_system(directory: Path) -> str:
    """Return the type of the file system that `directory` lies on."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _dash, source = line.partition(" - ")
        point = mount.split()[4]
        if (mount.split()[2] == wanted or directory.is_relative_to(point)) and len(point) >= len(best):
            best, kind = point, source.split()[0]
    return kind


def _first_line(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["-"])[0]


def _package(name: str) -> str:
    try:
        return f"{name} {_first_line('dpkg-query', '--show', '--showformat=${Version}', name)}"
    except FileNotFoundError:
        return name
