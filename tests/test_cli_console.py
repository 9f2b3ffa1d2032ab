"""`umldisk console` as people give it, against a made-up guest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.kit.mconsole_peer import Peer, answers, packet, sends, stays_silent
from umldisk.cli.console import console
from umldisk.cli.group import group
from umldisk.cli.options import Globals
from umldisk.errors import NoInputError, StorageError, UsageError
from umldisk.guest.mconsole.client import NoAnswerError


def run(*words: str | Path, site: Path | None = None) -> None:
    """Run the command; what goes wrong is raised."""
    settings = Globals(site_dir=None if site is None else str(site))
    arguments = [str(word) for word in words]
    console.main(arguments, "umldisk console", standalone_mode=False, obj=settings, **group.context_settings)


def test_a_guest_is_named_by_its_umid(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(uml_dir, answers("first\tline\nsecond \x1b[31m\n")) as peer:
        run("--uml-dir", uml_dir, "test", "--", "proc", "meminfo")
    assert peer.commands == [b"proc meminfo"]
    assert capsys.readouterr().out == "first   line\nsecond \\x1b[31m\n"


def test_a_guest_is_named_by_its_socket(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(uml_dir, answers("")) as peer:
        run("--socket", peer.path, "--", "log", "a", "line", "--with", "options")
    assert peer.commands == [b"log a line --with options"]
    assert capsys.readouterr().out == ""


def test_json_is_the_whole_report(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(uml_dir, answers(b"a\xff\n")) as peer:
        run("--json", "--uml-dir", uml_dir, "test", "version")
    assert json.loads(capsys.readouterr().out) == {
        "guest": "test",
        "socket": str(peer.path),
        "command": "version",
        "text": "a\udcff",
        "complete": True,
    }


def test_only_raw_sends_what_is_not_known(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(uml_dir, answers("ok")) as peer:
        with pytest.raises(UsageError, match="no such mconsole command"):
            run("--uml-dir", uml_dir, "test", "--", "cad2")
        run("--raw", "--uml-dir", uml_dir, "test", "--", "cad2")
    assert peer.commands == [b"cad2"]
    assert capsys.readouterr().out == "ok\n"


def test_what_came_of_an_answer_that_was_cut_off_is_printed(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str | Path] = ["--timeout", "0.2", "--uml-dir", uml_dir, "test", "sysrq", "m"]
    with Peer(uml_dir, sends(packet(b"some of it\n", more=True))):
        with pytest.raises(NoAnswerError, match="cut off"):
            run(*words)
        assert capsys.readouterr().out == "some of it\n"
        with pytest.raises(NoAnswerError, match="cut off"):
            run("--json", *words)
        assert json.loads(capsys.readouterr().out)["complete"] is False


def test_a_silent_guest_prints_nothing(uml_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer(uml_dir, stays_silent), pytest.raises(NoAnswerError, match=r"within 0\.2 s"):
        run("--timeout", "0.2", "--uml-dir", uml_dir, "test", "version")
    assert capsys.readouterr().out == ""


def test_a_refusal_is_an_error(uml_dir: Path) -> None:
    with Peer(uml_dir, answers("Not stopped", error=1)), pytest.raises(StorageError, match="refused go: Not stopped"):
        run("--uml-dir", uml_dir, "test", "go")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--uml-dir", "/tmp", "test"], "there is no COMMAND"),
        (["--uml-dir", "/tmp", "--socket", "/tmp/x", "version"], "exclude each other"),
        (["--uml-dir", "/tmp", "..", "version"], "not a umid"),
        (["--uml-dir", "/tmp", "a/b", "version"], "not a umid"),
        (["--uml-dir", "/tmp", "", "version"], "not a umid"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words)


def test_a_guest_that_umldisk_did_not_start_has_to_be_named_otherwise(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="does not run") as caught:
        run("blackdance", "version", site=tmp_path)
    assert "--uml-dir" in (caught.value.hint or "")
    with pytest.raises(NoInputError, match="no guest listens here"):
        run("--uml-dir", tmp_path, "blackdance", "version")
    assert os.listdir(tmp_path) == []
