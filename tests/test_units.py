"""The templates of units: what systemd reads in them, and how they come into place."""

import os
import re
import stat
import subprocess
from dataclasses import replace
from datetime import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.kit.peers import needs
from tests.test_nightly import systemd_words
from umldisk.checkpoint.retention import Policy
from umldisk.cli.group import group
from umldisk.cli.install_units import install_units as command
from umldisk.cli.options import Globals
from umldisk.config.site import Site
from umldisk.errors import CannotCreateError, StorageError, UsageError
from umldisk.guest.ladder import Ladder
from umldisk.ops.cron import CronOptions, nightly_texts
from umldisk.ops.units import (
    GUEST_UNIT,
    STOP_SECONDS,
    UnitsOptions,
    Written,
    install_units,
    unit_directory,
    unit_texts,
)

NIGHTLY = CronOptions(at=time(2, 30), policy=Policy(daily=7), lock_wait_seconds=3600)
NAMES = ["umldisk-guest@.service", "umldisk-checkpoint@.service", "umldisk-checkpoint@.timer"]
SITE = Site("/var/uml")
PROGRAM = "/usr/bin/umldisk"


def _settings(text: str, name: str) -> list[str]:
    return re.findall(f"^{name}=(.*)$", text, re.MULTILINE)


def _options(directory: Path, *, force: bool = False, dry_run: bool = False, user: bool = False) -> UnitsOptions:
    return UnitsOptions(NIGHTLY, user=user, directory=str(directory), replace=force, dry_run=dry_run)


def test_the_guest_is_started_and_stopped_by_the_commands() -> None:
    text = unit_texts(SITE, NIGHTLY, program=PROGRAM, user=False)[GUEST_UNIT]
    assert _settings(text, "ExecStart") == ["/usr/bin/umldisk --site /var/uml start --quiet %i"]
    assert _settings(text, "ExecStop") == ["/usr/bin/umldisk --site /var/uml stop --quiet %i"]
    assert _settings(text, "RequiresMountsFor") == ['"/var/uml"']
    assert _settings(text, "WantedBy") == ["multi-user.target"]


def test_the_stop_is_given_more_time_than_its_ladder_takes() -> None:
    text = unit_texts(SITE, NIGHTLY, program=PROGRAM, user=False)[GUEST_UNIT]
    assert _settings(text, "TimeoutStopSec") == [str(STOP_SECONDS)]
    assert sum(step.timeout_seconds for step in Ladder.of().steps) + 120 < STOP_SECONDS


def test_the_nightly_job_is_the_one_that_cron_prints(tmp_path: Path) -> None:
    printed = nightly_texts(Site(str(tmp_path)), "blackdance", NIGHTLY, program=PROGRAM).units
    texts = unit_texts(Site(str(tmp_path)), NIGHTLY, program=PROGRAM, user=False)
    assert list(texts) == NAMES
    for name in NAMES[1:]:
        instance = texts[name].replace("%i", "blackdance")
        assert instance == printed[name.replace("checkpoint@", "blackdance")]


def test_a_user_has_other_targets() -> None:
    text = unit_texts(SITE, NIGHTLY, program=PROGRAM, user=True)[GUEST_UNIT]
    assert _settings(text, "WantedBy") == ["default.target"]
    assert "network.target" not in text


@needs("systemd-analyze")
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("word", ["plain", "100%", "%i", "$HOME", 'a"b', "it's", "a b", ";", "ä", "#"])
def test_systemd_takes_the_units_of_a_site_of_any_name(word: str, user: bool, tmp_path: Path) -> None:
    install_units(Site(f"/srv/{word}"), _options(tmp_path, user=user), program="/bin/true")
    for name in NAMES:
        instance = name.replace("@", "@black-dance")
        argv = ["systemd-analyze", "verify", "--man=no", *(["--user"] if user else []), str(tmp_path / instance)]
        (tmp_path / instance).symlink_to(name)
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
        )
        assert (done.returncode, done.stderr) == (0, ""), (tmp_path / name).read_text()


@pytest.mark.parametrize("word", ["plain", "100%", "%i", "$HOME", 'a"b', "it's", "a b", ";", "ä", "#"])
def test_the_program_gets_the_sites_path_as_it_is(word: str) -> None:
    site, program = f"/srv/{word}", f"/opt/{word.replace('$', '')}/umldisk"
    for text in unit_texts(Site(site), NIGHTLY, program=program, user=False).values():
        for line in _settings(text, "Exec[A-Za-z]+"):
            words = systemd_words(line.removesuffix(" %i"))
            assert words[:3] == [program, "--site", site]
            assert line.endswith(" %i")


