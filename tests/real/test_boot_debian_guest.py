"""A real Debian, built as root and as an ordinary user, booted with all five disks in use, and shut down cleanly."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.as_user import USER_ID, build_as_user
from tests.kit.bases import debian_base
from tests.kit.guest import Guest
from tests.kit.peers import needs
from umldisk.config.settings import Init
from umldisk.config.site import Site
from umldisk.image.drives import DRIVES
from umldisk.ops.check_build import check_build
from umldisk.ops.provision import BuildOptions, BuildReport, build_guest

pytestmark = [
    needs("linux", "setarch", "mke2fs", "debugfs", "e2fsck", "mmdebstrap"),
    pytest.mark.guest,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

_BOOT_SECONDS = 120.0
_DISKS = [drive.file_name for drive in DRIVES]
_TOML = """\
[guest.blackdance]
memory = "128M"
modules = ["tun"]
"""


@dataclass(frozen=True)
class _Used:
    """What a guest said of itself while it ran."""

    init: Init
    report: BuildReport
    said: dict[str, str]
    console: str


@pytest.fixture(scope="module", params=[Init.SYSVINIT, Init.SYSTEMD], ids=lambda init: init.value)
def used(request: pytest.FixtureRequest) -> Iterator[_Used]:
    init: Init = request.param
    base = str(debian_base(init))
    # The kernel's command line must carry eight paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        (Path(directory) / "umldisk.toml").write_text(_TOML)
        report = build_guest(Site(directory), "blackdance", BuildOptions(base=base))
        yield _Used(init, report, *_use(report))


def _use(report: BuildReport) -> tuple[dict[str, str], str]:
    with Guest(report.boot_argv) as guest:
        seconds = guest.wait_ready(timeout=_BOOT_SECONDS)
        sys.stderr.write(f"\n{report.base}: ready after {seconds:.2f} s\n")
        guest.send("\n")
        said = {
            "id": guest.run("id"),
            "hostname": guest.run("hostname"),
            "mounts": guest.run("findmnt --noheadings --raw --output TARGET,SOURCE,FSTYPE,OPTIONS --types ext4"),
            "swaps": guest.run("cat /proc/swaps"),
            "dpkg": guest.run("dpkg --verify; true", timeout=120),
            "modes": guest.run("stat -c '%a %U:%G %n' /tmp /var/tmp /root /etc/shadow /bin/su"),
            "module": guest.run("modprobe tun && grep -c '^tun ' /proc/modules"),
            "failed": guest.run("if [ -d /run/systemd/system ]; then systemctl --failed --no-legend; fi"),
            "machine-id": guest.run("cat /etc/machine-id 2>/dev/null || true"),
        }
        guest.run("echo kept >/var/log/note; echo mine >/home/note; echo gone >/tmp/note")
        guest.cad()
        assert guest.wait_exit(timeout=_BOOT_SECONDS) == 0
        return said, guest.console


def test_root_is_logged_in_on_the_console(used: _Used) -> None:
    assert used.said["id"].startswith("uid=0(root) gid=0(root)")


def test_the_guest_knows_its_name(used: _Used) -> None:
    assert used.said["hostname"] == "blackdance\n"


def test_every_file_system_is_mounted_writable(used: _Used) -> None:
    mounts = {fields[0]: fields for line in used.said["mounts"].splitlines() if (fields := line.split())}
    for drive in DRIVES:
        if drive.mount_point:
            _target, device, _kind, options = mounts[drive.mount_point]
            assert device in (drive.device, "/dev/root")
            assert options.startswith("rw,")


def test_swap_is_in_use(used: _Used) -> None:
    device, kind, kibibytes = used.said["swaps"].splitlines()[1].split()[:3]
    assert (device, kind, int(kibibytes)) == ("/dev/ubde", "partition", 256 * 1024 - 4)


def test_packages_are_as_installed(used: _Used) -> None:
    """What dpkg finds changed are files that make the base a guest, and documentation that was left out."""
    changed = [line for line in used.said["dpkg"].splitlines() if not line.startswith("missing")]
    unexpected = [line for line in changed if not re.search(r" c /etc/", line)]
    assert unexpected == []


def test_modes_and_owners_are_right(used: _Used) -> None:
    assert used.said["modes"].splitlines() == [
        "1777 root:root /tmp",
        "1777 root:root /var/tmp",
        "700 root:root /root",
        "640 root:shadow /etc/shadow",
        "4755 root:root /bin/su",
    ]


def test_a_module_of_the_kernel_can_be_loaded(used: _Used) -> None:
    assert used.said["module"].splitlines()[-1] == "1"


def test_no_service_failed(used: _Used) -> None:
    assert used.said["failed"] == ""
    assert "[FAILED]" not in used.console
    assert "dependency failed" not in used.console.lower()


def test_it_is_ready_once_and_goes_down_when_asked(used: _Used) -> None:
    assert used.console.count("umldisk: blackdance is ready") == 1
    assert re.search(r"reboot: (System halted|Power down)", used.console)


def test_nothing_is_left_unclean(used: _Used, tmp_path: Path) -> None:
    directory = Path(used.report.directory)
    for name in ("root", "var", "home"):
        merged = tmp_path / name
        _tool(sys.executable, "-m", "umldisk", "merge", "--no-sync", str(directory / f"{name}_cow"), str(merged))
        _tool("e2fsck", "-f", "-n", str(merged))
    _tool("e2fsck", "-f", "-n", str(directory / "tmp_fs"))
    assert _tool("debugfs", "-R", "cat /log/note", str(tmp_path / "var")) == b"kept\n"
    assert _tool("debugfs", "-R", "cat /note", str(directory / "tmp_fs")) == b"gone\n"


def test_the_bases_under_the_cow_files_did_not_change(used: _Used) -> None:
    assert check_build(Site(used.report.site), "blackdance").changes == ()
    assert check_build(Site(used.report.site), "blackdance").same


@needs("root", "setpriv")
@pytest.mark.parametrize("init", list(Init), ids=lambda init: init.value)
def test_an_ordinary_user_gets_the_same_bytes(init: Init, bare_environment: dict[str, str]) -> None:
    base = debian_base(init)
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        shutil.copyfile(base, f"{directory}/base.tar")
        os.chmod(directory, 0o755)
        os.chmod(f"{directory}/base.tar", 0o644)
        for site in ("roots", "users"):
            os.mkdir(f"{directory}/{site}")
            Path(directory, site, "umldisk.toml").write_text(_TOML)
        os.chown(f"{directory}/users", USER_ID, USER_ID)
        options = {"base": f"{directory}/base.tar"}
        report = build_guest(Site(f"{directory}/roots"), "blackdance", BuildOptions(**options))
        build_as_user(f"{directory}/users", "blackdance", bare_environment, options=json.dumps(options), umask="077")
        for name in [*_DISKS, "manifest.json"]:
            _tool("cmp", f"{report.directory}/{name}", f"{directory}/users/guests/blackdance/{name}")
        assert os.stat(f"{directory}/users/guests/blackdance/root_fs").st_uid == USER_ID


def _tool(*command: str) -> bytes:
    found = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None
    return subprocess.run([found, *command[1:]], check=True, capture_output=True).stdout
