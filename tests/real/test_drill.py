"""Drills of real guests: what comes back passes, and what would not is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.bases import debian_base
from tests.kit.extimage import debugfs
from tests.kit.peers import needs
from tests.kit.sites import NAME, SMALL, WAIT_SECONDS, BuiltSite, until
from tests.kit.user_environment import ordinary_user
from umldisk.build.manifest import FILE_NAME
from umldisk.config.settings import Init
from umldisk.guest.state import read_state
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import open_disk

pytestmark = [
    needs("linux", "setarch", "bwrap", "mke2fs", "debugfs", "e2fsck", "busybox"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

_PROBE = 'probe = "grep -q . /var/word && test ! -e /var/rotten && echo all is well"\n'
_GUEST = f"[guest.{NAME}]\n"


@pytest.fixture
def site() -> Iterator[BuiltSite]:
    # The kernel's command line must carry all the paths: pytest's own directory would be long.
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        made = BuiltSite(Path(directory))
        try:
            yield made
        finally:
            made.end()
            for scratch in made.directory.glob("drill/*"):
                BuiltSite(scratch).end()


def alter(site: BuiltSite, drive: str, *commands: str, files: dict[str, str] | None = None) -> None:
    """Change a drive's base as if it had been built so: by debugfs, and `files` as programs with these texts."""
    image = site.guest / f"{drive}_fs"
    script = list(commands)
    for place, text in (files or {}).items():
        source = site.directory / place.replace("/", "_")
        source.write_text(text)
        script += [f"rm {place}", f"write {source} {place}", f"set_inode_field {place} mode 0100755"]
    debugfs(image, *script, writable=True)
    with open_disk(image) as disk:
        digest = sparse_sha256(disk)
    path = site.guest / FILE_NAME
    rows = json.loads(path.read_text())
    next(row for row in rows["drives"] if row["name"] == drive)["digest"] = digest
    path.write_text(json.dumps(rows))


def take(site: BuiltSite) -> None:
    site.good("checkpoint", "take", "-q", NAME)


def drill(site: BuiltSite, *words: str, code: int = 0) -> Any:
    """Drill the guest, and return the report; nothing is left of the drill's site."""
    said = site("drill", "--json", NAME, *words)
    assert said.code == code, said
    assert not (site.directory / "drill").exists()
    return said.json


def outcomes(report: Any) -> dict[str, str]:
    """Return what came of each step, those of drives by their name too."""
    return {" ".join(filter(None, (one["step"], one["drive"]))): one["outcome"] for one in report["steps"]}


def failed(report: Any) -> dict[str, str]:
    """Return what the failed steps found."""
    wrong = [one for one in report["steps"] if one["outcome"] == "failed"]
    return {" ".join(filter(None, (one["step"], one["drive"]))): one["what"] for one in wrong}


def last_record(site: BuiltSite) -> str:
    """Return the kind and the words of the last record about the newest checkpoint."""
    later = site.good("checkpoint", "show", "--json", NAME, "latest").json["later"]
    return f"{later[-1]['kind']} {later[-1]['detail']}"


