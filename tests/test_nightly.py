"""The nightly job's texts, read back as systemd, cron, the shell and Prometheus read them; and the verdict on ages."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.checkpoints import checkpoint
from tests.kit.peers import needs
from umldisk.errors import CannotCreateError, UsageError
from umldisk.ops.nightly import (
    Job,
    Status,
    Verdict,
    crontab_line,
    judge_ages,
    nightly_job,
    parse_age,
    render_metrics,
    systemd_command,
    systemd_units,
    write_metrics,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
JOB = nightly_job(
    "blackdance",
    program="/usr/bin/umldisk",
    site="/var/uml",
    take=["--merge", "--metrics", "/var/lib/node_exporter/uml.prom"],
    prune=["--keep-daily", "7", "--keep-tag", "before 50% off"],
)
TAKE = "/usr/bin/umldisk --site /var/uml checkpoint take --quiet --merge --metrics /var/lib/node_exporter/uml.prom"
PRUNE = "/usr/bin/umldisk --site /var/uml checkpoint prune --quiet --gc"
words = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\\"), max_size=12)
hard_words = words | st.text("%$\"' ;&|~*#{}()<>!a", max_size=8)
word_lists = st.lists(hard_words, max_size=5)


def test_the_job_is_written_for_systemd() -> None:
    units = systemd_units(JOB)
    assert list(units) == ["umldisk-blackdance.service", "umldisk-blackdance.timer"]
    service, timer = units.values()
    starts = re.findall("^ExecStart=(.+)$", service, re.MULTILINE)
    assert starts == [
        f"{TAKE} blackdance",
        f'{PRUNE} --keep-daily 7 --keep-tag "before 50%% off" blackdance',
    ]
    assert "Type=oneshot\n" in service
    assert "OnCalendar=*-*-* 03:00:00\nPersistent=true\n" in timer
    assert "WantedBy=timers.target\n" in timer


def test_the_job_is_written_for_cron() -> None:
    line = crontab_line(dataclasses.replace(JOB, at=time(23, 5)))
    assert line == (
        f"5 23 * * * {TAKE} blackdance && {PRUNE} --keep-daily 7 --keep-tag 'before 50\\% off' blackdance\n"
    )


def test_without_rules_nothing_is_pruned() -> None:
    job = nightly_job("a", program="/umldisk", site="/s")
    assert job.commands == (("/umldisk", "--site", "/s", "checkpoint", "take", "--quiet", "a"),)


@pytest.mark.parametrize("word", ["a\nb", "a\0", "a\tb", "a\x7f", "a\udcff", "a\\b"])
def test_what_cannot_be_quoted_everywhere_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        nightly_job("a", program="/umldisk", site="/s", take=[word])


@pytest.mark.parametrize("program", ["umldisk", "", "./umldisk", "/opt/$x/umldisk"])
def test_a_program_that_systemd_cannot_find_is_refused(program: str) -> None:
    with pytest.raises(UsageError):
        nightly_job("a", program=program, site="/s")


@needs("systemd-analyze")
@pytest.mark.parametrize("word", ["plain", "100%", "$HOME", 'a"b', "it's", " ", "", ";", "ä", "a;b", "-x", "#", "%%n"])
def test_systemd_takes_the_units(word: str, tmp_path: Path) -> None:
    job = nightly_job("guest", program="/bin/true", site=f"/srv/{word}", take=[word], prune=[word], at=time(4, 30))
    for name, text in systemd_units(job).items():
        (tmp_path / name).write_text(text)
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def systemd_words(line: str) -> list[str]:
    """Split a command line as systemd.syntax(7) and systemd.service(5) tell: quotes, then %%, then $$."""
    found, rest = [], line
    while rest:
        matched = re.match(r'"((?:[^"\\]|\\["\\])*)"(?: |$)|([^\s"\'\\;]+)(?: |$)', rest)
        assert matched is not None, rest
        rest = rest[matched.end() :]
        text = re.sub(r"\\(.)", r"\1", matched[1]) if matched[2] is None else matched[2]
        assert not re.search(r"(?<!%)(%%)*%(?!%)", text)
        assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", text)
        found.append(text.replace("%%", "%").replace("$$", "$"))
    return found


@given(st.lists(hard_words | st.just("a\\b"), min_size=1, max_size=5))
def test_systemd_gives_the_program_the_same_words(arguments: list[str]) -> None:
    assert systemd_words(systemd_command(arguments)) == arguments


def cron_command(line: str) -> str:
    """Return what cron gives the shell: up to the first bare %, with backslashes before % taken away."""
    command = line.rstrip("\n").split(" ", 5)[5]
    head = re.split(r"(?<!\\)%", command)
    assert len(head) == 1, "the rest would be the command's standard input"
    return command.replace("\\%", "%")


@given(word_lists, word_lists)
def test_cron_and_the_shell_give_the_program_the_same_words(take: list[str], prune: list[str]) -> None:
    job = nightly_job("g", program="/u m", site="/s", take=take, prune=prune)
    line = crontab_line(job)
    assert line.count("\n") == 1
    commands = [list(command) for command in job.commands]
    joined = [word for command in commands for word in ["&&", *command]][1:]
    assert shlex.split(cron_command(line)) == joined


def test_a_real_shell_gives_the_same_words_and_stops_at_a_failure(tmp_path: Path) -> None:
    script = tmp_path / "a program"
    script.write_text('#!/bin/sh\nprintf "%s|" "$@" >>"$0.log"\n[ "$4" != fail ]\n')
    script.chmod(0o755)
    hard = ["%", "$HOME `id`", "it's", '"', "#", "*", ";", "ä", ""]
    both = Job("g", ((str(script), "1", *hard), (str(script), "2", "x", "y", "fail"), (str(script), "3")))
    done = subprocess.run(["sh", "-c", cron_command(crontab_line(both))], check=False)
    assert done.returncode == 1
    assert (tmp_path / "a program.log").read_text() == "|".join(["1", *hard, "2", "x", "y", "fail", ""])


# -- Prometheus -------------------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)', re.ASCII)


def read_metrics(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the text format as Prometheus' documentation tells it: HELP, TYPE and samples of one name together."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    current, seen = "", set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split()[2]
            assert current not in seen
            seen.add(current)
        elif line.startswith("#"):
            assert line == f"# TYPE {current} gauge"
        else:
            matched = SAMPLE.fullmatch(line)
            assert matched is not None, line
            assert matched[1] == current
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', matched[2])
            labels = tuple(
                (name, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)) for name, value in pairs
            )
            assert (current, labels) not in found
            found[current, labels] = float(matched[3])
    return found


def test_metrics_tell_what_was_recorded(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "size_bytes": 1 << 40,
        "changed_bytes": 32 << 20,
        "stored_bytes": 123,
        "duration_seconds": 0.0000125,
    }
    nights = [checkpoint(7, NOW + timedelta(microseconds=250_000), **facts), checkpoint(8, NOW, drive="home")]
    path = tmp_path / "uml.prom"
    path.write_text("old")
    write_metrics(str(path), nights)
    var, home = (("guest", "blackdance"), ("drive", "var")), (("guest", "blackdance"), ("drive", "home"))
    metrics = read_metrics(path.read_text())
    assert {
        name.removeprefix("umldisk_checkpoint_"): value for (name, own), value in metrics.items() if own == var
    } == {
        "last_success_timestamp_seconds": NOW.timestamp() + 0.25,
        "duration_seconds": 0.0000125,
        "size_bytes": 1 << 40,
        "changed_bytes": 32 << 20,
        "stored_bytes": 123,
    }
    assert len([own for _name, own in metrics if own == home]) == 5
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@given(st.text(max_size=9), st.text(max_size=9).filter(lambda text: text != "x"))
def test_labels_hold_any_text(drive: str, guest: str) -> None:
    rows = [checkpoint(1, NOW, guest=guest, drive=drive), checkpoint(1, NOW, guest="x")]
    printed = render_metrics(rows)
    if any(c in drive + guest for c in "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"):
        return  # they are no line breaks for Prometheus, but for the reader above
    labels = {own for _name, own in read_metrics(printed)}
    assert labels == {(("guest", guest), ("drive", drive)), (("guest", "x"), ("drive", "var"))}


def test_metrics_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotCreateError):
        write_metrics(str(tmp_path / "missing" / "uml.prom"), [])


# -- monitoring -------------------------------------------------------------------------------------------------------

VAR = [("blackdance", "var")]
DAY = timedelta(hours=24)


def judge(*ages: timedelta, max_age: timedelta = DAY, **facts: bool | str) -> Verdict:
    nights = [checkpoint(n, NOW - age, **facts) for n, age in enumerate(ages, 1)]  # type: ignore[arg-type]
    return judge_ages(nights, VAR, max_age=max_age, now=NOW)


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (timedelta(), Status.OK),
        (DAY, Status.OK),
        (DAY + timedelta(microseconds=1), Status.WARNING),
        (2 * DAY, Status.WARNING),
        (2 * DAY + timedelta(microseconds=1), Status.CRITICAL),
        (timedelta(microseconds=-1), Status.WARNING),
    ],
)
def test_the_limits_of_an_age(age: timedelta, status: Status) -> None:
    assert judge(age).status is status


def test_the_newest_good_one_counts() -> None:
    assert judge(3 * DAY, timedelta(hours=1), 2 * DAY).status is Status.OK
    assert judge(timedelta(hours=1), damage="x").status is Status.CRITICAL
    assert judge(timedelta(hours=1), deleted=True).status is Status.CRITICAL
    assert judge().line == "UMLDISK CRITICAL - blackdance var: no good checkpoint"


def test_the_line_is_that_of_a_monitoring_plugin() -> None:
    assert judge(timedelta(hours=3, minutes=7)).line == (
        "UMLDISK OK - blackdance var: the newest checkpoint is 3 h 7 min old | 'blackdance var'=11220s;86400;172800;0"
    )
    assert "is 1 d 2 h old |" in judge(timedelta(hours=26, minutes=59)).line
    assert "is 0 min old |" in judge(timedelta()).line
    assert judge(timedelta(days=-1)).line == (
        "UMLDISK WARNING - blackdance var: the newest checkpoint is from 2026-11-21T12:00:00Z, still to come"
    )


def test_the_worst_drive_decides_and_is_named() -> None:
    nights = [
        checkpoint(1, NOW - 3 * DAY, drive="home"),
        checkpoint(2, NOW, drive="var"),
        checkpoint(1, NOW - 1.5 * DAY, guest="other"),
    ]
    drives = [("blackdance", "home"), ("blackdance", "var"), ("other", "var")]
    verdict = judge_ages(nights, drives, max_age=DAY, now=NOW)
    assert verdict.status is Status.CRITICAL
    text, _bar, data = verdict.line.partition(" | ")
    assert text == "UMLDISK CRITICAL - blackdance home: the newest checkpoint is 3 d 0 h old"
    assert re.findall(r"'([^']+)'=(\d+)s;86400;172800;0", data) == [
        ("blackdance home", "259200"),
        ("blackdance var", "0"),
        ("other var", "129600"),
    ]
    assert judge_ages(nights, drives[1:], max_age=DAY, now=NOW).status is Status.WARNING
    assert judge_ages(nights, [], max_age=DAY, now=NOW).status is Status.CRITICAL


@pytest.mark.parametrize(("text", "seconds"), [("26h", 93600), ("90", 90), ("90s", 90), ("5m", 300), ("2d", 172800)])
def test_ages_are_read(text: str, seconds: int) -> None:
    assert parse_age(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "0", "0d", "-1h", "1w", "1.5h", "26 h", "1d2h", "999999999d", "\u0661h"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_age(text)
