"""`umldisk config check` and `show`, and how other commands say what is wrong with umldisk.toml."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from umldisk.cli.main import main

Captured = pytest.CaptureFixture[str]
ZEIT = Path(__file__).parents[1] / "fixtures/sites/zeit"
BAD = '[guest.x]\nmemroy = "64M"\n\n[guest.x.drives.var]\nsize = "2Q"\n'


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "umldisk.toml").write_text(BAD)
    return tmp_path


def run(capsys: Captured, *words: str | Path) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


# -- check ------------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_the_sample_site(capsys: Captured) -> None:
    found = run(capsys, "--site", ZEIT, "config", "check")
    assert found == (0, f"{ZEIT}/umldisk.toml: nothing wrong\n", "")


def test_every_problem_is_a_line(bad: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "--site", bad, "config", "check")
    first, second = out.splitlines()
    assert code == 65
    assert first.startswith(f"{bad}/umldisk.toml:2: guest.x.memroy: found an unknown key, expected one of ")
    assert first.endswith("; did you mean memory?")
    assert second == (f'{bad}/umldisk.toml:5: guest.x.drives.var.size: found "2Q", expected a size such as 512M, 2G')
    assert err == ""


def test_problems_as_json_have_all_their_parts(bad: Path, capsys: Captured) -> None:
    code, out, _err = run(capsys, "--site", bad, "config", "check", "--json")
    report = json.loads(out)
    assert code == 65
    assert (report["path"], report["exists"], report["guests"]) == (f"{bad}/umldisk.toml", True, [])
    assert report["problems"][1] == {
        "line": 5,
        "key": "guest.x.drives.var.size",
        "found": '"2Q"',
        "expected": "a size such as 512M, 2G",
        "hint": None,
        "column": None,
    }
    assert report["problems"][0]["hint"] == "did you mean memory?"


def test_files_that_are_named_and_missing_are_problems_of_the_check(tmp_path: Path, capsys: Captured) -> None:
    text = '[guest.x]\nbase = "gone.tar"\noverlay = "umldisk.toml"\nssh_keys = ["a.pub"]\n[guest.y]\nbase = "."\n'
    (tmp_path / "umldisk.toml").write_text(text)
    code, out, _err = run(capsys, "--site", tmp_path, "config", "check")
    assert code == 65
    assert [line.split(": ")[1] for line in out.splitlines()] == [
        "guest.x.base",
        "guest.x.overlay",
        "guest.x.ssh_keys[0]",
    ]


def test_a_site_without_a_file_is_fine(tmp_path: Path, capsys: Captured) -> None:
    code, out, _err = run(capsys, "--site", tmp_path / "none", "config", "check")
    assert code == 0
    assert "not there" in out
    code, out, _err = run(capsys, "--site", tmp_path, "config", "check", "--json")
    assert (code, json.loads(out)["exists"], json.loads(out)["problems"]) == (0, False, [])


def test_a_file_that_cannot_be_read_is_a_missing_input(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "umldisk.toml").mkdir()
    code, out, err = run(capsys, "--site", tmp_path, "config", "check")
    assert (code, out) == (66, "")
    assert err == f"umldisk: error: not a regular file ({tmp_path}/umldisk.toml)\n"


# -- show -------------------------------------------------------------------------------------------------------------


def test_what_is_shown_is_toml_of_the_guest(capsys: Captured) -> None:
    code, out, _err = run(capsys, "--site", ZEIT, "config", "show", "blackdance")
    assert code == 0
    (name, table), *others = tomllib.loads(out)["guest"].items()
    assert (name, others) == ("blackdance", [])
    assert (table["memory"], table["drives"]["var"]["size"]) == ("128M", "2G")
    assert [link["address"] for link in table["network"]["interfaces"]] == ["10.1.0.6/30", "10.1.1.6/30"]


def test_without_a_name_all_guests_are_shown(capsys: Captured) -> None:
    _code, out, _err = run(capsys, "--site", ZEIT, "config", "show")
    assert list(tomllib.loads(out)["guest"]) == ["blackdance", "mirage", "trancefer"]
    _code, out, _err = run(capsys, "--site", ZEIT, "config", "show", "--json")
    guests = json.loads(out)
    assert [guest["guest"] for guest in guests] == ["blackdance", "mirage", "trancefer"]
    by_key = {setting["key"]: setting for setting in guests[1]["settings"]}
    assert (by_key["base"]["value"], by_key["base"]["origin"]) == ("busybox", "guest")
    assert (by_key["overlay"]["origin"], by_key["drives.var.fs"]["origin"]) == ("[defaults]", "default")


def test_the_defaults_are_shown_whatever_the_site_says(bad: Path, capsys: Captured) -> None:
    code, out, _err = run(capsys, "--site", bad, "config", "show", "--defaults")
    assert code == 0
    assert tomllib.loads(out)["defaults"]["base"] == "busybox"
    _code, out, _err = run(capsys, "--site", bad, "config", "show", "--defaults", "--json")
    keys = {key["key"]: key for key in json.loads(out)}
    assert keys["base"]["default"] == "busybox"
    assert keys["user"]["default"] is None
    assert keys["user"]["without"] == "the guest's name"


def test_a_site_that_is_wrong_is_not_shown(bad: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "--site", bad, "config", "show", "x")
    assert (code, out) == (65, "")
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "../x"], "not a name for a guest"),
        (["show", "--defaults", "x"], "--defaults are the same for all guests"),
        (["show", "a", "b"], "got unexpected extra argument"),
        (["check", "x"], "got unexpected extra argument"),
        (["chekc"], "no such command 'chekc'"),
        ([], "missing command"),
    ],
)
def test_usage_errors(words: list[str], message: str, tmp_path: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "--site", tmp_path, "config", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"umldisk: error: {message}")


# -- other commands ---------------------------------------------------------------------------------------------------


def test_build_says_every_problem_and_does_nothing(bad: Path, capsys: Captured) -> None:
    code, out, err = run(capsys, "--site", bad, "build", "y")
    assert (code, out) == (65, "")
    first, second = err.splitlines()
    assert first.startswith(f"umldisk: error: {bad}/umldisk.toml:2: guest.x.memroy: ")
    assert second.startswith(f"umldisk: error: {bad}/umldisk.toml:5: guest.x.drives.var.size: ")
    assert os.listdir(bad) == ["umldisk.toml"]


def test_nothing_of_it_is_imported_without_a_file(tmp_path: Path, bare_environment: dict[str, str]) -> None:
    code = (
        "import sys; from umldisk.config.site import Site; Site(sys.argv[1]).guest('x');"
        "print(sorted({'tomllib', 'umldisk.config.load', 'umldisk.config.schema', 'difflib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=bare_environment)
    assert done.stdout == "[]\n"
