"""`umldisk checkpoint`: take, list, show, diff and export."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.kit.command_line import CommandLine
from tests.kit.commands import Commands, commands, holding, time_zone
from tests.kit.histories import FIRST_NIGHT, TAKEN
from tests.kit.model import merged, read_cow
from tests.kit.restorable import VAR
from umldisk.checkpoint.catalog import CATALOG_NAME, Catalog
from umldisk.checkpoint.record import Kind, Record, digest_of
from umldisk.cow.file import CowFile


@pytest.fixture
def umldisk(tmp_path: Path) -> Commands:
    return commands(tmp_path)


# -- take -------------------------------------------------------------------------------------------------------------


def test_a_night_is_told_in_a_line(umldisk: Commands) -> None:
    said = umldisk("checkpoint", "take", "blackdance")
    assert (said.code, said.err) == (0, "")
    (line,) = said.lines
    assert line.startswith("blackdance var: checkpoint 3: 128 KiB of 1 MiB changed since 2, 128 KiB stored in ")
    assert umldisk("checkpoint", "export", "blackdance", "3", umldisk.directory / "var").code == 0
    assert (umldisk.directory / "var").read_bytes() == umldisk.broken.seen(VAR)


def touch_within_the_second(path: Path) -> None:
    """Change a file's mtime to the middle of the same second, which is all that a COW file names of it."""
    status = path.stat()
    seconds, nanoseconds = divmod(status.st_mtime_ns, 1_000_000_000)
    other = 400_000_000 if nanoseconds > 500_000_000 else 600_000_000
    os.utime(path, ns=(status.st_atime_ns, seconds * 1_000_000_000 + other))


def test_a_whole_reading_is_told_with_its_reason(umldisk: Commands) -> None:
    touch_within_the_second(umldisk.guest / "root_fs")
    said = umldisk("checkpoint", "take", "blackdance", "root")
    assert said.lines[1] == "  all of its data was read: nothing is recorded of the backing file yet"


def test_quiet_is_silent_on_success_only(umldisk: Commands) -> None:
    assert umldisk("checkpoint", "take", "-q", "blackdance").out == ""
    with holding(umldisk.guest / "var_cow") as pid:
        said = umldisk("checkpoint", "take", "-q", "blackdance")
    assert (said.code, said.out) == (75, "")
    assert f"by PID {pid}" in said.err
    assert umldisk("checkpoint", "take", "-q", "blackdance").code == 0


def test_a_rehearsal_records_nothing(umldisk: Commands) -> None:
    said = umldisk("checkpoint", "take", "-n", "blackdance", "--metrics", umldisk.directory / "m")
    assert said.lines == ["blackdance var: 128 KiB of 1 MiB would be read"]
    assert not (umldisk.directory / "m").exists()
    assert len(umldisk("checkpoint", "list", "--json").json["checkpoints"]) == 2


def test_merging_leaves_an_empty_cow_file(umldisk: Commands) -> None:
    seen = umldisk.broken.seen(VAR)
    said = umldisk("checkpoint", "take", "--merge", "--reason", "nightly", "--tag", "a", "--tag", "b", "blackdance")
    assert said.lines[-1] == "  the COW file was merged into the backing file and is empty now"
    assert (umldisk.guest / "var_fs").read_bytes() == seen
    with CowFile.open(umldisk.guest / "var_cow") as cow:
        assert list(cow.runs()) == []
    (row,) = umldisk("checkpoint", "list", "--tag", "b", "--json").json["checkpoints"]
    assert (row["reason"], row["tags"], row["merged"]) == ("nightly", ["a", "b"], True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["take", "--keep-siblings", "blackdance"], "--keep-siblings and --orphan-siblings go with --merge only"),
        (["take", "blackdance", "etc"], "blackdance has no such drive"),
        (["take", "--lock-wait", "-1", "blackdance"], "invalid value for '--lock-wait'"),
        (["show", "blackdance", "yesterday"], "not the name of a checkpoint"),
        (["show", "blackdance", "0"], "not the name of a checkpoint"),
        (["list", "../x"], "not a name for a guest"),
        (["diff", "blackdance", "1"], "missing argument 'RIGHT'"),
        (["export", "--cow", "x", "blackdance", "1", "-"], "--cow needs a file as OUT"),
        (["chekc"], "no such command 'chekc'"),
        ([], "missing command"),
    ],
)
def test_usage_errors(umldisk: Commands, words: list[str], message: str) -> None:
    said = umldisk("checkpoint", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"umldisk: error: {message}")


# -- list and show ----------------------------------------------------------------------------------------------------


