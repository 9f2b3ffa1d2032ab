"""`umldisk map` as a user and a script meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.faulty import MAKERS, SIZE, pair
from tests.kit.model import write_cow
from umldisk.cli.main import main

Captured = pytest.CaptureFixture[str]


def test_the_table(tmp_path: Path, capsys: Captured) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(cow, backing, {**dict.fromkeys(range(8)), **dict.fromkeys(range(56, 64), b"x" * 512)})
    assert main(["map", str(cow)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  start  sectors     byte    bytes  kind",
        "      0        8        0     4096  zero",
        "     56        8    28672     4096  data",
    ]


@pytest.mark.parametrize("changed", [[], [3], [3, 5, 2047]])
def test_json_is_one_object_however_long_the_list(tmp_path: Path, capsys: Captured, changed: list[int]) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(cow, backing, dict.fromkeys(changed, b"x" * 512))
    assert main(["map", "--json", str(cow)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown[key] for key in ("path", "size_bytes", "sector_bytes")} == {
        "path": str(cow),
        "size_bytes": SIZE,
        "sector_bytes": 512,
    }
    fields = {"sectors": 1, "size_bytes": 512, "kind": "data"}
    assert shown["runs"] == [{"start_sector": n, "offset_bytes": n * 512, **fields} for n in changed]


def test_names_of_any_bytes_survive_json(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    strange = cow.rename(tmp_path / os.fsdecode(b'a"\n\xff'))
    assert main(["map", "--json", str(strange)]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(strange)


def test_the_picture_fits_the_width(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    assert main(["map", "--plot", "--width", "44", str(cow)]) == 0
    lines = capsys.readouterr().out.splitlines()
    picture, (blank, meaning, scale) = lines[:-3], lines[-3:]
    assert picture == ["       0  ░░░░░░░█░░░░░░░░░░░░░░░░░░░░░░░░"] + [
        f"{kib:>7}K  {'░' * 32}" for kib in range(128, 1024, 128)
    ]
    assert (blank, meaning.split()[0], scale) == ("", "█", "one character 4 KiB, one line 128 KiB")


def test_the_picture_takes_the_width_of_the_terminal_and_its_letters(tmp_path: Path) -> None:
    cow, _backing, _header = pair(tmp_path)
    environment = {**os.environ, "COLUMNS": "60", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "umldisk", "map", "--plot", str(cow)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.splitlines()[0] == f"       0  :::::::#{':' * 40}"


def test_picture_and_json_exclude_each_other(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    assert main(["map", "--plot", "--json", str(cow)]) == 2
    assert "--plot and --json" in capsys.readouterr().err


def test_a_cut_file(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["data-cut"][0](tmp_path)
    assert main(["map", str(cow)]) == 65
    assert "the file ends before the data of changed sector 58" in capsys.readouterr().err
    assert main(["map", "--accept-truncated", str(cow)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_reader_who_goes_away_is_no_failure_worth_words(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    write_cow(cow, backing, dict.fromkeys(range(0, 2048, 2), b"x" * 512))
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-m", "umldisk", "map", str(cow)]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
