"""Commands killed at every system call with which they change something, in processes of their own.

strace counts a command's calls once, in a run that is let through. Then there is a run for each of them, killed as it
is about to make that call. Where that leaves half a write is the matter of test_faults.py.
"""

import signal
from pathlib import Path

import pytest

from tests.kit.faults import injection, own_cache, umldisk
from tests.kit.peers import needs
from tests.reliability.scenes import SCENES, Scene, fingerprints

pytestmark = [needs("strace"), pytest.mark.slow]

KILLED = {-signal.SIGKILL, 128 + signal.SIGKILL}
"""strace dies of the signal that its child died of, or says so as a shell does."""

# What it does that the others do not is covered by killing inside the process, which is quicker.
KILLED_SCENES = [scene for scene in SCENES if scene.name != "merge-keep-reset"]


@pytest.mark.parametrize("scene", KILLED_SCENES, ids=lambda scene: scene.name)
def test_killed_anywhere_nothing_is_lost_and_the_same_command_completes(
    scene: Scene, tmp_path: Path, bare_environment: dict[str, str]
) -> None:
    directory = tmp_path / "scene"
    environment = own_cache(bare_environment, tmp_path / "compiled")
    calls = scene.calls(directory, environment)
    assert {call.name for call in calls} >= {"fsync", "pwrite64"}
    for call in calls:
        scene.prepare_again(directory)
        before = fingerprints(directory)
        prefix = injection(call, "signal=SIGKILL")
        done = umldisk(*scene.command(directory), environment=environment, prefix=prefix)
        assert done.returncode in KILLED, f"{call} was not reached: {done.stderr}"
        try:
            scene.check_between(directory, before)
            scene.run_again(directory)
        except AssertionError as error:
            error.add_note(f"killed before {call}")
            raise
