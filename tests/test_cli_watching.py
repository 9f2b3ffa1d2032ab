"""`umldisk cron`, `umldisk status` and `checkpoint take --metrics`: the nightly job and who watches it."""

import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.kit.command_line import CommandLine
from tests.kit.commands import Commands, commands
from tests.kit.peers import needs


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


# -- cron -------------------------------------------------------------------------------------------------------------


def test_the_crontabs_line_is_a_job_that_runs(umldisk: Commands) -> None:
    program = shutil.which("umldisk", path=str(Path(sys.executable).parent))
    assert program is not None
    metrics = umldisk.directory / "umldisk.prom"
    words: list[str | Path] = [
        "--program",
        program,
        "--merge",
        "--metrics",
        metrics,
        "--keep-last",
        "2",
        "--lock-wait",
        "5",
    ]
    line = umldisk("cron", "--crontab", "--at", "2:05", *words, "blackdance").out
    minute, hour, *dates, command = line.split(" ", 5)
    assert (minute, hour, dates) == ("5", "2", ["*"] * 3)
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = umldisk("checkpoint", "list", "--json").json["checkpoints"]
    assert [(row["number"], row["merged"]) for row in rows] == [(2, False), (3, True)]
    taken = datetime.fromisoformat(rows[-1]["time"]).timestamp()
    sample = f'umldisk_checkpoint_last_success_timestamp_seconds{{guest="blackdance",drive="var"}} {taken}'
    assert sample in metrics.read_text().splitlines()


@needs("systemd-analyze")
def test_systemd_takes_the_units(umldisk: Commands) -> None:
    report = umldisk("cron", "--program", "/bin/true", "--keep-daily", "7", "--json", "blackdance").json
    for name, text in report["units"].items():
        (umldisk.directory / name).write_text(text)
    units = [str(umldisk.directory / name) for name in report["units"]]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_units_and_crontab_give_the_same_commands(umldisk: Commands) -> None:
    lines = umldisk("cron", "--program", "/bin/umldisk", "--keep-daily", "7", "blackdance").lines
    assert lines[0] == "# /etc/systemd/system/umldisk-blackdance.service"
    starts = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    command = lines[-1].split(" ", 5)[5]
    assert command == " && ".join(starts)
    site = ["/bin/umldisk", "--site", str(umldisk.directory), "checkpoint"]
    assert shlex.split(starts[1]) == [*site, "prune", "--quiet", "--gc", "--keep-daily", "7", "blackdance"]


@pytest.mark.parametrize("at", ["3", "24:00", "3:5", "-1:00", "3:60", "x"])
def test_a_time_of_day_that_there_is_not(umldisk: Commands, at: str) -> None:
    assert umldisk("cron", "--at", at, "blackdance").code == 2


# -- status -----------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_exit_code(umldisk: Commands) -> None:
    late = umldisk("status", "--plugin", "blackdance")
    assert (late.code, late.lines[0].split(" - ")[0]) == (2, "UMLDISK CRITICAL")
    umldisk("checkpoint", "take", "blackdance")
    good = umldisk("status", "--max-age", "26h")
    assert good.code == 0
    assert good.lines[0].startswith("UMLDISK OK - blackdance var: the newest checkpoint is 0 min old | ")
    assert umldisk("status", "--plugin").lines == good.lines
    assert umldisk("status", "--plugin", "-q").out == ""
    assert umldisk("status", "--plugin", "--json").json["status"] == 0


def test_a_drive_that_was_taken_once_alarms_nobody_who_did_not_ask(umldisk: Commands) -> None:
    umldisk("checkpoint", "take", "blackdance")
    assert umldisk("status", "--drive", "root", "blackdance").code == 2
    umldisk("checkpoint", "take", "blackdance", "root")
    assert umldisk("status", "--drive", "root", "--drive", "var", "blackdance").code == 0


def test_damaged_checkpoints_do_not_count(umldisk: Commands) -> None:
    umldisk("checkpoint", "take", "blackdance")
    index = umldisk.store / "guests/blackdance/00000003.caibx"
    index.chmod(0o600)
    index.write_bytes(index.read_bytes()[:-1])
    assert umldisk("checkpoint", "verify", "blackdance").code == 65
    assert umldisk("status", "--plugin").code == 2


def test_who_has_no_checkpoints_is_critical(tmp_path: Path) -> None:
    umldisk = CommandLine(tmp_path)
    assert umldisk("status", "--plugin").lines == ["UMLDISK CRITICAL - no drive has checkpoints"]
    said = umldisk("status", "--plugin", "x")
    assert (said.code, said.lines) == (2, ["UMLDISK CRITICAL - x var: no good checkpoint"])
    assert umldisk("status", "--max-age", "soon").code == 2


def test_metrics_are_written_after_a_success_only(umldisk: Commands) -> None:
    path = umldisk.directory / "m.prom"
    assert umldisk("checkpoint", "take", "--metrics", path, "blackdance", "etc").code == 2
    assert not path.exists()
    assert umldisk("checkpoint", "take", "--metrics", umldisk.directory / "no/m", "blackdance").code == 73
