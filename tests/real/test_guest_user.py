"""Real kernels run by the users that disks were given to: what they may do, and what their locks stop."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.guest import ScriptGuest
from tests.kit.peers import needs
from umldisk.build import publish
from umldisk.build.ownership import Ownership
from umldisk.config.guest import Guest
from umldisk.errors import BusyError
from umldisk.image.drives import Drive, ubd_argument
from umldisk.system.swapping import Standing

pytestmark = needs("linux", "setarch", "root", "mke2fs", "busybox")

_UID, _OTHER_UID, _STRANGER_UID = 61_234, 61_240, 61_250
_DRIVES = (Drive("root", 0, "/", size_bytes=4 << 20), Drive("tmp", 1, "/tmp", size_bytes=4 << 20, copy_on_write=False))
# Other guests are members of the group that bases are given to; here their user's own number stands for it.
_OWNERSHIP = Ownership(
    user="x",
    directory=Standing(0o711, _UID, _UID),
    base=Standing(0o440, _UID, _OTHER_UID),
    writable=Standing(0o600, _UID, _UID),
    manifest=Standing(0o640, _UID, _UID),
    parents_mode=0o711,
    group_is_private=True,
)
_USE = """\
set -e
mount -t ext4 /dev/ubda /mnt
echo changed >/mnt/note
sync
echo in use
read line
umount /mnt
"""


class _UsersGuest(ScriptGuest):
    def __init__(self, script: str, *disks: str, uid: int) -> None:
        super().__init__(script, disks)
        self._uid = uid


@pytest.fixture
def guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as site:
        os.chmod(site, 0o711)
        guest = Guest("x", f"{site}/guests/x", drives=_DRIVES)
        with publish.claimed(guest, _OWNERSHIP):
            _stage(guest)
            publish.publish(guest, _OWNERSHIP)
        yield guest


def _stage(guest: Guest) -> None:
    mke2fs = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert mke2fs is not None
    building = publish.begin(guest)
    for drive in guest.drives:
        path = f"{building}/{drive.file_name}"
        subprocess.run([mke2fs, "-q", "-t", "ext4", path, "4M"], check=True, capture_output=True)


def _disks(guest: Guest) -> list[str]:
    return [ubd_argument(drive, guest.directory).partition("=")[2] for drive in guest.drives]


def _fingerprint(path: str) -> tuple[bytes, int, Standing]:
    status = os.stat(path)
    return Path(path).read_bytes(), status.st_mtime_ns, Standing.of(status)


def test_the_guests_user_runs_it_and_a_rebuild_waits_for_its_end(guest: Guest) -> None:
    base = guest.base_path(_DRIVES[0])
    before = _fingerprint(base)
    with _UsersGuest(_USE, *_disks(guest), uid=_UID) as running:
        running.wait_for("in use")
        with publish.claimed(guest, _OWNERSHIP), pytest.raises(BusyError, match="umid test"), publish.held(guest):
            pass
        running.send("go\n")
        assert running.finish().status == 0
    assert _fingerprint(base) == before
    cow = os.stat(f"{guest.directory}/root_cow")
    assert Standing.of(cow) == Standing(0o600, _UID, _UID)
    with publish.claimed(guest, _OWNERSHIP), publish.held(guest) as holding:
        _stage(guest)
        retired = publish.publish(guest, _OWNERSHIP, holding=holding)
    assert retired is not None
    assert _fingerprint(f"{retired}/root_fs") == before
    again = f"{retired}/root_cow,{retired}/root_fs"
    with _UsersGuest("mount -t ext4 /dev/ubda /mnt && cat /mnt/note", again, uid=_UID) as running:
        assert running.finish().output == "changed\n"


def test_a_disk_held_by_a_build_starts_no_guest(guest: Guest) -> None:
    with publish.held(guest), _UsersGuest("mount -t ext4 /dev/ubda /mnt", *_disks(guest), uid=_UID) as running:
        assert running.finish().status != 0


def test_members_of_the_group_share_a_base_and_others_do_not(guest: Guest) -> None:
    base = guest.base_path(_DRIVES[0])
    before = _fingerprint(base)
    for uid, allowed in ((_OTHER_UID, True), (_STRANGER_UID, False)):
        own = f"{os.path.dirname(guest.directory)}/own-{uid}"
        os.mkdir(own)
        os.chown(own, uid, uid)
        with _UsersGuest(_USE, f"{own}/root_cow,{base}", uid=uid) as running:
            if allowed:
                running.wait_for("in use")
                with pytest.raises(BusyError), publish.held(guest):
                    pass
                running.send("go\n")
            assert (running.finish().status == 0) is allowed
        for closed in (guest.base_path(_DRIVES[1]), guest.directory):
            assert not _readable(closed, uid)
    assert _fingerprint(base) == before


def _readable(path: str, uid: int) -> bool:
    return not subprocess.run(
        ["ls" if os.path.isdir(path) else "cat", path],
        user=uid,
        group=uid,
        extra_groups=[],
        capture_output=True,
        check=False,
    ).returncode
