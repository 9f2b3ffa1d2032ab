"""`umldisk restore` as people give it."""

from pathlib import Path

import pytest

from tests.kit.commands import Commands, commands, holding, time_zone
from tests.kit.restorable import VAR
from umldisk.cow.file import CowFile


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


def test_the_newest_night_comes_back_and_the_evidence_is_kept(umldisk: Commands) -> None:
    old = {name: (umldisk.guest / name).read_bytes() for name in ("var_cow", "root_cow", "var_fs")}
    said = umldisk("restore", "blackdance")
    assert (said.code, said.err) == (0, "")
    assert umldisk.broken.seen(VAR) == umldisk.broken.nights[2]
    with CowFile.open(umldisk.guest / "root_cow") as cow:
        assert list(cow.runs()) == []
    (evidence,) = (umldisk.directory / "evidence").iterdir()
    assert f"the old files are evidence, in {evidence}" in said.lines
    assert {name: (evidence / name).read_bytes() for name in old} == old
    assert said.lines[-2:] == ["start it with:", "  umldisk start blackdance"]


@pytest.mark.parametrize(
    ("words", "night"),
    [
        (["1"], 1),
        (["latest"], 2),
        (["2024-11-18"], 1),
        (["--at", "2024-11-18 03:15"], 1),
        (["--at", "2024-11-19T03:14:59Z"], 1),
        (["--at", "2024-11-19"], 2),
        (["--drive", "var", "1"], 1),
    ],
)
def test_any_night_is_chosen_by_number_or_time(umldisk: Commands, words: list[str], night: int) -> None:
    plan = umldisk("restore", "-n", "--json", *words, "blackdance") if words[0] == "--at" else None
    said = plan or umldisk("restore", "-n", "--json", *words[:-1], "blackdance", words[-1])
    (var,) = (drive for drive in said.json["drives"] if drive["name"] == "var")
    assert var["checkpoint"] == night
    assert not (umldisk.directory / "evidence").exists()


def test_a_time_is_this_machines(umldisk: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    with time_zone("America/New_York", monkeypatch):  # the second night was taken on the 18th there
        said = umldisk("restore", "-n", "--json", "blackdance", "2024-11-18")
    assert [drive["checkpoint"] for drive in said.json["drives"] if drive["name"] == "var"] == [2]


def test_a_rehearsal_prints_the_plan_and_changes_nothing(umldisk: Commands) -> None:
    before = umldisk.broken.files()
    said = umldisk("restore", "--dry-run", "blackdance", "1")
    assert said.lines[0] == "blackdance: would be restored"
    assert "  root: a fresh root_cow over root_fs, which is as manifest.json says" in said.lines
    assert "  var: var_fs from checkpoint 1 of 2024-11-18 03:15:00 UTC, with a fresh var_cow" in said.lines
    assert umldisk.broken.files() == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["blackdance", "1", "--at", "2024-11-19"], 2, "--at chooses a checkpoint"),
        (["blackdance", "the other day"], 2, "not the name of a checkpoint"),
        (["blackdance", "--at", "2026-02-30"], 2, "not the name of a checkpoint"),
        (["blackdance", "9"], 66, "there is no checkpoint 9"),
        (["blackdance", "2024-11-17"], 66, "there is no good checkpoint of drive var"),
        (["blackdance", "--drive", "etc"], 2, "the guest has no such drive"),
        (["nobody"], 66, "there is no such guest"),
    ],
)
def test_what_cannot_be_restored(umldisk: Commands, words: list[str], code: int, message: str) -> None:
    before = umldisk.broken.files()
    said = umldisk("restore", *words)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith(f"umldisk: error: {message}")
    assert umldisk.broken.files() == before


def test_a_running_guest_is_not_restored(umldisk: Commands) -> None:
    with holding(umldisk.guest / "var_cow") as pid:
        said = umldisk("restore", "blackdance")
    assert said.code == 75
    assert f"PID {pid}" in said.err


def test_a_changed_base_is_refused(umldisk: Commands) -> None:
    with open(umldisk.guest / "root_fs", "r+b") as file:
        file.write(b"intruder")
    said = umldisk("restore", "blackdance")
    assert said.code == 65
    assert said.err.startswith("umldisk: error: the base of drive root is not the one that was built")