def digests(site: BuiltSite) -> dict[str, str]:
    files = (path for path in site.guest.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


_EVERY_STEP = [
    *("check root", "check var", "check home", "boot", "ready", "mounts", "probe", "units", "power off"),
    *("check afterwards root", "check afterwards var", "check afterwards home"),
]


def test_a_guest_that_runs_is_drilled_beside_itself(site: BuiltSite) -> None:
    site.build(f"{SMALL}{_GUEST}{_PROBE}")
    site.good("start", "-q", NAME)
    site.good("wait", "-q", NAME)
    site.shell("echo kept >/var/word; sync")
    take(site)
    site.shell("touch /var/rotten; sync")
    bases = {name: digest for name, digest in digests(site).items() if name in ("root_fs", "var_fs", "home_fs")}
    state = site.state()
    report = drill(site)
    assert report["passed"] is True
    found = outcomes(report)
    assert list(found) == _EVERY_STEP
    assert {step for step, outcome in found.items() if outcome != "passed"} == {"units"}
    var = next(one for one in report["steps"] if (one["step"], one["drive"]) == ("check", "var"))
    assert var["what"].startswith("clean after the replay of its journal")
    assert re.fullmatch(r"drill ready in \d+\.\d s, probed", last_record(site))
    assert site.state() == state
    assert state.is_alive()
    assert site.shell("ls /var/rotten; cat /var/word").split() == ["/var/rotten", "kept"]
    assert {name: digest for name, digest in digests(site).items() if name in bases} == bases
    take(site)
    report = drill(site, code=1)
    assert list(failed(report)) == ["probe"]
    assert failed(report)["probe"].startswith("exit status 1 of grep")
    assert drill(site, "1")["passed"] is True
    site.good("stop", "-q", NAME)


def test_a_damaged_superblock_is_found_before_the_boot(site: BuiltSite) -> None:
    site.build(SMALL)
    with open_disk(site.guest / "var_fs", writable=True) as disk:
        disk.write_at(1024, bytes(1024))
    take(site)
    report = drill(site, code=1)
    assert outcomes(report) == {"check root": "passed", "check var": "failed", "check home": "passed"}
    assert "superblock" in report["failure"]
    assert report["failure"].startswith("check: var: ")
    assert last_record(site).startswith("drill not booted: check: var: ")


def test_disks_of_a_drill_can_be_kept_and_made_elsewhere(site: BuiltSite) -> None:
    site.build(SMALL)
    take(site)
    metrics, place = site.directory / "drill.prom", site.directory / "elsewhere"
    said = site.good("drill", "--json", "--keep", "--scratch", place, "--metrics", metrics, NAME)
    (kept,) = place.iterdir()
    assert said.json["scratch"] == str(kept)
    assert {"root_cow", "var_fs", "var_cow", "tmp_fs"} <= set(os.listdir(kept / "guests" / NAME))
    assert "umldisk: blackdance is ready" in (kept / "run" / NAME / "console.log").read_text()
    assert 'umldisk_drill_success{guest="blackdance"} 1.0\n' in metrics.read_text()
    assert site("drill", "--at", "2026-11-20", NAME, "1").code == 2


def test_a_missing_program_is_quoted_from_the_console(site: BuiltSite) -> None:
    site.build(SMALL)
    alter(site, "root", "rm /bin/busybox")
    take(site)
    report = drill(site, code=1)
    (wrong,) = [one for one in report["steps"] if one["outcome"] == "failed"]
    assert wrong["step"] in ("boot", "ready")
    assert "Kernel panic" in " ".join((wrong["what"], *wrong["output"]))
    assert report["ready_seconds"] is None
    assert last_record(site).startswith(f"drill not ready: {wrong['step']}: ")


def test_a_guest_that_never_becomes_ready(site: BuiltSite) -> None:
    site.build(SMALL)
    alter(site, "root", files={"/etc/init.d/rcS": "#!/bin/sh\necho 'cannot find the way'\n"})
    take(site)
    report = drill(site, "--timeout", "3", code=1)
    assert list(failed(report)) == ["ready"]
    assert "the guest is not ready after 3 s" in report["failure"]
    assert "cannot find the way" in " ".join(report["steps"][-1]["output"])


def test_everything_that_is_wrong_with_a_running_guest_is_told(site: BuiltSite) -> None:
    site.build(f'{SMALL}{_GUEST}probe = "exec /usr/bin/is-not-there"\n')
    start = (site.guest / "root_fs", "/etc/inittab", "/etc/fstab")
    inittab, fstab = (debugfs(start[0], f"cat {name}").partition("\n")[2] for name in start[1:])
    alter(
        site,
        "root",
        files={
            "/etc/inittab": inittab.replace("ctrlaltdel:/sbin/poweroff", "ctrlaltdel:/sbin/poweroff -f"),
            "/etc/fstab": "".join(line for line in fstab.splitlines(keepends=True) if " /home " not in line),
        },
    )
    take(site)
    wrong = failed(drill(site, code=1))
    assert list(wrong) == ["mounts", "probe", "power off"]
    assert wrong["mounts"] == "home: /dev/ubdc is not mounted on /home"
    assert "exit status 127 of exec /usr/bin/is-not-there" in wrong["probe"]
    assert "not found" in wrong["probe"]
    assert re.search(r"an unclean shutdown: .*not unmounted: .*var", wrong["power off"])


@pytest.mark.parametrize("probe", ["", _PROBE], ids=["without a probe", "with a probe"])
def test_a_guest_without_an_agent_cannot_be_probed(site: BuiltSite, probe: str) -> None:
    site.build(f"{SMALL}{_GUEST}{probe}agent = false\n")
    take(site)
    report = drill(site, code=1 if probe else 0)
    assert outcomes(report)["mounts"] == "skipped"
    expected = {"probe": "the probe cannot run: umldisk.toml says agent = false"} if probe else {}
    assert failed(report) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_is_ended_leaves_no_guest_and_no_site(site: BuiltSite, number: signal.Signals) -> None:
    site.build(f'{SMALL}{_GUEST}probe = "sleep 600"\n')
    take(site)
    command = [sys.executable, "-m", "umldisk", "--site", str(site.directory), "drill", "--timeout", "600", NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        runs = f"drill/*/run/{NAME}"
        until(lambda: process.poll() is not None or list(site.directory.glob(f"{runs}/ready")))
        (run,) = site.directory.glob(runs)
        state = read_state(str(run))
        assert state is not None
        process.send_signal(number)
        output, _nothing = process.communicate(timeout=WAIT_SECONDS)
    expected = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[number], output
    if number is signal.SIGKILL:
        assert state.is_alive()
        (site.directory / "umldisk.toml").write_text(SMALL)
        assert drill(site)["passed"] is True
    assert not state.is_alive()
    assert not (site.directory / "drill").exists()
    assert not os.path.exists(state.socket_directory)


@needs(*(("root", "useradd", "userdel", "groupdel", "setpriv", "unshare") if os.geteuid() == 0 else ()))
def test_an_ordinary_user_can_drill() -> None:
    with ordinary_user(data_home="d") as site:
        site.user.write(site.directory / "umldisk.toml", f'{SMALL}{_GUEST}probe = "id -u | grep -qx 0"\n')
        site.good("build", "-q", NAME)
        take(site)
        assert outcomes(drill(site))["probe"] == "passed"


@needs("mmdebstrap")
def test_a_failed_unit_and_a_missing_library_of_a_debian_are_named(site: BuiltSite) -> None:
    text = f'{_GUEST}memory = "128M"\nmodules = false\nprobe = "systemctl is-active systemd-journald"\n'
    site.build(text, "--base", str(debian_base(Init.SYSTEMD)))
    take(site)
    unit = "[Service]\nType=oneshot\nExecStart=/bin/false\n"
    wants = "/etc/systemd/system/multi-user.target.wants"
    alter(
        site,
        "root",
        f"symlink {wants}/broken.service /etc/systemd/system/broken.service",
        files={"/etc/systemd/system/broken.service": unit},
    )
    report = drill(site, code=1)
    assert failed(report) == {"units": "failed: broken.service"}
    assert outcomes(report)["probe"] == "passed"
    assert last_record(site).endswith(", probed: units: failed: broken.service")
    alter(site, "root", "rm /usr/lib/x86_64-linux-gnu/libcap.so.2")
    report = drill(site, code=1)
    (wrong,) = [one for one in report["steps"] if one["outcome"] == "failed"]
    assert wrong["step"] in ("boot", "ready")
    assert "/sbin/init: error while loading shared libraries: libcap.so.2: " in wrong["what"]
    assert "libcap.so.2" in last_record(site)