@pytest.mark.parametrize(
    ("site", "program"), [("/a\nb", PROGRAM), ("/a\\b", PROGRAM), ("/a", "umldisk"), ("/a", "/$x")]
)
def test_what_no_unit_can_hold_is_refused(site: str, program: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        install_units(Site(site), _options(tmp_path / "units"), program=program)
    assert not (tmp_path / "units").exists()


def test_files_are_written_once_and_then_unchanged(tmp_path: Path) -> None:
    directory = tmp_path / "systemd" / "system"
    first = install_units(SITE, _options(directory), program=PROGRAM)
    assert [file.written for file in first.units] == [Written.NEW] * 3
    assert sorted(os.listdir(directory)) == sorted(NAMES)
    for file in first.units:
        assert Path(file.path).read_text() == file.text
        assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o644
    before = [os.stat(file.path) for file in first.units]
    again = install_units(SITE, _options(directory), program=PROGRAM)
    assert [file.written for file in again.units] == [Written.UNCHANGED] * 3
    assert [os.stat(file.path) for file in again.units] == before


def test_others_units_stay_unless_forced(tmp_path: Path) -> None:
    install_units(SITE, _options(tmp_path), program=PROGRAM)
    timer = tmp_path / NAMES[2]
    (tmp_path / NAMES[0]).unlink()
    timer.write_text("# somebody's own\n")
    with pytest.raises(CannotCreateError, match="another unit is there already") as refused:
        install_units(SITE, _options(tmp_path), program=PROGRAM)
    assert (refused.value.where, refused.value.hint) == (str(timer), "replace it with --force")
    assert sorted(os.listdir(tmp_path)) == sorted(NAMES[1:])  # nothing was written before the refusal
    assert timer.read_text() == "# somebody's own\n"
    report = install_units(SITE, _options(tmp_path, force=True), program=PROGRAM)
    assert [file.written for file in report.units] == [Written.NEW, Written.UNCHANGED, Written.REPLACED]
    assert timer.read_text() == report.units[2].text


def test_a_dry_run_writes_nothing_and_refuses_the_same(tmp_path: Path) -> None:
    report = install_units(SITE, _options(tmp_path / "units", dry_run=True), program=PROGRAM)
    assert [file.written for file in report.units] == [Written.NEW] * 3
    assert not (tmp_path / "units").exists()
    (tmp_path / NAMES[0]).write_text("other")
    with pytest.raises(CannotCreateError):
        install_units(SITE, _options(tmp_path, dry_run=True), program=PROGRAM)


def test_a_masked_unit_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).symlink_to("/dev/null")
    with pytest.raises(CannotCreateError, match="not a regular file"):
        install_units(SITE, _options(tmp_path, force=True), program=PROGRAM)
    assert os.listdir(tmp_path) == [NAMES[0]]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError):
        install_units(SITE, _options(tmp_path / "file" / "units"), program=PROGRAM)


def test_an_error_while_reading_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_units(SITE, _options(tmp_path), program=PROGRAM)

    def failing(*_arguments: object, **_others: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.open", failing)
    with pytest.raises(StorageError, match="cannot read: Input/output error"):
        install_units(SITE, _options(tmp_path), program=PROGRAM)


def test_where_units_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unit_directory(user=False) == "/etc/systemd/system"
    monkeypatch.setenv("HOME", "/home/x")
    for configured, expected in (
        ("/conf", "/conf/systemd/user"),
        ("", "/home/x/.config/systemd/user"),
        ("relative", "/home/x/.config/systemd/user"),
    ):
        monkeypatch.setenv("XDG_CONFIG_HOME", configured)
        assert unit_directory(user=True) == expected


def test_the_commands_that_come_next(tmp_path: Path) -> None:
    options = _options(tmp_path, dry_run=True)
    system = install_units(SITE, options, program=PROGRAM).commands
    assert system == (
        "systemctl daemon-reload",
        "systemctl enable --now umldisk-guest@NAME.service umldisk-checkpoint@NAME.timer",
    )
    users = install_units(SITE, replace(options, user=True), program=PROGRAM).commands
    assert "loginctl enable-linger" in users
    assert all("--user" in line for line in users if line.startswith("systemctl"))


# -- the command ------------------------------------------------------------------------------------------------------


def _run(directory: Path, *words: str) -> Result:
    arguments = ["--directory", str(directory), "--program", PROGRAM, *words]
    settings = Globals(site_dir="/var/uml")
    return CliRunner().invoke(command, arguments, obj=settings, catch_exceptions=True, **group.context_settings)


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    done = _run(tmp_path, "--keep-daily", "7", "--at", "02:30")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:3] == [f"{tmp_path}/{name}: new" for name in NAMES]
    job = (tmp_path / NAMES[1]).read_text()
    take, prune = _settings(job, "ExecStart")
    assert take == "/usr/bin/umldisk --site /var/uml checkpoint take --quiet --lock-wait 3600 %i"
    assert prune.endswith("--keep-daily 7 --lock-wait 3600 %i")
    assert "OnCalendar=*-*-* 02:30:00\n" in (tmp_path / NAMES[2]).read_text()
    assert _run(tmp_path, "--keep-daily", "7", "--at", "02:30").stdout.count(": unchanged\n") == 3
    assert isinstance(_run(tmp_path, "--at", "02:31").exception, CannotCreateError)
    assert f"{NAMES[2]}: replaced" in _run(tmp_path, "--at", "02:31", "-f").stdout


def test_the_command_prints_the_units_with_dry_run(tmp_path: Path) -> None:
    shown = _run(tmp_path, "--dry-run", "--user").stdout
    texts = unit_texts(SITE, CronOptions(at=time(3, 0), lock_wait_seconds=3600), program=PROGRAM, user=True)
    for name, text in texts.items():
        assert f"# {tmp_path}/{name} (new)\n{text}\n" in shown
    assert os.listdir(tmp_path) == []
