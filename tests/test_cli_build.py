"""`umldisk build` as a program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.peers import needs

pytestmark = needs("mke2fs", "debugfs", "e2fsck", "busybox")


def _umldisk(site: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umldisk", "--site", str(site), "build", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_build_prints_the_boot_command_last(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "blackdance")
    assert (done.returncode, done.stderr) == (0, "")
    directory = f"{tmp_path}/guests/blackdance"
    lines = done.stdout.splitlines()
    assert lines[0] == f"blackdance: 5 disks in {directory}"
    assert lines[-1].startswith("  setarch -R linux ")
    assert f" ubd0={directory}/root_cow,{directory}/root_fs " in lines[-1]
    assert {"root_fs", "swap_fs"} <= set(os.listdir(directory))


def test_the_report_as_json(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "blackdance", "--json", "--dry-run")
    report = json.loads(done.stdout)
    assert report["boot_command"].split() == report["boot_argv"]
    assert [drive["name"] for drive in report["drives"]] == ["root", "var", "home", "tmp", "swap"]
    assert report["dry_run"] is True
    assert os.listdir(tmp_path) == []


def test_a_quiet_build_says_nothing(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "-q", "-n", "blackdance")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_rebuild_tells_where_the_cows_are(tmp_path: Path) -> None:
    assert _umldisk(tmp_path, "-q", "x").returncode == 0
    (tmp_path / "guests/x/root_cow").touch()
    done = _umldisk(tmp_path, "--force", "x")
    assert f"{tmp_path}/guests/x/replaced-1\n" in done.stdout
    assert (tmp_path / "guests/x/replaced-1/root_cow").exists()


@pytest.mark.parametrize("name", ["../x", "", "a b", "-"])
def test_a_bad_name_is_a_usage_error(name: str, tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "--", name)
    assert done.returncode == 2
    assert done.stderr.startswith("umldisk: error: not a name for a guest")
    assert os.listdir(tmp_path) == []


def test_every_refusal_has_its_exit_code(tmp_path: Path) -> None:
    assert _umldisk(tmp_path / "a,b", "x").returncode == 65
    (tmp_path / "guests/x").mkdir(parents=True)
    (tmp_path / "guests/x/var_cow").touch()
    refused = _umldisk(tmp_path, "x")
    assert refused.returncode == 73
    assert refused.stderr.splitlines()[1] == "hint: replace them with --force"
    (tmp_path / "umldisk.toml").write_text("[guest.x]\n")
    assert _umldisk(tmp_path, "--force", "x").returncode == 65
