"""What the start of a command imports; each import that is not needed costs every use its time."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# `python -X importtime` writes one such line for each module that is really loaded.
_IMPORT_LINE = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)

Environment = dict[str, str]


def run_umldisk(*arguments: str, environment: Environment, flags: tuple[str, ...] = ()) -> str:
    """Run `python -m umldisk` without a terminal; return what it wrote on both streams."""
    command = [sys.executable, *flags, "-m", "umldisk", *arguments]
    done = subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def imported_modules(*arguments: str, environment: Environment) -> set[str]:
    """Return the names of all modules that a command loads, the packages of each included."""
    report = run_umldisk(*arguments, environment=environment, flags=("-X", "importtime"))
    names = set(_IMPORT_LINE.findall(report))
    assert "umldisk.cli.main" in names
    return names


def test_version_imports_nothing_heavy(bare_environment: Environment) -> None:
    names = imported_modules("--version", environment=bare_environment)
    assert names.isdisjoint({"construct", "sqlite3", "tqdm", "numpy", "obstore", "subprocess", "zstandard"})
    assert not {name for name in names if name.startswith(("umldisk.cow", "umldisk.build", "umldisk.checkpoint"))}


@pytest.mark.parametrize("words", [["checkpoint", "--help"], ["checkpoint", "take", "--help"], ["restore", "--help"]])
def test_help_on_checkpoints_imports_no_library(words: list[str], bare_environment: Environment) -> None:
    names = imported_modules(*words, environment=bare_environment)
    assert names.isdisjoint({"construct", "sqlite3", "tqdm", "numpy", "obstore", "subprocess", "zstandard"})
    assert not {name for name in names if name.startswith(("umldisk.ops", "umldisk.build", "umldisk.checkpoint"))}


def test_listing_reads_the_catalog_and_loads_no_chunks(tmp_path: Path, bare_environment: Environment) -> None:
    names = imported_modules("--site", str(tmp_path), "checkpoint", "list", environment=bare_environment)
    assert "sqlite3" in names
    assert names.isdisjoint({"construct", "tqdm", "numpy", "obstore", "subprocess", "zstandard"})


def test_info_without_a_terminal_imports_no_progress_bar(tmp_path: Path, bare_environment: Environment) -> None:
    backing, cow = tmp_path / "root_fs", tmp_path / "root_cow"
    backing.write_bytes(bytes(1 << 20))
    run_umldisk("create", str(cow), str(backing), environment=bare_environment)
    names = imported_modules("info", str(cow), environment=bare_environment)
    assert "umldisk.cow" in names
    assert names.isdisjoint({"tqdm", "sqlite3", "numpy"})


@pytest.mark.parametrize("module", ["umldisk", "umldisk.errors", "umldisk.progress"])
def test_the_lowest_modules_import_nothing_heavy(module: str, bare_environment: Environment) -> None:
    heavy = "{'click', 'construct', 'sqlite3', 'subprocess', 'tqdm'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=bare_environment,
    )
    assert done.stdout.strip() == "[]"
