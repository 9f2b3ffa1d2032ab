"""What `status` says of a guest's disks, counted against other tools, what it finds wrong, and the command."""

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.children import child
from tests.kit.command_line import CommandLine
from tests.kit.commands import FIRST_NIGHT, Commands, commands, holding
from tests.kit.peers import mounted, needs
from tests.kit.runs import NAME, Run, look, process_id
from umldisk.config.site import Site
from umldisk.cow.findings import CODES
from umldisk.cow.survey import BackingState
from umldisk.guest.console_log import FILES, LOG_BYTES
from umldisk.guest.state import CONSOLE_LOG, STATE, RunDisk
from umldisk.ops.describe import describe
from umldisk.ops.running.status import site_status
from umldisk.ops.running.status_findings import GUEST_CODES

# -- disks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


@needs("du")
def test_disks_are_counted_as_other_tools_count_them(umldisk: Commands) -> None:
    (guest,) = umldisk("status", "--json", NAME).json["guests"]
    files = [path for path in umldisk.guest.iterdir() if path.name.endswith(("_fs", "_cow"))]
    done = subprocess.run(["du", "-c", "-B1", *files], capture_output=True, text=True, check=True)
    assert guest["allocated_bytes"] == int(done.stdout.splitlines()[-1].split()[0])
    for disk in guest["disks"]:
        described = describe(disk["path"])
        assert disk["allocated_bytes"] == described.allocated_bytes
        assert disk["changed_bytes"] == (None if described.cow is None else described.cow.changed_bytes)
        assert disk["backing_state"] == (None if described.cow is None else BackingState.FITS.value)
    assert guest["changed_bytes"] == 3 * 4 * 512


def test_the_newest_good_checkpoint_of_each_drive_and_its_age(umldisk: Commands) -> None:
    now = FIRST_NIGHT + timedelta(days=10)
    (guest,) = site_status(Site(str(umldisk.directory)), NAME, clock=lambda: now).guests
    last = {disk.drive: disk.checkpoint for disk in guest.disks}
    assert last == {"root": None, "var": guest.checkpoint, "home": None, "swap": None}
    assert guest.checkpoint is not None
    assert (guest.checkpoint.number, guest.checkpoint.age_seconds) == (2, 9 * 86400)
    index = umldisk.store / f"guests/{NAME}/00000002.caibx"
    index.chmod(0o600)
    index.write_bytes(index.read_bytes()[:-1])
    assert umldisk("checkpoint", "verify", NAME).code == 65
    (guest,) = site_status(Site(str(umldisk.directory)), NAME, clock=lambda: now).guests
    assert guest.checkpoint is not None
    assert guest.checkpoint.number == 1


def test_disks_of_a_run_are_those_that_it_runs_on(umldisk: Commands) -> None:
    site = Site(str(umldisk.directory))
    thrown = umldisk.guest / ".var_cow.discard"
    thrown.write_bytes((umldisk.guest / "var_cow").read_bytes())
    disk = RunDisk("var", 1, str(thrown), str(umldisk.guest / "var_fs"), thrown_away=True)
    with child("") as kernel:
        Run(site).begins(process_id(kernel.pid), disks=(disk,))
        (seen,) = look(site).disks
        assert (seen.path, seen.thrown_away, seen.changed_bytes) == (str(thrown), True, 4 * 512)
    Path(site.run_directory(NAME), STATE).unlink()
    assert [one.drive for one in look(site).disks] == ["root", "var", "home", "swap"]


# -- findings ---------------------------------------------------------------------------------------------------------


def _touch_base(guest: Path) -> None:
    os.utime(guest / "var_fs", (1, 1))


def _cut_cow(guest: Path) -> None:
    os.truncate(guest / "var_cow", 8192 + 4096)


def _spoil_cow(guest: Path) -> None:
    (guest / "var_cow").write_bytes(b"MOOO" + bytes(96))


def _remove_base(guest: Path) -> None:
    (guest / "var_cow").unlink()
    (guest / "var_fs").unlink()


def _remove_under_cow(guest: Path) -> None:
    (guest / "var_fs").unlink()


def _half_restore(guest: Path) -> None:
    (guest / ".restored").mkdir()


def _half_build(guest: Path) -> None:
    (guest / ".ready").mkdir()


def _grow_log(guest: Path) -> None:
    log = guest.parents[1] / "run" / guest.name / CONSOLE_LOG
    log.parent.mkdir(parents=True)
    log.touch()
    os.truncate(log, 2 * FILES * LOG_BYTES + 1)


