"""`umldisk build` that is interrupted, has odd streams, runs twice at once or beside a guest, or only rehearses."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import extimage
from tests.kit.guest import ScriptGuest
from tests.kit.peers import needs
from tests.kit.sites import until
from tests.reliability.members import archive, sparse
from tests.reliability.yard import Yard
from umldisk.image.drives import DRIVES
from umldisk.image.ext import LATEST_SECONDS
from umldisk.system.process import find_program

pytestmark = [needs("mke2fs", "debugfs", "e2fsck", "busybox"), pytest.mark.slow]

USAGE, DATA, NO_INPUT, CANNOT_CREATE, STORAGE, BUSY = 2, 65, 66, 73, 74, 75
SET = {*(drive.file_name for drive in DRIVES), "manifest.json", ".lock"}
WAIT_SECONDS = 60


_SLOW = """\
#!/bin/sh
case "$*" in *" -d "*) : >"{directory}/started"; exec sleep {seconds};; esac
exec "{program}" "$@"
"""


@contextlib.contextmanager
def _building(yard: Yard, *words: str, seconds: int = WAIT_SECONDS) -> Iterator[subprocess.Popen[str]]:
    """Give a build that has come to writing its disks, which takes so long."""
    programs = yard.top.parent / "programs"
    programs.mkdir()
    script = programs / "mke2fs"
    script.write_text(_SLOW.format(directory=programs, seconds=seconds, program=find_program("mke2fs")))
    script.chmod(0o755)
    with yard.start(*words, PATH=f"{programs}:{os.environ['PATH']}") as process:
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not (programs / "started").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            yield process
        finally:
            yard.kill_left_over()


@pytest.mark.parametrize("to_all", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_build_at_once_and_leaves_nothing(number: signal.Signals, to_all: bool, yard: Yard) -> None:
    yard.built()
    before = yard.snapshot()
    with _building(yard, "--force", "x") as process:
        started = time.monotonic()
        (os.killpg if to_all else os.kill)(process.pid, number)
        out, said = process.communicate(timeout=WAIT_SECONDS)
        assert time.monotonic() - started < WAIT_SECONDS / 3
        assert process.returncode == (130 if number is signal.SIGINT else -number)
        assert (out, said) == ("", "")
        assert yard.processes() == []
    assert yard.snapshot() == before
    yard.require_whole()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build_in_the_middle_of_a_hole(number: signal.Signals, yard: Yard, base: Path) -> None:
    """The hole takes hours to hash."""
    base.write_bytes(archive(sparse("f", 15 << 40)))
    with yard.start("--base", str(base), "x") as process:
        try:
            until(lambda: process.poll() is not None or any(map(os.path.getsize, yard.guest("x").rglob("pool/*"))))
            os.kill(process.pid, number)
            out, said = process.communicate(timeout=WAIT_SECONDS)
        finally:
            yard.kill_left_over()
    assert process.returncode == (130 if number is signal.SIGINT else -number)
    assert (out, said) == ("", "")
    assert os.listdir(yard.guest("x")) == [".lock"]


def test_a_kill_leaves_what_the_next_build_clears(yard: Yard) -> None:
    with _building(yard, "x") as process:
        process.kill()
        process.wait()
        assert (yard.guest("x") / ".building").is_dir()
    yard.built()
    assert set(os.listdir(yard.guest("x"))) == SET


def test_of_two_builds_of_one_guest_the_second_is_busy(yard: Yard) -> None:
    with _building(yard, "x") as process:
        busy = rf"umldisk: error: the guest is being built by PID {process.pid} \({yard.guest('x')}\)\n"
        for words in (("x",), ("--force", "x"), ("--verify-reproducible", "x")):
            argv = yard.argv(*words)
            done = subprocess.run(argv, env=yard.environment, capture_output=True, text=True, check=False)
            assert done.returncode == BUSY
            assert re.fullmatch(busy, done.stderr), done.stderr
        assert process.poll() is None
        with yard.start("-q", "y") as other:
            assert other.wait(WAIT_SECONDS) == 0
    yard.built()


@needs("linux", "setarch")
def test_a_guest_that_runs_keeps_its_disks(yard: Yard) -> None:
    yard.built()
    directory = yard.guest("x")
    disks = [f"{directory}/root_cow,{directory}/root_fs", f"{directory}/tmp_fs"]
    script = "mount -t ext4 /dev/ubdb /mnt && echo in use && read line; umount /mnt"
    with ScriptGuest(script, disks) as guest:
        guest.wait_for("in use")
        for words in (("--force",), ("--force", "--dry-run"), ("--force", "--verify-reproducible")):
            said = yard.refused(BUSY, "in use by PID", *words)
            assert f"by PID {guest.pid}, umid {guest.umid} ({directory}/" in said
        guest.send("go\n")
        assert guest.finish().status == 0
    yard.built()
    assert (directory / "replaced-1/root_cow").exists()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_not_matter(closed: tuple[int, ...], yard: Yard) -> None:
    done = yard.build("x", setup=lambda: os.closerange(closed[0], closed[-1] + 1))
    assert done.returncode == 0
    yard.require_whole()


def test_an_output_that_nobody_takes(yard: Yard) -> None:
    for words in ("", "--json"):
        for sink, code in ((">/dev/full", STORAGE), ("| true", 141)):
            command = f'set -o pipefail; "$@" --force {words} x {sink}'
            argv = ["bash", "-c", command, "bash", *yard.argv()]
            done = subprocess.run(argv, env=yard.environment, capture_output=True, text=True, check=False)
            assert done.returncode == code
            assert len(done.stderr.splitlines()) == (code == STORAGE)
            assert "Traceback" not in done.stderr
    yard.require_whole()


def test_a_standard_input_that_holds_no_archive(yard: Yard) -> None:
    def refused(code: int, says: str, stdin: int) -> None:
        yard.refused(code, says, "--base", "-", stdin=stdin)
        os.close(stdin)

    reading, writing = os.pipe()
    os.close(writing)
    refused(DATA, "found nothing", reading)
    refused(DATA, "found nothing", os.open("/dev/null", os.O_RDONLY))
    refused(DATA, "found zeros", os.open("/dev/zero", os.O_RDONLY))
    refused(DATA, "unknown kind", os.open("/dev/urandom", os.O_RDONLY))
    refused(STORAGE, "cannot read", os.open("/dev/null", os.O_WRONLY))
    master, terminal = os.openpty()
    refused(NO_INPUT, "found a terminal", terminal)
    os.close(master)
    ours, theirs = socket.socketpair()
    ours.close()
    refused(DATA, "found nothing", theirs.detach())
    yard.refused(DATA, "found nothing", "--base", "-", setup=lambda: os.close(0))
    yard.refused(USAGE, "cannot be read twice", "--base", "-", "--verify-reproducible")


def test_a_dry_run_writes_nothing_whatever_the_base(yard: Yard, memory: Path) -> None:
    tree, image, tar = memory / "tree", memory / "image", memory / "tar"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_text("hello")
    extimage.make_image(image, tree=tree)
    subprocess.run(["tar", "-czf", tar, "-C", tree, "."], check=True)
    subprocess.run(["bzip2", "-k", image], check=True)
    yard.built(guest="standing")
    before = yard.snapshot()
    for base in ("busybox", tree, tar, image, f"{image}.bz2", "debian:bookworm"):
        for words in (("x",), ("--force", "standing")):
            done = yard.build("--dry-run", "--base", base, *words)
            assert (done.returncode, done.stderr) == (0, "")
            assert "would make 5 disks" in done.stdout
    with tar.open("rb") as stream:
        assert yard.build("--dry-run", "--base", "-", "x", stdin=stream).returncode == 0
    yard.refused(CANNOT_CREATE, "has disks already", "--dry-run", guest="standing")
    assert yard.snapshot() == before


_UNSTEADY = """\
#!/bin/bash
case "$*" in *" -d "*) date +%s%N >"${{@: -2:1}}/now";; esac
exec "{program}" "$@"
"""


def test_a_build_that_is_not_reproducible_is_not_put_in_place(yard: Yard) -> None:
    assert yard.build("-q", "--verify-reproducible", "x").returncode == 0
    yard.require_whole()
    before = yard.snapshot()
    programs = yard.top.parent / "programs"
    programs.mkdir()
    (programs / "mke2fs").write_text(_UNSTEADY.format(program=find_program("mke2fs")))
    (programs / "mke2fs").chmod(0o755)
    words = ("--force", "--verify-reproducible", "x")
    done = yard.build(*words, PATH=f"{programs}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (1, "")
    assert "two builds of the same inputs differ; nothing was put in place" in done.stdout
    assert yard.snapshot() == before


@pytest.mark.parametrize("epoch", [0, 1, 0xFFFFFFFF, LATEST_SECONDS, 99_999_999_999])
def test_any_time_can_be_the_latest(epoch: int, yard: Yard, memory: Path) -> None:
    old, new = memory / "tree/old", memory / "tree/new"
    old.parent.mkdir()
    for path, seconds in ((old, -5), (new, 20_000_000_000)):
        path.touch()
        os.utime(path, (seconds, seconds))
    base = memory / "base.tar"
    subprocess.run(["tar", "--format=pax", "-cf", base, "-C", old.parent, "."], check=True)
    yard.built("--base", base, SOURCE_DATE_EPOCH=str(epoch))
    digests = [_time_and_digests(yard)]
    yard.built("--base", base, SOURCE_DATE_EPOCH=str(epoch), TZ="Asia/Kathmandu")
    assert _time_and_digests(yard) == digests[0]
    said = extimage.debugfs(yard.guest("x") / "root_fs", "stat /new")
    assert f"mtime: 0x{min(epoch, LATEST_SECONDS, 20_000_000_000) & 0xFFFFFFFF:08x}:" in said
    assert "mtime: 0xfffffffb:" in extimage.debugfs(yard.guest("x") / "root_fs", "stat /old")


def _time_and_digests(yard: Yard) -> object:
    manifest = json.loads((yard.guest("x") / "manifest.json").read_text())
    return manifest["time"], manifest["drives"]
