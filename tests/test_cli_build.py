"""`umldisk build` as a program."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.peers import needs

pytestmark = needs("mke2fs", "debugfs", "e2fsck", "busybox")


def _umldisk(
    site: Path | str, *words: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umldisk", "--site", str(site), "build", *words]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=variables)


def test_a_build_says_how_to_go_on(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "blackdance")
    assert (done.returncode, done.stderr) == (0, "")
    directory = f"{tmp_path}/guests/blackdance"
    lines = done.stdout.splitlines()
    assert lines[0] == f"blackdance: 5 disks in {directory}"
    assert lines[-2:] == ["start it with:", "  umldisk start blackdance"]
    assert {"root_fs", "swap_fs"} <= set(os.listdir(directory))


def test_the_report_as_json(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "blackdance", "--json", "--dry-run")
    report = json.loads(done.stdout)
    assert report["boot_command"].split() == report["boot_argv"]
    assert report["boot_command"].startswith("setarch -R linux ")
    directory = f"{tmp_path}/guests/blackdance"
    assert f"ubd0={directory}/root_cow,{directory}/root_fs" in report["boot_argv"]
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
    (tmp_path / "umldisk.toml").write_text("[guest.x]\nbse = 1\n")
    assert _umldisk(tmp_path, "--force", "x").returncode == 65


def test_checking_tells_as_built_from_not_as_built(tmp_path: Path) -> None:
    assert _umldisk(tmp_path, "--check", "x").returncode == 66
    assert _umldisk(tmp_path, "-q", "x").returncode == 0
    done = _umldisk(tmp_path, "--check", "x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "x: the disks are as built"
    with (tmp_path / "guests/x/home_fs").open("r+b") as disk:
        disk.seek(800 << 20)
        disk.write(b"x")
    done = _umldisk(tmp_path, "--check", "--json", "x")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    states = {drive["name"]: drive["state"].partition(":")[0] for drive in report["drives"]}
    assert (report["same"], states["home"], states["root"]) == (False, "touched", "as built")


@pytest.mark.parametrize("option", ["--base=x", "--force", "--dry-run", "--verify-reproducible", "--refresh"])
def test_a_check_takes_no_option_of_a_build(option: str, tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "--check", option, "x")
    assert done.returncode == 2
    assert done.stderr == f"umldisk: error: --check builds nothing and takes no {option.partition('=')[0]}\n"


def test_a_verified_build_says_so(tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "--verify-reproducible", "x")
    assert done.returncode == 0
    assert "a second build gave the same bytes\n" in done.stdout
    assert _umldisk(tmp_path, "--verify-reproducible", "--base", "-", "y").returncode == 2


def test_a_base_is_seen_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "tree/etc").mkdir(parents=True)
    (tmp_path / "tree/etc/motd").write_text("hello")
    done = _umldisk(tmp_path / "site", "--base", "tree", "--json", "x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["base"] == f"{tmp_path}/tree"
    assert _umldisk(tmp_path / "site", "--base", "", "y").returncode == 2
    assert _umldisk(tmp_path / "site", "--base", "missing", "y", cwd=tmp_path).returncode == 66


@pytest.mark.parametrize(("epoch", "code"), [("1000000000", 0), ("", 0), ("now", 2), ("-1", 2), ("9" * 20, 2)])
def test_the_epoch_is_a_number_of_seconds(epoch: str, code: int, tmp_path: Path) -> None:
    done = _umldisk(tmp_path, "--json", "x", SOURCE_DATE_EPOCH=epoch)
    assert done.returncode == code
    if code == 0:
        time_ns = json.loads((tmp_path / "guests/x/manifest.json").read_text())["time"]
        assert (time_ns == 10**18) is (epoch == "1000000000")


def test_a_base_that_does_not_fit_names_a_size_that_does(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text('[guest.x.drives.var]\nsize = "16M"\n')
    (tmp_path / "tree/var").mkdir(parents=True)
    (tmp_path / "tree/var/large").write_bytes(b"x" * (30 << 20))
    refused = _umldisk(tmp_path, "--base", str(tmp_path / "tree"), "x")
    assert refused.returncode == 65
    assert "does not fit on the var drive" in refused.stderr
    hint = re.fullmatch(r"hint: set (size = .*) in (\[.*\]) of umldisk\.toml", refused.stderr.splitlines()[1])
    assert hint is not None
    (tmp_path / "umldisk.toml").write_text(f"{hint[2]}\n{hint[1]}\n")
    assert _umldisk(tmp_path, "--base", str(tmp_path / "tree"), "x").returncode == 0
