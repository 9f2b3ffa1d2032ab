"""What a check finds around a COW file, who uses it and what lies on the disk; and how the command shows findings."""

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.faulty import MAKERS, PAGE_7, SIZE, base, pair, patch
from tests.kit.guest import ScriptGuest
from tests.kit.model import write_cow, write_image
from tests.kit.peers import mounted, needs
from tests.test_check import codes, only
from umldisk.cli.main import main
from umldisk.cow.checking import check
from umldisk.cow.findings import CODES, CheckReport, Finding, Severity, finding
from umldisk.cow.layers import Layer
from umldisk.errors import DataError, NoInputError, StorageError
from umldisk.ops.examine import examine

Captured = pytest.CaptureFixture[str]

_HOLD = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX if sys.argv[2] == "write" else fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def held(path: Path, kind: str, *words: str) -> Iterator[int]:
    """Let another process hold a POSIX lock, as UML does; yields its PID."""
    command = [sys.executable, "-c", _HOLD, str(path), kind, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process.pid
        finally:
            process.kill()


# -- who uses it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "read"])
def test_a_locked_cow_file_names_its_user(tmp_path: Path, kind: str) -> None:
    cow, _backing, _header = pair(tmp_path)
    with held(cow, kind, "umid=blackdance") as pid:
        report = check(cow)
    assert codes(report) == {"locked"}
    assert f"by PID {pid}, umid blackdance" in only(report, "locked").message
    assert codes(check(cow)) == set()


def test_a_backing_file_may_be_read_but_not_written(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    with held(backing, "read"):
        assert codes(check(cow)) == set()
    with held(backing, "write") as pid:
        report = check(cow)
    assert codes(report) == {"backing-locked"}
    assert f"by PID {pid}" in only(report, "backing-locked").message
    assert not report.ok


@needs("linux")
def test_a_running_guest_is_named(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    script = "exec 3</dev/ubda; echo open; busybox sleep 60"
    with ScriptGuest(script, [f"{cow},{backing}"], arguments=["umid=blackdance"]) as guest:
        guest.wait_for("open\r?\n")
        report = check(cow)
        assert f"by PID {guest.pid}, umid blackdance" in only(report, "locked").message
        assert codes(report) == {"locked"}


# -- what lies on the disk --------------------------------------------------------------------------------------------


def ext_image(directory: Path, block_bytes: int) -> Path:
    image = directory / f"ext_{block_bytes}"
    image.touch()
    os.truncate(image, 8 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", "-b", str(block_bytes), str(image)], check=True)
    return image


@needs("mke2fs")
@pytest.mark.parametrize(("block_bytes", "found"), [(1024, {"small-blocks"}), (2048, {"small-blocks"}), (4096, set())])
def test_small_blocks_on_the_backing_file(tmp_path: Path, block_bytes: int, found: set[str]) -> None:
    cow = tmp_path / "root_cow"
    write_cow(cow, ext_image(tmp_path, block_bytes), {})
    report = examine(cow)
    assert codes(report) == found
    assert report.ok == (not found)
    assert codes(check(cow)) == set()


@needs("mke2fs")
def test_small_blocks_that_only_the_merged_view_has(tmp_path: Path) -> None:
    first_page = ext_image(tmp_path, 1024).read_bytes()[:4096]
    backing = write_image(tmp_path / "blank_fs", bytes(8 << 20))
    cow = tmp_path / "root_cow"
    write_cow(cow, backing, {sector: first_page[sector * 512 :][:512] for sector in range(8)})
    assert codes(examine(cow)) == {"small-blocks"}


def test_probes_see_what_a_guest_would_see(tmp_path: Path) -> None:
    cow, _backing, _header = pair(tmp_path)
    seen = bytearray(1024)

    def probe(view: Layer) -> Iterator[Finding]:
        view.read_into(56 * 512 - 512, memoryview(seen))
        yield finding("small-blocks", "so it seems")

    report = check(cow, probes=[probe, probe])
    assert [one.code for one in report.findings if one.code == "small-blocks"] == ["small-blocks"] * 2
    assert bytes(seen) == b"base" * 128 + b"x" * 512


def test_nobody_looks_through_a_stack_with_a_file_missing(tmp_path: Path) -> None:
    def probe(view: Layer) -> Iterator[Finding]:
        raise AssertionError(view)

    assert codes(check(MAKERS["backing-missing"][0](tmp_path), probes=[probe])) == {"backing-missing"}


def test_a_disk_that_cannot_be_read_is_an_error_and_no_finding(tmp_path: Path) -> None:
    def probe(view: Layer) -> Iterator[Finding]:
        raise OSError(errno.EIO, "Input/output error")

    cow, _backing, _header = pair(tmp_path)
    with pytest.raises(StorageError) as raised:
        check(cow, probes=[probe])
    assert raised.value.line() == f"cannot read: Input/output error ({cow})"


@needs("tmpfs")
def test_a_file_on_tmpfs(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path) as point:
        cow, _backing, _header = pair(point)
        report = check(cow)
        assert {one.code for one in report.findings} == {"on-tmpfs"}
        assert report.ok


# -- what is no finding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "contents", [b"", b"OOO", b"OOOM", b"OOOM\0\0\0\3", b"OOOM\0\0\0\x09" + bytes(5000), bytes(5000)]
)
def test_a_file_that_is_no_cow_file(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents)
    with pytest.raises(DataError):
        check(path)


@pytest.mark.parametrize("name", ["missing", "directory", "fifo", "loop"])
def test_what_is_no_file_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    started = time.monotonic()
    with pytest.raises(NoInputError):
        check(tmp_path / name)
    assert time.monotonic() - started < 60


# -- findings ---------------------------------------------------------------------------------------------------------


def test_the_worst_come_first_and_equals_keep_their_order() -> None:
    order = ["siblings", "mixed-pages", "old-dialect", "data-cut", "merged", "alignment"]
    report = CheckReport.of("cow", [finding(code, code) for code in order])
    assert [one.code for one in report.findings] == [
        "mixed-pages",
        "data-cut",
        "old-dialect",
        "alignment",
        "siblings",
        "merged",
    ]
    assert not report.ok
    assert CheckReport.of("cow", [finding("alignment", "", severity=Severity.NOTE)]).ok


def test_codes_are_documented_in_one_sentence_each() -> None:
    for code, about in CODES.items():
        assert code == code.lower().strip("-")
        assert code.replace("-", "").isalpha()
        assert about.meaning.endswith(".")
        assert about.meaning[0].isupper()


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_for_a_sound_file(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    assert main(["check", str(cow)]) == 0
    assert capsys.readouterr().out.startswith(f"{cow}: ")


def test_the_command_for_a_file_with_errors(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["mixed-pages"][0](tmp_path)
    write_cow(tmp_path / "other_cow", base(tmp_path, name="other_fs"), PAGE_7)
    assert main(["check", str(cow)]) == 1
    first, line, hint, *_rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{cow}: 1 error")
    assert line.startswith("error: mixed-pages: 1 page holds")
    assert line.endswith("(from sector 16)")
    assert hint == "  hint: fill them: umldisk align COW"


def test_warnings_alone_are_no_failure(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["alignment"][0](tmp_path)
    assert main(["check", str(cow)]) == 0
    assert "warning: alignment: " in capsys.readouterr().out


def test_the_report_as_json(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["data-cut"][0](tmp_path)
    assert main(["check", "--json", str(cow)]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["path"], shown["ok"]) == (str(cow), False)
    (found,) = (one for one in shown["findings"] if one["code"] == "data-cut")
    assert set(found) == {"code", "severity", "message", "hint", "where", "sector", "count"}
    assert (found["severity"], found["sector"], found["where"]) == ("error", 58, str(cow))


def test_quiet_leaves_the_exit_code(tmp_path: Path, capsys: Captured) -> None:
    assert main(["check", "-q", str(MAKERS["mixed-pages"][0](tmp_path))]) == 1
    assert capsys.readouterr().out == ""


def test_names_of_any_bytes_are_shown_safely(tmp_path: Path, capsys: Captured) -> None:
    strange = tmp_path / os.fsdecode(b"a\x1b[31m\xff")
    strange.mkdir()
    cow = MAKERS["backing-missing"][0](strange)
    assert main(["check", str(cow)]) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "a\\x1b[31m\\xff/root_fs" in text


def test_another_layout_by_hand(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["ambiguous-dialect"][0](tmp_path)
    assert main(["check", "--dialect", "v2-64", str(cow)]) == 1
    text = capsys.readouterr().out
    assert "error: dialect-unbootable" in text
    assert "error: backing-size" in text
    assert "ambiguous" not in text


def test_a_backing_file_by_hand(tmp_path: Path, capsys: Captured) -> None:
    cow = MAKERS["backing-missing"][0](tmp_path)
    other = base(tmp_path, SIZE // 2, name="elsewhere")
    assert main(["check", "-b", str(other), str(cow)]) == 1
    assert f"error: backing-size: the backing file has {SIZE // 2} bytes" in capsys.readouterr().out


def test_damage_is_an_error_of_its_own(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    patch(cow, 20, bytes(4))
    assert main(["check", str(cow)]) == 65
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("umldisk: error: bad sectorsize in the COW header")
