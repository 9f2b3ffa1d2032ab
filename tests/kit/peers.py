"""The real peers of the tests: programs, rights and file systems that a machine may lack.

A test names what it needs, `@needs("uml_moo", "root")`, or `pytestmark = needs("linux")` for a
whole module; a fixture calls `require("xfs")`. Where something is missing the test skips, but under
CI=true it fails: there the set-up has to provide every peer, and a skip would hide that it no
longer does.

Each name is looked up among the special peers below and is otherwise the name of a program.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PROBE_TIMEOUT_SECONDS = 60
_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# Small enough to make quickly, above the file system's own minimum; the images are sparse.
_MAKE_FILE_SYSTEM: dict[str, tuple[int, list[str]]] = {
    "btrfs": (256 << 20, ["mkfs.btrfs", "--quiet"]),
    "ext4": (64 << 20, ["mkfs.ext4", "-q", "-F"]),
    "xfs": (512 << 20, ["mkfs.xfs", "-q"]),
}


def needs(*peers: str) -> pytest.MarkDecorator:
    """Mark a test, class or module as needing these peers; conftest.py carries it out."""
    return pytest.mark.needs(*peers)


def require(*peers: str) -> None:
    """Skip the running test if a peer is missing, or fail it under CI=true; for fixtures."""
    missing = [peer for peer in peers if not is_present(peer)]
    if not missing:
        return
    reason = f"missing on this machine: {', '.join(missing)}"
    if in_ci():
        pytest.fail(f"{reason} (CI=true: every peer has to be there)", pytrace=False)
    pytest.skip(reason)


def in_ci() -> bool:
    """Tell whether a missing peer is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@functools.cache
def is_present(peer: str) -> bool:
    """Tell whether the machine has a peer; a probe runs once in a process."""
    probe = _SPECIAL_PEERS.get(peer)
    return probe() if probe else shutil.which(peer, path=_SYSTEM_PATH) is not None


@contextmanager
def mounted(kind: str, directory: Path, *, size_bytes: int = 0) -> Iterator[Path]:
    """Mount a fresh btrfs, ext4, xfs or tmpfs below `directory`, unmount it at the end.

    The tmpfs has just `size_bytes`, the others at least that. Yields the mount point; needs root.
    Raises CalledProcessError.
    """
    point = directory / f"{kind}-mount"
    point.mkdir()
    if kind == "tmpfs":
        size = f"size={size_bytes or 16 << 20}"
        _run("mount", "-t", "tmpfs", "-o", size, "umldisk-test", str(point))
    else:
        smallest_bytes, maker = _MAKE_FILE_SYSTEM[kind]
        image = directory / f"{kind}.img"
        with image.open("wb") as stream:
            stream.truncate(max(smallest_bytes, size_bytes))
        _run(*maker, str(image))
        _run("mount", "-o", "loop", str(image), str(point))
    try:
        yield point
    finally:
        _run("umount", str(point))


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PROBE_TIMEOUT_SECONDS,
        env={**os.environ, "PATH": _SYSTEM_PATH},
    )


def _works(*command: str) -> bool:
    try:
        _run(*command)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _is_root() -> bool:
    return os.geteuid() == 0


def _can_mount(kind: str) -> bool:
    if not _is_root():
        return False
    with tempfile.TemporaryDirectory(prefix="umldisk-probe-") as directory:
        try:
            with mounted(kind, Path(directory)):
                return True
        except (OSError, subprocess.SubprocessError):
            return False


def _can_trace() -> bool:
    """Containers often have strace but not the right to trace."""
    return _works("strace", "--output=/dev/null", "true")


def _has_package_index() -> bool:
    with tempfile.TemporaryDirectory(prefix="umldisk-probe-") as directory:
        download = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, "click"]
        return _works(sys.executable, *download)


_SPECIAL_PEERS: dict[str, Callable[[], bool]] = {
    "root": _is_root,
    "strace": _can_trace,
    "package-index": _has_package_index,
    "tmpfs": functools.partial(_can_mount, "tmpfs"),
    **{kind: functools.partial(_can_mount, kind) for kind in _MAKE_FILE_SYSTEM},
}