def _spoil_state(guest: Path) -> None:
    state = guest.parents[1] / "run" / guest.name / STATE
    state.parent.mkdir(parents=True)
    state.write_text("[]")


_DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "backing-mtime": (_touch_base, 1),
    "data-cut": (_cut_cow, 1),
    "disk-unreadable": (_spoil_cow, 1),
    "disk-missing": (_remove_base, 1),
    "backing-missing": (_remove_under_cow, 1),
    "restore-unfinished": (_half_restore, 1),
    "build-unfinished": (_half_build, 1),
    "console-log-large": (_grow_log, 0),
    "run-unreadable": (_spoil_state, 1),
}


@pytest.mark.parametrize("code", _DAMAGES)
def test_what_is_wrong_is_found_and_errors_are_the_exit_code(umldisk: Commands, code: str) -> None:
    assert umldisk("status", NAME).code == 0
    damage, exit_code = _DAMAGES[code]
    damage(umldisk.guest)
    said = umldisk("status", NAME)
    assert (said.code, said.err) == (exit_code, "")
    assert any(line.startswith((f"error: {code}: ", f"warning: {code}: ")) for line in said.lines)
    everyone = umldisk("status")
    assert everyone.code == exit_code
    assert everyone.lines[1].endswith(("1 error", "2 errors", "1 warning"))
    (guest,) = umldisk("status", "--json").json["guests"]
    assert code in [finding["code"] for finding in guest["findings"]]


def test_a_base_that_somebody_writes_is_found_while_a_guest_that_reads_it_is_not(umldisk: Commands) -> None:
    with holding(umldisk.guest / "var_fs"):
        assert "backing-locked" in umldisk("status", NAME).out
    with holding(umldisk.guest / "var_cow") as pid:
        said = umldisk("status", NAME)
        assert said.code == 0
        assert f" PID {pid} " in next(line for line in said.lines if line.startswith("var "))


def test_a_catalog_that_cannot_be_read_hides_no_guest(umldisk: Commands) -> None:
    (umldisk.directory / "catalog.db").write_bytes(b"nonsense" * 100)
    said = umldisk("status", NAME)
    assert said.code == 1
    assert said.lines[1].startswith(f"{NAME}  stopped")
    assert any(line.startswith("error: catalog-unreadable: ") for line in said.lines)
    assert umldisk("status", "--plugin", NAME).code == 65


@needs("tmpfs")
def test_disks_that_could_outgrow_their_file_system_are_a_warning(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path, size_bytes=4 << 20) as point:
        site = CommandLine(point)
        (point / "umldisk.toml").write_text(f'[guest.{NAME}]\nlayout = ["root"]\n')
        base, cow = (point / "guests" / NAME / name for name in ("root_fs", "root_cow"))
        base.parent.mkdir(parents=True)
        for size_bytes, expected in ((2 << 20, []), (64 << 20, ["disk-space"])):
            base.touch()
            os.truncate(base, size_bytes)
            assert site("create", "-f", cow, base).code == 0
            (guest,) = site("status", "--json").json["guests"]
            assert [finding["code"] for finding in guest["findings"]] == expected
        assert site("status").code == 0


def test_every_code_has_a_name_of_its_own() -> None:
    assert not set(GUEST_CODES) & set(CODES)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_guest_and_says_all_of_one(umldisk: Commands) -> None:
    (umldisk.directory / "guests" / "mirage").mkdir()
    lines = umldisk("status").lines
    assert [line.split()[0] for line in lines] == ["guest", NAME, "mirage"]
    assert " not built " in lines[2]
    said = umldisk("status", NAME).lines
    assert [line.split()[0] for line in said[4:]] == ["drive", "root", "var", "home", "swap"]
    assert said[3] == f"in {umldisk.guest}:"


def test_who_asks_for_a_guest_that_there_is_not_is_told(umldisk: Commands) -> None:
    assert umldisk("status", "mirage").code == 66
    assert umldisk("status", "no/name").code == 2
    assert CommandLine(umldisk.directory / "none")("status").lines == ["no guests"]


def test_looking_changes_nothing(umldisk: Commands) -> None:
    def fingerprint() -> dict[str, tuple[int, int]]:
        paths = [path for path in umldisk.directory.rglob("*") if not path.name.startswith("catalog.db")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths}

    before = fingerprint()
    assert umldisk("status").code == umldisk("status", NAME).code == 0
    assert fingerprint() == before
