"""`umldisk who` about the disks of real guests: as the kernel opens them, and lets them be renamed under it."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.command_line import CommandLine
from tests.kit.guest import ScriptGuest
from tests.kit.peers import needs
from umldisk.cow import create
from umldisk.ops.running.who import Hold, How, who_has

pytestmark = needs("linux", "setarch", "busybox")

_SCRIPT = """
echo waiting-to-open
read line
exec 3</dev/ubda
exec 4<>/dev/ubdb
dd if=/dev/ubda of=/dev/null bs=4k count=1
echo waiting-to-close
read line
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="umldisk-", dir="/tmp") as name:
        yield Path(name)


def one_hold(path: Path) -> Hold:
    (file,) = who_has([str(path)]).files
    (hold,) = file.holds
    return hold


def test_a_guest_is_followed_from_its_start_to_its_end(directory: Path) -> None:
    base, cow, plain = (directory / name for name in ("base", "cow", "plain"))
    for image in (base, plain):
        image.touch()
        os.truncate(image, 8 << 20)
    create(cow, base)
    with ScriptGuest(_SCRIPT, [f"{cow},{base}", plain]) as guest:
        guest.wait_for("waiting-to-open")
        for path in (base, cow, plain):
            hold = one_hold(path)
            assert (hold.umid, hold.pid, hold.how) == (guest.umid, guest.pid, (How.NAMED,))
        guest.send("\n")
        guest.wait_for("waiting-to-close")
        assert one_hold(base).how == (How.LOCKED_FOR_READING, How.OPEN_FOR_READING)
        assert one_hold(base).cow_files == (str(cow),)
        assert one_hold(cow).how == one_hold(plain).how == (How.LOCKED_FOR_WRITING, How.OPEN_FOR_WRITING)
        assert len(one_hold(cow).pids) > 1  # UML's other processes have it, too
        assert {guest.pid} == {hold.pid for hold in map(one_hold, (base, cow, plain))}
        said = CommandLine(directory)("who", base)
        assert said.code == 1
        assert said.lines[1].startswith(f"  a guest with umid {guest.umid} (PID {guest.pid}) ")

        moved = plain.rename(directory / "moved")
        assert one_hold(plain).how == (How.NAMED,)
        assert one_hold(moved).how == (How.LOCKED_FOR_WRITING, How.OPEN_FOR_WRITING)
        cow.unlink()
        assert (one_hold(cow).former, one_hold(cow).pid) == (True, guest.pid)
        guest.send("\n")
        guest.wait_exit()
    assert not who_has([str(base), str(moved)]).is_any_held
