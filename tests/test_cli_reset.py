"""`umldisk reset` as people give it."""

import os
from pathlib import Path

import pytest

from tests.kit.commands import Commands, commands, holding
from tests.kit.restorable import HOME, ROOT, VAR
from umldisk.cow.file import CowFile


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


def test_root_and_home_start_anew_and_var_stays(umldisk: Commands) -> None:
    old = {name: (umldisk.guest / name).read_bytes() for name in ("root_cow", "home_cow", "swap_fs")}
    var = umldisk.broken.seen(VAR)
    said = umldisk("reset", "blackdance")
    assert (said.code, said.err) == (0, "")
    assert umldisk.broken.seen(ROOT) == umldisk.broken.bases["root"]
    assert umldisk.broken.seen(HOME) == umldisk.broken.bases["home"]
    assert umldisk.broken.seen(VAR) == var
    with CowFile.open(umldisk.guest / "root_cow") as cow:
        assert list(cow.runs()) == []
    (evidence,) = (umldisk.directory / "evidence").iterdir()
    assert said.lines[0] == "blackdance: reset"
    assert f"the old files are evidence, in {evidence}" in said.lines
    assert {name: (evidence / name).read_bytes() for name in old} == old


def test_now_says_what_is_lost_and_keeps_nothing(umldisk: Commands) -> None:
    said = umldisk("reset", "--now", "blackdance", "root", "home")
    assert (said.code, said.err) == (0, "")
    assert said.lines[-3:] == ["4 KiB of changes are lost", "  root_cow: 2 KiB", "  home_cow: 2 KiB"]
    assert not (umldisk.directory / "evidence").exists()


def test_a_rehearsal_prints_the_plan_and_changes_nothing(umldisk: Commands) -> None:
    before = umldisk.broken.files()
    said = umldisk("reset", "-n", "--now", "blackdance", "var")
    assert said.lines == [
        "blackdance: would be reset",
        "  remove var_cow",
        "  var: a fresh var_cow over var_fs, which is as manifest.json says",
        "2 KiB of changes would be lost",
        "  var_cow: 2 KiB",
    ]
    assert umldisk.broken.files() == before
    assert not os.path.exists(umldisk.directory / "run")


def test_a_quick_one_as_json(umldisk: Commands) -> None:
    with open(umldisk.guest / "home_fs", "r+b") as file:
        status = os.fstat(file.fileno())
        file.write(b"intruder")
        file.flush()
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert umldisk("reset", "blackdance", "home").code == 65
    said = umldisk("reset", "--quick", "--json", "blackdance", "home")
    assert said.code == 0
    assert [(drive["name"], drive["digest"]) for drive in said.json["drives"]] == [("home", None)]
    assert [file["name"] for file in said.json["kept"]] == ["home_cow"]


def test_quietly(umldisk: Commands) -> None:
    said = umldisk("reset", "-q", "blackdance")
    assert (said.code, said.out, said.err) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["blackdance", "etc"], 2, "the guest has no such drive"),
        (["nobody"], 66, "there is no such guest"),
        ([], 2, "missing argument"),
    ],
)
def test_what_cannot_be_reset(umldisk: Commands, words: list[str], code: int, message: str) -> None:
    before = umldisk.broken.files()
    said = umldisk("reset", *words)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith(f"umldisk: error: {message}")
    assert umldisk.broken.files() == before


def test_a_running_guest_is_not_reset(umldisk: Commands) -> None:
    before = umldisk.broken.files()
    with holding(umldisk.guest / "root_cow") as pid:
        said = umldisk("reset", "--now", "blackdance")
    assert said.code == 75
    assert f"PID {pid}" in said.err
    assert umldisk.broken.files() == before
