"""The rules for the code that a tool or a walk over the syntax tree can check.

Imports are import-linter's matter: its contracts stand in pyproject.toml. Here made-up trees show
that each contract and each checker finds what it is there to find.
"""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "umldisk"
MAX_FILE_LINES = 350
LONG_FUNCTION_LINES = 35
MAX_SHARE_OF_LONG_FUNCTIONS = 0.1

# import-linter's line on a contract: its name and whether it holds.
_VERDICT = re.compile(r"^(.+) (KEPT|BROKEN)\b", re.MULTILINE)
_FORBIDDEN_CALLS = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "os.abort"}


def python_files(*directories: Path) -> list[Path]:
    return sorted(path for directory in directories for path in directory.rglob("*.py"))


def tool(name: str) -> str:
    """Return the path of a tool that is installed beside the running Python."""
    return str(Path(sys.executable).with_name(name))


def too_long(files: list[Path]) -> list[str]:
    """Name each file with more lines than a reader should have to hold."""
    lengths = ((path, len(path.read_text().splitlines())) for path in files)
    return [f"{path}: {lines} lines" for path, lines in lengths if lines > MAX_FILE_LINES]


def function_lengths(files: list[Path]) -> dict[str, int]:
    """Map each function to its lines, from `def` to the end, its docstring left out."""
    lengths = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = len(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                docstring = ast.get_docstring(node, clean=False) or ""
                lengths[f"{path}:{node.lineno} {node.name}"] = lines - len(docstring.splitlines())
    return lengths


def endings_and_prints(package: Path) -> list[str]:
    """Name each place below the command line that prints or ends the process.

    Only `cli` and the entry point `__main__` may: a library returns values and raises errors.
    """
    found = []
    for path in python_files(package):
        if path.relative_to(package).parts[0] in {"cli", "__main__.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found += [f"{path}:{offence}" for offence in _offences(node)]
    return found


def _offences(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) in _FORBIDDEN_CALLS:
        yield f"{node.lineno} {ast.unparse(node.func)}"
    if isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc):
        yield f"{node.lineno} raise SystemExit"


def make_tree(directory: Path, files: dict[str, str]) -> Path:
    """Write a made-up package umldisk, with the packages that its modules need."""
    package = directory / "umldisk"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        for parent in path.relative_to(directory).parents[:-1]:
            (directory / parent / "__init__.py").touch()
    return package


def test_no_file_is_too_long() -> None:
    assert too_long(python_files(PACKAGE, ROOT / "tests")) == []


def test_nearly_all_functions_are_short() -> None:
    lengths = function_lengths(python_files(PACKAGE))
    long = [name for name, lines in lengths.items() if lines > LONG_FUNCTION_LINES]
    assert len(long) <= MAX_SHARE_OF_LONG_FUNCTIONS * len(lengths), "\n".join(long)
    assert statistics.median(lengths.values()) <= 13


def test_only_the_command_line_prints_and_exits() -> None:
    assert endings_and_prints(PACKAGE) == []


def test_no_tool_leaves_out_a_module() -> None:
    """Tools skip directories called `build` by themselves; here that is a package."""
    command = [tool("ruff"), "check", "--show-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seen = {Path(line) for line in listed.stdout.splitlines()}
    assert set(python_files(PACKAGE, ROOT / "tests")) <= seen


def test_length_checkers_find_what_is_long(tmp_path: Path) -> None:
    body = "def run() -> None:\n" + '    """Run.\n\n    Twice.\n    """\n' + "    pass\n" * 39
    package = make_tree(tmp_path, {"cow/long.py": "x = 1\n" * 351, "cow/short.py": body})
    assert too_long(python_files(package)) == [f"{package}/cow/long.py: 351 lines"]
    lengths = function_lengths(python_files(package))
    assert lengths == {f"{package}/cow/short.py:1 run": 40}


@pytest.mark.parametrize(
    "statement",
    ["print('x')", "sys.exit(1)", "raise SystemExit(2)", "raise SystemExit", "os._exit(0)"],
)
def test_checker_finds_prints_and_endings(tmp_path: Path, statement: str) -> None:
    source = f"import os, sys\n\n\ndef run() -> None:\n    {statement}\n"
    package = make_tree(tmp_path, {"cow/merge.py": source, "cli/main.py": source, "__main__.py": source})
    found = endings_and_prints(package)
    assert len(found) == 1
    assert found[0].startswith(f"{package}/cow/merge.py:5 ")


def lint_imports(directory: Path) -> tuple[int, str]:
    """Hold a made-up tree against the project's own contracts."""
    command = [tool("lint-imports"), "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def contract_names() -> dict[str, str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract["name"] for contract in contracts["contracts"]}


ALLOWED = {
    "cli/main.py": "import click, tqdm\nfrom umldisk.ops import reset\n",
    "cli/__init__.py": "import click\n",
    "ops/reset.py": "from umldisk.build import disks\nfrom umldisk.checkpoint import catalog\n",
    "build/disks.py": "from umldisk.image import layout\n",
    "checkpoint/catalog.py": "import sqlite3\nfrom umldisk.cow import header\n",
    "image/layout.py": "import construct\nfrom umldisk.cow import header\n",
    "cow/layout.py": "import construct\n",
    "cow/header.py": "from umldisk.cow import layout\nfrom umldisk.system import process\n",
    "system/process.py": "import subprocess\nfrom umldisk import errors\n",
    "errors.py": "",
    "progress.py": "",
    "__main__.py": "from umldisk.cli import main\n",
}


def test_contracts_allow_the_layers_as_designed(tmp_path: Path) -> None:
    make_tree(tmp_path, ALLOWED)
    status, report = lint_imports(tmp_path)
    assert status == 0, report


@pytest.mark.parametrize(
    ("path", "statement", "broken"),
    [
        ("cow/header.py", "from umldisk.image import layout", "layers"),
        ("system/files.py", "def f():\n    from umldisk.cow import header", "layers"),
        ("build/disks.py", "from umldisk.checkpoint import catalog", "layers"),
        ("errors.py", "from umldisk import progress", "layers"),
        ("helpers.py", "", "layers"),
        ("cow/header.py", "import construct", "construct"),
        ("cow/layouts.py", "from construct import Struct", "construct"),
        ("system/files.py", "import subprocess", "subprocess"),
        ("cli/start.py", "from subprocess import run", "subprocess"),
        ("cow/merge.py", "from tqdm.auto import tqdm", "terminal"),
        ("ops/reset.py", "def f():\n    import click", "terminal"),
        ("checkpoint/store.py", "import sqlite3", "sqlite"),
    ],
)
def test_each_contract_finds_its_violation(tmp_path: Path, path: str, statement: str, broken: str) -> None:
    make_tree(tmp_path, {**ALLOWED, path: statement + "\n"})
    status, report = lint_imports(tmp_path)
    expected = {name: "BROKEN" if contract == broken else "KEPT" for contract, name in contract_names().items()}
    assert status == 1
    assert dict(_VERDICT.findall(report)) == expected