def test_a_list_has_local_times_and_lines_up(umldisk: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    umldisk("checkpoint", "protect", "blackdance", "1")
    with time_zone("Asia/Kathmandu", monkeypatch):
        head, first, second = umldisk("checkpoint", "list", "blackdance").lines
    assert head.split() == ["number", "drive", "time", "age", "size", "changed", "stored", "tags", "marks"]
    assert first.split()[:4] == ["1", "var", "2024-11-18", "09:00:00"]
    assert first.endswith("  protected")
    assert head.index("time") == first.index("2024-11-18") == second.index("2024-11-19")
    assert head.index("changed") + len("changed") == first.index("832 KiB") + len("832 KiB")


def test_a_list_of_all_guests_names_them(umldisk: Commands) -> None:
    head, *rows = umldisk("checkpoint", "list").lines
    assert head.startswith("guest ")
    assert [row.split()[:2] for row in rows] == [["blackdance", "1"], ["blackdance", "2"]]


def test_marks_tell_what_happened_to_a_checkpoint(umldisk: Commands) -> None:
    umldisk("checkpoint", "verify", "blackdance", "2")
    umldisk("checkpoint", "prune", "--keep-last", "1", "blackdance")
    assert [row["number"] for row in umldisk("checkpoint", "list", "--json").json["checkpoints"]] == [2]
    _head, first, second = umldisk("checkpoint", "list", "-a", "blackdance").lines
    assert first.endswith("  deleted")
    assert second.endswith("  verified")


def test_without_any_checkpoint_a_list_is_empty(tmp_path: Path) -> None:
    umldisk = CommandLine(tmp_path)
    assert umldisk("checkpoint", "list", "x").lines == ["x: no checkpoints"]
    assert umldisk("checkpoint", "show", "x", "latest").code == 66
    assert os.listdir(tmp_path) == []


def test_a_store_without_its_catalog_is_not_taken_for_nothing(umldisk: Commands) -> None:
    (umldisk.directory / CATALOG_NAME).unlink()
    said = umldisk("checkpoint", "list")
    assert said.code == 66
    assert said.err.splitlines()[1] == "hint: make it anew from the store with: umldisk checkpoint rebuild"


def test_show_tells_the_checkpoint_and_what_was_said_since(umldisk: Commands) -> None:
    umldisk("checkpoint", "tag", "blackdance", "gold", "1")
    shown = umldisk("checkpoint", "show", "--json", "blackdance", "2024-11-18").json
    assert (shown["number"], shown["parent"], shown["read_whole"], shown["tags"]) == (1, None, True, ["gold"])
    assert shown["time"] == "2024-11-18T03:15:00+00:00"
    assert [(one["number"], one["kind"], one["detail"]) for one in shown["later"]] == [(3, "tag", "gold")]
    text = umldisk("checkpoint", "show", "blackdance", "1").out
    for value in (shown["index_sha256"], shown["digest"], "1 MiB (1048576 bytes)", "the guest was off", "gold"):
        assert value in text


def test_ten_thousand_checkpoints_are_listed_quickly(tmp_path: Path, bare_environment: dict[str, str]) -> None:
    with Catalog.open(tmp_path / CATALOG_NAME, writable=True) as catalog, catalog.transaction():
        previous = ""
        for number in range(1, 10_001):
            taken, time = replace(TAKEN, parent=number - 1 or None), FIRST_NIGHT + timedelta(hours=number)
            record = Record("web", number, time, Kind.CHECKPOINT, previous, "host", "1", taken)
            previous = digest_of(record.build())
            catalog.add(record, previous)
    command = [sys.executable, "-m", "umldisk", "--site", str(tmp_path), "checkpoint", "list", "web"]
    took = []
    for _again in range(3):
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=bare_environment)
        after = os.times()
        assert len(done.stdout.splitlines()) == 10_001
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 1.0  # half a second on a machine that does nothing else


# -- diff and export --------------------------------------------------------------------------------------------------


def test_a_difference_is_told_exactly_or_by_chunks(umldisk: Commands) -> None:
    nights = umldisk.broken.nights
    exact = umldisk("checkpoint", "diff", "--exact", "--json", "blackdance", "1", "latest")
    found = {run["start"] + nth for run in exact.json["runs"] for nth in range(run["sectors"])}
    wanted = {n for n in range(2048) if nights[1][n * 512 : n * 512 + 512] != nights[2][n * 512 : n * 512 + 512]}
    assert (exact.code, found) == (1, wanted)
    coarse = umldisk("checkpoint", "diff", "blackdance", "1", "2").lines
    assert coarse[0].startswith("blackdance var: checkpoints 1 and 2 may differ in 128 KiB, in 2 runs")
    assert coarse[2].split() == ["0", "128", "0", "65536"]


def test_a_checkpoint_does_not_differ_from_itself(umldisk: Commands) -> None:
    said = umldisk("checkpoint", "diff", "blackdance", "2", "latest")
    assert (said.code, said.lines) == (0, ["blackdance var: checkpoints 2 and 2 are the same"])


def test_checkpoints_of_different_drives_are_not_compared(umldisk: Commands) -> None:
    umldisk("checkpoint", "take", "blackdance", "root")
    said = umldisk("checkpoint", "diff", "blackdance", "1", "3")
    assert (said.code, said.err) == (
        2,
        "umldisk: error: the checkpoints are of different drives (found var and root)\n",
    )
    assert umldisk("checkpoint", "show", "--drive", "root", "blackdance", "1").code == 2


def test_every_night_is_exported_as_image_and_as_cow(umldisk: Commands) -> None:
    for number, image in umldisk.broken.nights.items():
        out, cow = umldisk.directory / f"image{number}", umldisk.directory / f"cow{number}"
        assert umldisk("checkpoint", "export", "blackdance", str(number), out).code == 0
        assert out.read_bytes() == image
        backing = umldisk.guest / "var_fs"
        said = umldisk("checkpoint", "export", "--cow", backing, "blackdance", str(number), cow)
        assert said.code == 0
        assert merged(backing.read_bytes(), read_cow(cow)[1]) == image
    assert umldisk("checkpoint", "export", "blackdance", "1", out).code == 73
    assert umldisk("checkpoint", "export", "-f", "blackdance", "1", out).code == 0
    assert out.read_bytes() == umldisk.broken.nights[1]


def test_an_image_goes_to_a_pipe(umldisk: Commands) -> None:
    command = [sys.executable, "-m", "umldisk", "--site", str(umldisk.directory)]
    done = subprocess.run([*command, "checkpoint", "export", "blackdance", "1", "-"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == umldisk.broken.nights[1]
