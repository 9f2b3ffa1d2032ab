"""The wheel as a user gets it, and the set-up script as a user of the checkout starts it."""

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import umldisk
from tests.kit.peers import needs

ROOT = Path(__file__).parents[1]
COMMANDS = ["umldisk", "umldisk-moo", "umldisk-mkcow"]


def run(
    *command: str | Path, cwd: Path | str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without standard input; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, cwd=ROOT)
    (built,) = directory.glob("*.whl")
    return built


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "umldisk").rglob("*")
        if path.is_file() and not re.search(r"/(__pycache__|\.[^/]+)/", str(path.relative_to(ROOT)))
    }
    assert packed == sources
    assert "umldisk/py.typed" in packed


def test_wheel_says_what_it_is(wheel: Path) -> None:
    facts = metadata(wheel)
    required = [line for line in facts.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert facts["Version"] == umldisk.__version__
    assert facts["License-Expression"] == "Apache-2.0"
    assert facts["Requires-Python"] == ">=3.11"
    assert sorted(line.partition(">")[0] for line in required) == ["click", "construct", "tqdm", "zstandard"]


@pytest.mark.slow
@needs("package-index")
def test_wheel_installs_alone_and_runs(wheel: Path, tmp_path: Path, bare_environment: dict[str, str]) -> None:
    scratch = tmp_path / "venv"
    run(sys.executable, "-m", "venv", scratch)
    run(scratch / "bin/python", "-m", "pip", "install", "--quiet", wheel)
    done = run(scratch / "bin/umldisk", "--version", cwd=tmp_path, env=bare_environment)
    assert umldisk.__version__ in done.stdout
    for command in COMMANDS:
        assert (scratch / "bin" / command).exists()
    imports = "import umldisk.cli.moo, umldisk.cli.mkcow"
    run(scratch / "bin/python", "-c", imports, cwd=tmp_path, env=bare_environment)


# The launcher. A checkout is made up whose environment is already there: what it installs is a
# script that tells how it was started.

REPORTER = '#!/bin/sh\nprintf "%s|" "$PWD" "$@"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    made = tmp_path / "a checkout"
    shutil.copytree(ROOT / "scripts", made / "scripts")
    shutil.copy(ROOT / "pyproject.toml", made)
    programs = made / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    (programs / "umldisk").write_text(REPORTER)
    (programs / "umldisk").chmod(0o755)
    stamp = 'root=$1; source "$1/scripts/lib/setup.sh"; write_stamp run'
    run("bash", "-c", stamp, "bash", made)
    return made


def test_launcher_hands_over_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first").symlink_to(Path("..") / "a checkout" / "scripts" / "umldisk")
    (elsewhere / "second").symlink_to("first")
    expected = f"{elsewhere}|info|a b|*||"
    for program in (checkout / "scripts/umldisk", "./first", elsewhere / "second"):
        done = run(program, "info", "a b", "*", "", cwd=elsewhere)
        assert (done.stdout, done.stderr) == (expected, "")
    done = run("bash", "umldisk", "info", "a b", "*", "", cwd=checkout / "scripts")
    assert done.stdout == f"{checkout / 'scripts'}|info|a b|*||"


def test_launcher_runs_with_closed_standard_input(checkout: Path) -> None:
    done = run("bash", "-c", 'exec "$0" info <&-', checkout / "scripts/umldisk", cwd="/")
    assert done.stdout == "/|info|"


@pytest.mark.parametrize("change", ["edited", "moved", "python gone"])
def test_launcher_notices_that_the_environment_is_stale(checkout: Path, change: str) -> None:
    """With no program on PATH set-up stops at its lock: that it gets there is the proof."""
    if change == "edited":
        with (checkout / "pyproject.toml").open("a") as stream:
            stream.write("# one more line\n")
        os.utime(checkout / "pyproject.toml", (0, 0))
    elif change == "moved":
        checkout = checkout.rename(checkout.with_name("moved"))
    else:
        (checkout / ".venv/bin/python").unlink()
    done = subprocess.run(
        ["/bin/bash", checkout / "scripts/umldisk", "info"],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": "/nonexistent"},
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert "flock: command not found" in done.stderr
