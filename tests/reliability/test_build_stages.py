"""A build that is killed, fails or runs out of room at every stage: the old set stays, nothing half-made is left.

Stages are the programs that a build runs. Each is stood in for by a script that counts, and at the chosen call kills
whoever called, or fails, or passes on to the real one; so every stage is reached by counting up until a build passes.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.peers import mounted, needs
from tests.reliability.test_full_disk import fill
from umldisk.config.site import Site
from umldisk.image.drives import DRIVES
from umldisk.ops.check_build import check_build
from umldisk.system.process import find_program

pytestmark = [needs("mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

_PROGRAMS = {
    "kill": ("mke2fs", "debugfs", "e2fsck"),
    "fail": ("mke2fs", "debugfs", "e2fsck"),
    "complain": ("debugfs",),  # which ends with status 0 whatever happened
}
_STAND_IN = """\
#!/bin/sh
exec 9>>"{count}.lock"
flock 9
echo >>"{count}"
calls=$(wc -l <"{count}")
flock -u 9
exec 9>&-
[ $calls -ne {strike} ] || {{ {action}; }}
exec "{program}" "$@"
"""
_ACTIONS = {
    "kill": "kill -KILL $PPID; exit 1",
    "fail": "echo 'something broke' >&2; exit 8",
    "complain": "echo 'something broke' >&2; exit 0",
}
_MOST_CALLS = 40
_SET = {*(drive.file_name for drive in DRIVES), "manifest.json"}


def _stand_ins(directory: Path, *, strike: int, action: str) -> str:
    """Write a stand-in for every program; return the PATH with them."""
    directory.mkdir()
    count = directory / "count"
    count.touch()
    for name in _PROGRAMS[action]:
        script = directory / name
        text = _STAND_IN.format(count=count, strike=strike, action=_ACTIONS[action], program=find_program(name))
        script.write_text(text)
        script.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def _calls(directory: Path) -> int:
    """Return how often programs were called: a line each, so that one that is killed meanwhile spoils nothing."""
    return len((directory / "count").read_text())


def _build(site: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "umldisk", "--site", str(site), "build", *words, "blackdance"]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def _digests(directory: Path) -> dict[str, str]:
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in ("root_fs", "manifest.json")}


def _require_whole(site: Path) -> None:
    assert check_build(Site(str(site)), "blackdance").same
    directory = site / "guests" / "blackdance"
    assert set(os.listdir(directory)) - {".lock"} == _SET


@pytest.fixture
def environment(bare_environment: dict[str, str]) -> dict[str, str]:
    return {**bare_environment, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.parametrize("action", _ACTIONS)
def test_stopped_at_any_program_the_old_set_stays(action: str, environment: dict[str, str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    directory = site / "guests" / "blackdance"
    assert _build(site, environment).returncode == 0
    before = _digests(directory)
    stages = 0
    for strike in range(1, _MOST_CALLS):
        path = _stand_ins(tmp_path / str(strike), strike=strike, action=action)
        done = _build(site, {**environment, "PATH": path, "SOURCE_DATE_EPOCH": "1000000000"}, "--force")
        if _calls(tmp_path / str(strike)) < strike:
            assert done.returncode == 0
            break
        stages += 1
        assert done.returncode in ({-signal.SIGKILL} if action == "kill" else {74}), done.stderr
        assert _digests(directory) == before
        assert set(os.listdir(directory)) - {".lock", ".building"} == _SET
        if action != "kill":
            assert ".building" not in os.listdir(directory)
            assert "something broke" in done.stderr
            assert len(done.stderr.splitlines()) == 1
    assert _build(site, environment, "--force").returncode == 0
    _require_whole(site)
    assert stages >= 4 * len(_PROGRAMS[action])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted("ext4", tmp_path) as point:
        yield point


@needs("ext4")
def test_however_full_the_disk_is_nothing_is_left(environment: dict[str, str], small_disk: Path) -> None:
    site = small_disk / "site"
    site.mkdir()
    directory = site / "guests" / "blackdance"
    codes = []
    for free_bytes in range(0, 16 << 20, 400 << 10):
        filler = fill(small_disk, but_bytes=free_bytes)
        done = _build(site, environment)
        filler.unlink()
        codes.append(done.returncode)
        if done.returncode == 0:
            break
        assert "No space left on device" in done.stderr, (free_bytes, done.stderr)
        with contextlib.suppress(FileNotFoundError):
            assert set(os.listdir(directory)) <= {".lock"}
    assert codes[-1] == 0
    assert set(codes[:-1]) <= {73, 74}
    assert len(codes) > 8
    _require_whole(site)
    shutil.rmtree(site)
