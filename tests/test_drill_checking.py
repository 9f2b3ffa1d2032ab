"""e2fsck on real images, and the scratch site of a drill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.extimage import debugfs, make_image
from tests.kit.peers import needs
from tests.kit.restorable import SmallSite
from umldisk.errors import NoInputError
from umldisk.image.drives import AtStart
from umldisk.ops.drilling.checking import check_file_system
from umldisk.ops.drilling.fitting import scratch_guest
from umldisk.ops.drilling.scratch import ScratchSite, scratch_directory, sweep
from umldisk.ops.drilling.steps import (
    Outcome,
    passed,
)
from umldisk.system.files import open_disk
from umldisk.system.process import find_program


def e2fsck_says_clean(image: Path) -> bool:
    command = [find_program("e2fsck"), "-f", "-n", str(image)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@needs("mke2fs", "e2fsck")
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_a_clean_file_system_is_only_read(tmp_path: Path, kind: str) -> None:
    image = make_image(tmp_path / "image", "-t", kind)
    before = image.read_bytes()
    assert check_file_system(str(image), str(tmp_path / "copy")) == passed("clean")
    assert image.read_bytes() == before
    assert not (tmp_path / "copy").exists()


@needs("mke2fs", "e2fsck", "debugfs")
def test_a_journal_is_replayed_on_a_copy(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4", "-b", "4096")
    (tmp_path / "block").write_bytes(b"from the journal".ljust(4096, b"."))
    debugfs(image, "journal_open", f"journal_write -b 3000 {tmp_path / 'block'}", "journal_close", writable=True)
    before = image.read_bytes()
    assert "needs_recovery" in debugfs(image, "show_super_stats -h")
    found = check_file_system(str(image), str(tmp_path / "copy"))
    assert found.outcome is Outcome.PASSED
    assert found.what.startswith("clean after the replay of its journal")
    assert image.read_bytes() == before
    with open_disk(tmp_path / "copy") as copy:
        assert copy.read_at(3000 * 4096, 16) == b"from the journal"
    assert e2fsck_says_clean(tmp_path / "copy")


@needs("mke2fs", "e2fsck")
def test_a_damaged_superblock_fails(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4")
    with image.open("r+b") as file:
        file.seek(1024)
        file.write(bytes(1024))
    found = check_file_system(str(image), str(tmp_path / "copy"))
    assert found.outcome is Outcome.FAILED
    assert "superblock" in found.what


@needs("mke2fs", "e2fsck", "debugfs")
def test_damage_that_the_superblock_does_not_show_fails(tmp_path: Path) -> None:
    image = make_image(tmp_path / "image", "-t", "ext4")
    debugfs(image, "clri /lost+found", writable=True)
    assert not e2fsck_says_clean(image)
    found = check_file_system(str(image), str(tmp_path / "copy"))
    assert found.outcome is Outcome.FAILED
    assert found.what.startswith("e2fsck ended with status 4: ")
    assert 0 < len(found.output) <= 5


# -- the scratch site -------------------------------------------------------------------------------------------------


def test_the_scratch_site_goes_away_and_may_be_kept(tmp_path: Path) -> None:
    place = tmp_path / "drill"
    with scratch_directory(str(place), "g", keep=False) as path:
        assert {"guests", "drill.lock"} <= set(os.listdir(path))
        assert os.path.dirname(path) == str(place)
    assert not place.exists()
    with suppress(RuntimeError), scratch_directory(str(place), "g", keep=False) as path:
        raise RuntimeError
    assert not place.exists()
    with scratch_directory(str(place), "g", keep=True) as kept:
        pass
    with scratch_directory(str(place), "g", keep=False):
        assert os.path.exists(kept)
    assert os.listdir(place) == [os.path.basename(kept)]


_DIES = """\
import os, signal, sys
from umldisk.ops.drilling.scratch import scratch_directory
with scratch_directory(sys.argv[1], "g", keep=False) as path:
    open(f"{path}/guests/disk", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_drill_clears_up_after_a_killed_one_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with scratch_directory(str(place), "g", keep=False) as living:
        (place / "x-stranger").mkdir()
        (place / "drill.lock").touch()
        died = subprocess.run([sys.executable, "-c", _DIES, str(place)], check=False)
        assert died.returncode == -signal.SIGKILL
        assert len(os.listdir(place)) == 4
        sweep(str(place))
        assert set(os.listdir(place)) == {os.path.basename(living), "x-stranger", "drill.lock"}


def test_the_guest_of_a_drill_keeps_its_drives_whatever_its_policy(tmp_path: Path) -> None:
    site = SmallSite(str(tmp_path))
    guest = site.guest("g")
    wild = replace(guest, drives=tuple(replace(drive, at_start=AtStart.DISCARD) for drive in guest.drives))
    drilled = scratch_guest(wild, "/elsewhere")
    assert drilled == replace(guest, directory="/elsewhere")
    scratch = ScratchSite(str(tmp_path), drilled)
    assert scratch.guest("g") is drilled
    with pytest.raises(NoInputError):
        scratch.guest("h")
