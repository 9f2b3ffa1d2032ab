"""`umldisk merge`: its options, its three outputs, its report."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.oracle import Sample, allocated_bytes, run_umldisk, sample
from umldisk.cli.main import main
from umldisk.cow.creating import create
from umldisk.cow.file import CowFile
from umldisk.system import transfer

Captured = pytest.CaptureFixture[str]


SIZE_BYTES = 1 << 20
CLEARED = range(512, 1024)


@pytest.fixture
def files(tmp_path: Path) -> Sample:
    """Make a disk of 1 MiB: sectors 8 to 15 changed, 256 KiB discarded."""
    made = sample(tmp_path, size_bytes=SIZE_BYTES, changed={*range(8, 16), *CLEARED}, cleared=set(CLEARED))
    with made.cow.open("r+b") as stream, CowFile.open(made.cow) as cow:
        transfer.punch(stream.fileno(), cow.geometry.data_offset + CLEARED.start * 512, len(CLEARED) * 512)
    return made


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new"


def umldisk(*words: str | Path) -> int:
    return main([os.fspath(word) for word in words])


# -- a new image ------------------------------------------------------------------------------------------------------


def test_merge_makes_the_image_and_says_so(files: Sample, new: Path, capsys: Captured) -> None:
    assert umldisk("merge", files.cow, new) == 0
    assert new.read_bytes() == files.merged
    captured = capsys.readouterr()
    assert captured.err == ""
    first, second = captured.out.splitlines()
    assert first == f"{new}: a disk of 1 MiB from {files.cow} over {files.backing}"
    assert second.endswith(", 256 KiB left as holes")


def test_quiet_says_nothing(files: Sample, new: Path, capsys: Captured) -> None:
    assert umldisk("merge", "-q", files.cow, new) == 0
    assert capsys.readouterr() == ("", "")


def test_json_reports_everything(files: Sample, new: Path, capsys: Captured) -> None:
    assert umldisk("merge", "--json", "--verify", "--no-sync", files.cow, new) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["totals"].keys() == {"runs", "copied_bytes", "punched_bytes", "shared_bytes"}
    assert report["totals"]["punched_bytes"] == 256 * 1024
    expected = {
        "cow": str(files.cow),
        "backing": str(files.backing),
        "output": str(new),
        "size_bytes": SIZE_BYTES,
        "verified": True,
        "dry_run": False,
    }
    assert {name: report[name] for name in expected} == expected


def test_an_existing_image_is_replaced_with_force_only(files: Sample, new: Path, capsys: Captured) -> None:
    new.write_text("precious")
    assert umldisk("merge", files.cow, new) == 73
    assert capsys.readouterr().err.splitlines()[1] == "hint: replace it with --force"
    assert new.read_text() == "precious"
    assert umldisk("merge", "-f", files.cow, new) == 0
    assert new.read_bytes() == files.merged


@pytest.mark.parametrize("order", ["-b BACKING COW NEW", "COW -b BACKING NEW", "COW NEW --backing=BACKING"])
def test_backing_may_stand_anywhere(order: str, files: Sample, new: Path) -> None:
    moved = files.backing.rename(files.backing.with_name("moved"))
    words = order.replace("COW", str(files.cow)).replace("NEW", str(new)).replace("BACKING", str(moved))
    assert main(["merge", *words.split()]) == 0
    assert new.read_bytes() == files.merged


@pytest.mark.parametrize("option", ["-b", "--backing"])
@pytest.mark.parametrize("destructive_first", [True, False])
def test_backing_and_destructive_in_either_order(option: str, destructive_first: bool, files: Sample) -> None:
    moved = files.backing.rename(files.backing.with_name("moved"))
    words = ["-d", option, str(moved)] if destructive_first else [option, str(moved), "-d"]
    assert main(["merge", *words, str(files.cow)]) == 0
    assert moved.read_bytes() == files.merged


def test_another_mtime_needs_an_option(files: Sample, new: Path, capsys: Captured) -> None:
    os.utime(files.backing, (1, 1))
    assert umldisk("merge", files.cow, new) == 65
    assert "--ignore-mtime" in capsys.readouterr().err
    assert umldisk("merge", "--ignore-mtime", files.cow, new) == 0
    assert new.read_bytes() == files.merged


def test_a_truncated_file_needs_an_option(files: Sample, new: Path, capsys: Captured) -> None:
    with CowFile.open(files.cow) as cow:
        first_cleared = cow.geometry.data_offset + CLEARED.start * 512
    os.truncate(files.cow, first_cleared)
    assert umldisk("merge", files.cow, new) == 65
    assert "--accept-truncated" in capsys.readouterr().err
    assert umldisk("merge", "--accept-truncated", files.cow, new) == 0
    assert new.read_bytes() == files.merged


def test_the_dialect_can_be_given(files: Sample, new: Path, capsys: Captured) -> None:
    assert umldisk("merge", "--dialect", "v2", files.cow, new) == 65
    assert "version 2" in capsys.readouterr().err
    assert umldisk("merge", "--dialect", "v3", files.cow, new) == 0


@pytest.mark.parametrize("destructive", [True, False])
def test_no_sparse_allocates_what_sparse_leaves_out(destructive: bool, tmp_path: Path) -> None:
    found = {}
    for option in ("--sparse", "--no-sparse"):
        (tmp_path / option).mkdir()
        files = sample(tmp_path / option, size_bytes=1 << 20, changed=set(range(2048)), cleared=set(range(2048)))
        output = files.backing if destructive else files.cow.with_name("new")
        assert umldisk("merge", option, *(["-d", files.cow] if destructive else [files.cow, output])) == 0
        assert output.read_bytes() == files.merged
        found[option] = allocated_bytes(output)
    assert found["--sparse"] == 0
    assert found["--no-sparse"] >= 1 << 20


# -- dry run ----------------------------------------------------------------------------------------------------------


def state_of(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


@pytest.mark.parametrize("words", [["COW", "NEW"], ["COW", "-"], ["-d", "COW"], ["-d", "--reset", "COW"]])
def test_dry_run_tells_the_plan_and_touches_nothing(
    words: list[str], files: Sample, new: Path, capsys: Captured
) -> None:
    before = state_of(files.cow.parent)
    paths = {"COW": str(files.cow), "NEW": str(new)}
    assert main(["merge", "-n", *(paths.get(word, word) for word in words)]) == 0
    assert state_of(files.cow.parent) == before
    text = capsys.readouterr().out
    assert "would" in text
    assert " copied, 256 KiB " in text


@pytest.mark.parametrize("destructive", [True, False])
def test_the_plan_is_what_is_then_done(destructive: bool, files: Sample, new: Path, capsys: Captured) -> None:
    words = ["merge", "--json", *(["-d", str(files.cow)] if destructive else [str(files.cow), str(new)])]
    assert main([*words, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert (plan.pop("dry_run"), done.pop("dry_run")) == (True, False)
    assert plan["totals"] == done["totals"]


# -- stdout -----------------------------------------------------------------------------------------------------------


def test_the_stream_is_the_image_and_nothing_else(files: Sample) -> None:
    done = run_umldisk("merge", files.cow, "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, files.merged, b"")


def test_the_report_on_a_stream_goes_to_stderr(files: Sample) -> None:
    done = run_umldisk("merge", "--json", files.cow, "-")
    assert done.stdout == files.merged
    assert json.loads(done.stderr)["output"] == "-"


def test_a_terminal_gets_no_disk(files: Sample) -> None:
    controller, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "umldisk", "merge", str(files.cow), "-"]
        done = subprocess.run(command, check=False, stdout=terminal, stderr=subprocess.PIPE)
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 2
    assert done.stderr.startswith(b"umldisk: error: refusing to write a disk to the terminal\nhint: ")


@pytest.mark.parametrize("name", ["cow", "backing"])
def test_an_input_as_stdout_is_refused(name: str, files: Sample) -> None:
    path: Path = getattr(files, name)
    before = path.read_bytes()
    with path.open("ab") as stream:
        command = [sys.executable, "-m", "umldisk", "merge", str(files.cow), "-"]
        done = subprocess.run(command, check=False, stdout=stream, stderr=subprocess.PIPE)
    assert done.returncode == 65
    assert done.stderr.startswith(b"umldisk: error: the output is one of the inputs (standard output, ")
    assert path.read_bytes() == before


# -- into the backing file --------------------------------------------------------------------------------------------


def test_destructive_merges_in_place_and_says_so(files: Sample, capsys: Captured) -> None:
    assert umldisk("merge", "-d", "--verify", files.cow) == 0
    assert files.backing.read_bytes() == files.merged
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{files.backing}: got the changes of {files.cow}"
    assert second.endswith("4 KiB in 1 run copied, 256 KiB punched, verified")


def test_reset_leaves_an_empty_cow(files: Sample, capsys: Captured) -> None:
    assert umldisk("merge", "-d", "--reset", files.cow) == 0
    assert f"{files.cow}: is empty, on the merged backing file" in capsys.readouterr().out
    with CowFile.open(files.cow) as cow:
        assert list(cow.runs()) == []
        assert cow.read(0, SIZE_BYTES) == files.merged


def test_siblings_are_refused_kept_or_given_up(files: Sample, capsys: Captured) -> None:
    sibling = files.cow.with_name("sibling")
    create(sibling, files.backing)
    old = files.backing.read_bytes()
    assert umldisk("merge", "-d", files.cow) == 65
    assert str(sibling) in capsys.readouterr().err
    assert files.backing.read_bytes() == old
    assert umldisk("merge", "-d", "--keep-siblings", files.cow) == 0
    assert f"{sibling}: goes on seeing what it saw" in capsys.readouterr().out
    assert files.backing.read_bytes() == files.merged
    with CowFile.open(sibling) as kept:
        assert kept.read(0, SIZE_BYTES) == old


def test_orphaned_siblings_do_not_hinder(files: Sample, new: Path) -> None:
    sibling = files.cow.with_name("sibling")
    create(sibling, files.backing)
    assert umldisk("merge", "-d", "--orphan-siblings", files.cow) == 0
    assert files.backing.read_bytes() == files.merged
    assert umldisk("merge", sibling, new) == 65


# -- what makes no sense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["COW"], "missing argument 'NEW'"),
        (["-d", "COW", "NEW"], "--destructive takes no NEW"),
        (["-d", "-f", "COW"], "--force replaces NEW"),
        (["-d", "--keep-siblings", "--orphan-siblings", "COW"], "--keep-siblings and --orphan-siblings exclude"),
        (["--reset", "COW", "NEW"], "--reset goes with --destructive only"),
        (["--keep-siblings", "COW", "NEW"], "--keep-siblings goes with --destructive only"),
        (["--orphan-siblings", "COW", "NEW"], "--orphan-siblings goes with --destructive only"),
        (["--verify", "COW", "-"], "--verify cannot read back"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(
    words: list[str], message: str, tmp_path: Path, capsys: Captured
) -> None:
    paths = {"COW": str(tmp_path / "no-such-cow"), "NEW": str(tmp_path / "no-such-new")}
    assert main(["merge", *(paths.get(word, word) for word in words)]) == 2
    assert capsys.readouterr().err.startswith(f"umldisk: error: {message}")
    assert list(tmp_path.iterdir()) == []
