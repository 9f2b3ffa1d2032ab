"""The disks of `build`, booted by a real kernel, used, shut down, and looked at afterwards."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.as_user import USER_ID, build_as_user
from tests.kit.guest import Guest
from tests.kit.peers import needs
from umldisk.config.guest import boot_argv
from umldisk.config.site import Site
from umldisk.errors import BusyError
from umldisk.image.drives import DRIVES, ROOT, Drive
from umldisk.ops.provision import BuildOptions, BuildReport, build_guest

pytestmark = needs("linux", "setarch", "mke2fs", "debugfs", "e2fsck", "busybox")

_LARGEST_COW_BYTES = 300_000
_LARGEST_SET_BYTES = 8 << 20
_COWS = [drive for drive in DRIVES if drive.copy_on_write]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # The kernel's command line must carry eight paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        yield Site(directory)


@pytest.fixture(scope="module")
def built(site: Site) -> BuildReport:
    return build_guest(site, "blackdance")


@pytest.fixture(scope="module")
def used(built: BuildReport) -> dict[str, str]:
    """Boot the guest, change it, press ctrl-alt-del; return what it said of itself."""
    with Guest(built.boot_argv) as guest:
        seconds = guest.wait_ready()
        sys.stderr.write(f"\nready after {seconds:.2f} s\n")
        said = {
            "hostname": guest.run("hostname"),
            "mounts": guest.run("cat /proc/mounts"),
            "swaps": guest.run("cat /proc/swaps"),
            "modes": guest.run("stat -c '%a %u:%g %n' /tmp /var/tmp /root /etc/shadow /bin/busybox"),
            "owners": guest.run("find / -xdev ! -user root"),
            "login": guest.run("id -u; tty"),
            "loopback": guest.run("ping -c 1 -W 2 blackdance"),
        }
        guest.run("echo kept >/var/log/note && echo mine >/home/note && echo gone >/tmp/note")
        said["busy"] = _refusal(built)
        guest.cad()
        assert guest.wait_exit(timeout=30) == 0
        said["console"] = guest.console
    return said


def _refusal(built: BuildReport) -> str:
    with pytest.raises(BusyError) as refused:
        build_guest(Site(built.site), "blackdance", BuildOptions(force=True))
    return str(refused.value)


def test_the_guest_knows_its_name(used: dict[str, str]) -> None:
    assert used["hostname"] == "blackdance\n"
    assert "1 packets received" in used["loopback"]


def test_every_file_system_is_mounted_writable(used: dict[str, str]) -> None:
    mounts = {fields[1]: fields for line in used["mounts"].splitlines() if (fields := line.split())}
    for drive in DRIVES:
        if drive.mount_point:
            device, _, kind, options = mounts[drive.mount_point][:4]
            assert device == drive.device or drive.mount_point == "/"
            assert kind == "ext4"
            assert options.startswith("rw,")


def test_swap_is_in_use(used: dict[str, str]) -> None:
    _, row = used["swaps"].splitlines()
    device, kind, kibibytes = row.split()[:3]
    assert (device, kind, int(kibibytes)) == ("/dev/ubde", "partition", 256 * 1024 - 4)


def test_modes_and_owners_are_right(used: dict[str, str]) -> None:
    assert used["modes"].splitlines() == [
        "1777 0:0 /tmp",
        "1777 0:0 /var/tmp",
        "700 0:0 /root",
        "640 0:42 /etc/shadow",
        "755 0:0 /bin/busybox",
    ]
    assert used["owners"] == ""


def test_the_console_is_logged_in(used: dict[str, str]) -> None:
    assert used["login"].split() == ["0", "/dev/tty0"]


def test_a_running_guest_is_not_rebuilt(used: dict[str, str], built: BuildReport) -> None:
    assert "the disk is in use by PID" in used["busy"]
    assert "umid blackdance" in used["busy"]
    assert not (Path(built.directory) / ".complete").exists()


def test_nothing_failed_on_the_way_up_or_down(used: dict[str, str]) -> None:
    console = used["console"]
    for complaint in ("not found", "No such file", "failed:", "can't ", "EXT4-fs error", "recovery"):
        assert complaint not in console
    assert console.count("unmounting filesystem") == 3
    assert "System halted" in console


@pytest.mark.parametrize("drive", _COWS, ids=lambda drive: drive.name)
def test_a_cow_stays_small(drive: Drive, used: dict[str, str], built: BuildReport) -> None:
    allocated = os.stat(Path(built.directory) / f"{drive.name}_cow").st_blocks * 512
    sys.stderr.write(f"\n{drive.name}_cow: {allocated} bytes\n")
    assert 0 < allocated < _LARGEST_COW_BYTES


def test_the_disks_are_sparse(built: BuildReport) -> None:
    allocated = sum(drive.allocated_bytes or 0 for drive in built.drives)
    assert 0 < allocated < _LARGEST_SET_BYTES


@needs("uml_moo")
@pytest.mark.parametrize(
    ("name", "file", "contents"),
    [
        ("root", "/etc/hostname", b"blackdance\n"),
        ("var", "/log/note", b"kept\n"),
        ("home", "/note", b"mine\n"),
    ],
)
def test_what_the_guest_left_is_whole(
    name: str,
    file: str,
    contents: bytes,
    used: dict[str, str],
    built: BuildReport,
    tmp_path: Path,
) -> None:
    merged = tmp_path / "merged"
    _tool("uml_moo", str(Path(built.directory) / f"{name}_cow"), str(merged))
    _tool("e2fsck", "-f", "-n", str(merged))
    assert _tool("debugfs", "-R", f"cat {file}", str(merged)) == contents


def test_the_tmp_disk_is_whole(used: dict[str, str], built: BuildReport) -> None:
    disk = str(Path(built.directory) / "tmp_fs")
    _tool("e2fsck", "-f", "-n", disk)
    assert _tool("debugfs", "-R", "cat /note", disk) == b"gone\n"


def _tool(*command: str) -> bytes:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = shutil.which(command[0], path=path)
    assert found is not None
    return subprocess.run([found, *command[1:]], check=True, capture_output=True).stdout


@needs("root", "setpriv")
def test_an_ordinary_user_builds_the_same_guest(bare_environment: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        os.chown(directory, USER_ID, USER_ID)
        site = Site(f"{directory}/site")
        build_as_user(site.directory, "mirage", bare_environment)
        guest = site.guest("mirage")
        assert os.stat(guest.base_path(ROOT)).st_uid == USER_ID
        with Guest(boot_argv(guest), uid=USER_ID) as running:
            running.wait_ready()
            assert running.run("find / /var /home /tmp -xdev ! -user root") == ""
            modes = running.run("stat -c %a /tmp /var /home /root")
            assert modes.split() == ["1777", "755", "755", "700"]
            running.cad()
            assert running.wait_exit(timeout=30) == 0
