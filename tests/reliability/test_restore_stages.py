"""A restore that is killed for real: at the calls that move files, and while it waits for a program.

The restoring process counts its own calls and sends itself SIGKILL before the chosen one, with all its threads, locks
and open files. Programs are stood in for by scripts that kill whoever called.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.peers import needs
from tests.kit.put_back import PutBack
from tests.kit.restorable import HOME, ROOT, VAR, Broken, SmallSite
from umldisk.ops.restoring.restore import is_unfinished, restore_guest
from umldisk.system.process import find_program

pytestmark = [needs("mke2fs", "debugfs", "e2fsck"), pytest.mark.slow]

_RESTORE = """
import sys
from tests.kit import restorable
from tests.kit.deadly import die_at
from umldisk.ops.restoring.restore import restore_guest

die_at(int(sys.argv[2]), "rename", "mkdir")
site = getattr(restorable, sys.argv[3])(sys.argv[1])
report = restore_guest(site, "blackdance", clock=restorable.Clock())
print(report.evidence)
"""
_STAND_IN = """\
#!/bin/sh
kill -KILL $PPID
"""
_CHECKOUT = Path(__file__).parents[2]
_MOST_CALLS = 80


def _run(broken: Broken, environment: dict[str, str], kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RESTORE, broken.site.directory, str(kill_at), type(broken.site).__name__],
        env=environment | {"PYTHONPATH": str(_CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )


def _require_ended(broken: Broken, old: dict[str, bytes]) -> None:
    assert broken.seen(VAR) == broken.nights[2]
    assert broken.seen(ROOT) == broken.bases["root"]
    assert broken.seen(HOME) == broken.bases["home"]
    assert not is_unfinished(broken.guest)
    assert broken.names == old.keys()
    # killed while it tidied up, it had done everything, and the second run was one more restore
    kept = broken.evidence[0]
    for name in ("root_cow", "var_cow", "var_fs", "home_cow", "swap_fs"):
        assert (kept / name).read_bytes() == old[name]


def test_killed_at_any_move_the_next_restore_ends_it(tmp_path: Path, bare_environment: dict[str, str]) -> None:
    scene = PutBack(tmp_path)
    broken, old = scene.broken, scene.old
    resumed = set()
    for kill_at in range(1, _MOST_CALLS):
        scene.put_back()
        done = _run(broken, bare_environment, kill_at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if not is_unfinished(broken.guest) and ".restoring" in os.listdir(broken.directory):
            assert scene.present.keys() == old.keys()
        resumed.add(restore_guest(broken.site, broken.name).resumed)
        _require_ended(broken, old)
    assert done.returncode == 0
    assert resumed == {True, False}


@pytest.mark.parametrize("program", ["mke2fs", "debugfs", "e2fsck"])
def test_killed_during_a_program_nothing_has_happened(
    program: str, bare_environment: dict[str, str], tmp_path: Path
) -> None:
    scene = PutBack(tmp_path, SmallSite)
    broken, old = scene.broken, scene.old
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    stand_in.write_text(_STAND_IN)
    stand_in.chmod(0o755)
    assert find_program(program)
    path = f"{stand_in.parent}:{bare_environment['PATH']}"
    done = _run(broken, bare_environment | {"PATH": path})
    assert done.returncode == -signal.SIGKILL
    assert scene.present == old
    assert not os.path.exists(f"{broken.site.directory}/evidence")
    assert not restore_guest(broken.site, broken.name).resumed
    _require_ended(broken, old)
