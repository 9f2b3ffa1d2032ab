"""A real guest whose drives are kept, discarded, rebuilt and reset: what it finds again at the next boot."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kit.guest import Guest
from tests.kit.peers import needs
from umldisk.config.guest import Guest as GuestConfig
from umldisk.config.guest import boot_argv
from umldisk.config.site import Site
from umldisk.guest.state import RunDisk
from umldisk.image.drives import AtStart
from umldisk.ops.provision import build_guest
from umldisk.ops.running.drives_at_start import apply_policies
from umldisk.ops.running.reset import reset_guest

pytestmark = [needs("linux", "setarch", "mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

_NOTES = ("/root/note", "/var/note", "/home/note", "/tmp/note")


@pytest.fixture
def site() -> Iterator[Site]:
    # The kernel's command line must carry the paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        yield Site(directory)


def _argv(guest: GuestConfig, disks: Sequence[RunDisk]) -> list[str]:
    words = [word for word in boot_argv(guest) if not word.startswith("ubd")]
    return words + [
        f"ubd{disk.ubd}=" + ",".join([disk.path, disk.backing] if disk.backing else [disk.path]) for disk in disks
    ]


def _boot(site: Site, guest: GuestConfig, word: str, *discard: str) -> set[str]:
    """Boot the guest, let it note a word on all its drives, stop it; return which notes were there before."""
    disks = apply_policies(site, guest, discard=discard)
    with Guest(_argv(guest, disks)) as running:
        running.wait_ready()
        found = {note for note in _NOTES if "there" in running.run(f"test -e {note} && echo there; true")}
        running.run(f"for note in {' '.join(_NOTES)}; do echo {word} >>$note; done")
        assert running.run("wc -l </proc/swaps").strip() == "2"
        running.cad()
        assert running.wait_exit() == 0
    return found


def _contents(guest: GuestConfig) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(guest.directory).glob("*_cow")}


def test_what_a_guest_finds_again(site: Site) -> None:
    build_guest(site, "blackdance")
    guest = site.guest("blackdance")
    assert _boot(site, guest, "first") == set()
    first = _contents(guest)

    # nothing of a discarded run stays, though the guest saw all and wrote everywhere
    assert _boot(site, guest, "second", "root", "var", "home", "tmp", "swap") == set(_NOTES)
    assert _contents(guest) == first

    reset_guest(site, "blackdance")
    assert _boot(site, guest, "third") == {"/var/note"}
    (kept,) = Path(site.directory, "evidence").iterdir()
    assert {name: (kept / name).read_bytes() for name in ("root_cow", "home_cow")} == {
        name: first[name] for name in ("root_cow", "home_cow")
    }

    policies = {"root": AtStart.REBUILD, "home": AtStart.DISCARD, "tmp": AtStart.DISCARD}
    drives = tuple(replace(drive, at_start=policies.get(drive.name, AtStart.KEEP)) for drive in guest.drives)
    chosen = replace(guest, drives=drives)
    for _start in range(2):
        assert _boot(site, chosen, "fourth") == {"/var/note", "/home/note", "/tmp/note"}
    assert not os.path.lexists(f"{guest.directory}/.starting")
