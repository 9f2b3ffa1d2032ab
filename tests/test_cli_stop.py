"""`umldisk stop` as it is called."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.kit.runs import PATIENCE_SECONDS, process_id, until_it_watches
from tests.kit.stoppable import Setting, stoppable
from umldisk.cli.group import group
from umldisk.cli.options import Globals
from umldisk.cli.stop import stop
from umldisk.errors import NoInputError, UmldiskError


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with stoppable(tmp_path) as setting:
        yield setting


def command(setting: Setting, *words: str) -> None:
    settings = Globals(site_dir=setting.site.directory)
    stop.main(list(words), standalone_mode=False, obj=settings, **group.context_settings)


def test_the_command_tells_what_was_needed(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.run()
    command(setting, "--from", "term", "g", "g")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("g: stopped by SIGTERM in ")
    assert said[1:] == [
        "  1 process had outlived the kernel and had to be killed",
        f"  removed {setting.throw_away}",
    ]
    command(setting, "g")
    assert capsys.readouterr().out == "g: is not running\n"


def test_the_command_reports_in_json(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.run()
    command(setting, "--json", "g")
    (report,) = json.loads(capsys.readouterr().out)["guests"]
    assert (report["guest"], report["outcome"], report["needed"]) == ("g", "stopped", "term")
    assert [(one["rung"], one["outcome"]) for one in report["tried"]] == [
        ("cad", "skipped"),
        ("halt", "skipped"),
        ("term", "ended"),
    ]
    assert report["disks"] == [{"drive": "root", "path": str(setting.disk), "clean": None}]


def test_the_dry_run_prints_the_ladder(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    state = setting.run()
    command(setting, "-n", "--timeout", "cad=120", "--timeout", "kill=0.5", "g")
    ways = "cad (120 s), halt (10 s), term (5 s), kill (0.5 s)"
    assert capsys.readouterr().out == f"g: would be stopped (PID {state.kernel.pid}): {ways}\n"


def test_others_are_stopped_when_one_cannot_be(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    setting.run()
    with pytest.raises(UmldiskError) as failed:
        command(setting, "nobody", "g", "no one")
    assert isinstance(failed.value, NoInputError)
    said = capsys.readouterr()
    assert said.out.startswith("g: stopped by SIGTERM")
    assert said.err.startswith("umldisk: error: ")
    assert "no one" in said.err


@pytest.mark.parametrize("words", ["", "cad", "cad=", "cad=-1", "cad=nan", "cad=1e999", "power=1", "=5", "cad=1=2"])
def test_a_timeout_that_makes_no_sense_is_refused(setting: Setting, words: str) -> None:
    with pytest.raises(click.BadParameter):
        command(setting, "--timeout", words, "g")


def test_the_command_ends_at_once_when_it_is_interrupted(setting: Setting) -> None:
    setting.run(ignores_term=True)
    script = (
        "import sys\nfrom umldisk.cli.failures import guarded\nfrom umldisk.cli.options import Globals\n"
        "from umldisk.cli.stop import stop\n"
        "def run():\n"
        "    words = ['--from', 'term', '--timeout', 'term=600', 'g']\n"
        "    with stop.make_context('stop', words, obj=Globals(site_dir=sys.argv[1])) as context:\n"
        "        print('up', flush=True)\n"
        "        stop.invoke(context)\n"
        "    return 0\n"
        "sys.exit(guarded('umldisk', run))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, setting.site.directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        until_it_watches(program)
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    assert process_id(setting.processes[0].pid).is_alive()
