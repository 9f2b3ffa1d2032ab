"""The store on a directory when things go wrong: failing calls, a full disk, writers that are killed."""

import errno
import gc
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kit.faults import failing
from tests.kit.peers import mounted, needs
from tests.kit.store_contract import ROOT, child, chunk
from umldisk.checkpoint import pending
from umldisk.checkpoint.directory_place import Place
from umldisk.checkpoint.index import name_of
from umldisk.checkpoint.store import base_key, chunk_key, index_key, record_key
from umldisk.checkpoint.stores import open_store
from umldisk.errors import StorageError

INDEX, RECORD = index_key("web", 1), record_key("web", 1)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_after_a_failed_sync_nothing_is_acknowledged(place: Path) -> None:
    store = open_store(str(place))
    store.put(*chunk(1))
    store.flush()
    store.put(*chunk(2))
    with failing(0, calls=["fsync"]) as tally, pytest.raises(StorageError, match="Input/output error"):
        store.flush()
    assert tally.struck == "fsync"
    for act in (store.flush, lambda: store.put(*chunk(3))):
        with pytest.raises(StorageError, match="after a failure"):
            act()
    assert [one.key for one in store.list("")] == [chunk(1)[0]]
    fresh = open_store(str(place))
    fresh.put(*chunk(2))
    fresh.flush()
    assert fresh.get(chunk(2)[0]) == chunk(2)[1]


_MANY_CHUNKS = """
from tests.kit.store_contract import chunk
from umldisk.checkpoint import pending
from umldisk.checkpoint.stores import open_store
pending.unwritten_bytes = lambda: 0
store = open_store(sys.argv[1])
for number in range(pending._FEW + 1):
    store.put(*chunk(number))
store.flush()
"""


@needs("strace")
@pytest.mark.parametrize("fault", ["error=EIO", "signal=KILL"])
@pytest.mark.parametrize("when", [1, 2], ids=["files", "directories"])
def test_many_chunks_whose_file_system_is_not_synced_are_not_acknowledged(when: int, fault: str, place: Path) -> None:
    inject = _strace("/dev/null", "--trace=syncfs", f"--inject=syncfs:{fault}:when={when}")
    command = [*inject, sys.executable, "-c", f"import sys{_MANY_CHUNKS}", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "Input/output error" in done.stderr or "KILL" in fault
    fresh = open_store(str(place))
    found = [one.key for one in fresh.list("")]
    assert bool(found) is (when == 2)  # nothing has a name before its contents are on the disk
    assert all(chunk_key(name_of(fresh.get(key))) == key for key in found)
    with fresh.collecting():
        assert not [*(place / "staging").iterdir()]
    fresh.put(*chunk(1))
    fresh.flush()
    assert fresh.get(chunk(1)[0]) == chunk(1)[1]


def test_every_call_that_fails_is_told(tmp_path: Path) -> None:
    def work(place: Path) -> None:
        store = open_store(str(place))
        for number in range(3):
            store.put(*chunk(number))
        store.flush()
        store.put(base_key("web", "var"), b"index")
        store.put_new(RECORD, b"record")
        store.delete([chunk(0)[0], base_key("web", "var")])

    gc.collect()  # what earlier stores left to be removed is not to be counted
    with failing(None) as tally:
        work(tmp_path / "whole")
    assert Counter(tally.calls)["fsync"] >= 10
    unanswered = [number for number, name in enumerate(tally.calls) if name in ("pwrite", "fsync", "rename", "link")]
    for number in unanswered:
        place = tmp_path / f"{number}"
        gc.collect()
        with failing(number, error=errno.ENOSPC), pytest.raises(StorageError, match="No space left"):
            work(place)
        work(place)


@needs("tmpfs")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path, size_bytes=2 << 20) as point:
        acknowledged: list[str] = []

        def fill() -> None:
            store = open_store(str(point / "store"))
            for number in range(400):
                key, data = chunk(number, 1 << 20)
                store.put(key, data)
                store.flush()
                acknowledged.append(key)

        with pytest.raises(StorageError, match="No space left"):
            fill()
        other = open_store(str(point / "store"))
        with other.collecting():
            found = [one.key for one in other.list("")]
            assert acknowledged
            assert set(found) >= set(acknowledged)
            assert all(chunk_key(name_of(other.get(key))) == key for key in found)
            other.delete(found[:1])
        assert not [*(point / "store/staging").iterdir()]
        other.put(*chunk(1000))
        other.flush()
        del other


_WORK = """
import os, sys
from tests.kit.store_contract import chunk
from umldisk.checkpoint.store import index_key, record_key
from umldisk.checkpoint.stores import open_store
def say(what):
    os.write(1, what.encode() + b"\\n")
store = open_store(sys.argv[1])
with store.writing("web"):
    for number in range(3):
        store.put(*chunk(number))
    store.flush()
    say("chunks")
    store.put(index_key("web", 1), b"index")
    say("index")
    store.put_new(record_key("web", 1), b"record")
    say("record")
with store.collecting():
    store.delete([chunk(0)[0]])
say("end")
"""
_CALLS = ["fchmod", "fsync", "linkat", "mkdir", "pwrite64", "rename", "rmdir", "unlink"]


def _work(place: Path, *prefix: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*prefix, sys.executable, "-c", _WORK, str(place)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _strace(log: str, *options: str) -> list[str]:
    return ["strace", "-f", f"--output={log}", *options]


@pytest.mark.slow
@needs("strace")
@pytest.mark.parametrize("call", _CALLS)
def test_killed_at_every_call_that_writes(tmp_path: Path, call: str) -> None:
    log = tmp_path / "log"
    done = _work(tmp_path / "whole", *_strace(str(log), f"--trace={call}"))
    assert done.stdout.split() == ["chunks", "index", "record", "end"], done.stderr
    seen = Counter(line.split()[0] for line in log.read_text().splitlines() if f" {call}(" in line)
    assert seen
    for number in range(1, max(seen.values()) + 1):  # strace counts the calls of each thread
        place = tmp_path / f"{number}"
        kill = f"--inject={call}:signal=SIGKILL:when={number}"
        killed = _work(place, *_strace("/dev/null", f"--trace={call}", kill))
        _check_whole(place, killed.stdout.split())
        again = _work(place)
        assert again.stdout.split() == ["chunks", "index", "record", "end"], again.stderr
        assert not [path for path in place.rglob("*") if path.is_file() and "staging" in path.parts]


def _check_whole(place: Path, acknowledged: list[str]) -> None:
    """What was acknowledged is there, and whatever has a name is whole."""
    store = open_store(str(place))
    found = {one.key: store.get(one.key) for one in store.list("")}
    assert all(chunk_key(name_of(data)) == key for key, data in found.items() if key.startswith("chunks/"))
    assert {found.get(INDEX, b"index"), found.get(RECORD, b"record")} == {b"index", b"record"}
    assert "chunks" not in acknowledged or {chunk(1)[0], chunk(2)[0]} <= found.keys()
    assert "index" not in acknowledged or INDEX in found
    assert "record" not in acknowledged or RECORD in found


@needs("strace")
def test_contents_are_durable_before_names_and_names_before_the_answer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _work(tmp_path / "store", *_strace(str(log), "-y", "--trace=pwrite64,fsync,rename,write", "-s", "16"))
    steps = []
    for line in log.read_text().splitlines():
        if "write(1" in line and '"chunks' in line:
            break
        is_of_chunks = "/store/staging/" in line or "/store/chunks" in line
        if is_of_chunks:
            steps.append(line.split()[1].partition("(")[0])
    order = "".join({"pwrite64": "w", "fsync": "s", "rename": "r"}.get(name, "") for name in steps)
    # a rename is tried before its directory is made; there are three directories, and the one above
    assert re.fullmatch("w{3}s{3}r{3,6}s{4}", order)


def test_only_what_killed_writers_left_is_swept(place: Path) -> None:
    leaving = """
import sys
from tests.kit.store_contract import chunk
from umldisk.checkpoint.stores import open_store
store = open_store(sys.argv[1])
store.put(*chunk(int(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
store.flush()
"""
    with child(leaving, str(place), "1") as alive:
        with child(leaving, str(place), "2"):
            assert len([*place.glob("staging/*")]) == 2
        with open_store(str(place)).writing("web"):
            assert len([*place.glob("staging/*")]) == 1
        assert alive.stdin
        alive.stdin.close()
        assert alive.wait(30) == 0
    assert open_store(str(place)).get(chunk(1)[0]) == chunk(1)[1]
    assert not [*place.glob("staging/*")]


def test_a_writer_that_begins_is_not_swept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweeper comes at every step of making the directory that chunks wait in."""
    place.mkdir()
    dress, make = Place._dress_directory, Place.make_directory

    def dress_after_sweep(self: Place, path: str) -> None:
        pending.sweep(self)
        dress(self, path)

    def make_before_sweep(self: Place, path: str, *, sync: bool = True) -> None:
        make(self, path, sync=sync)
        pending.sweep(self)

    monkeypatch.setattr(Place, "_dress_directory", dress_after_sweep)
    monkeypatch.setattr(Place, "make_directory", make_before_sweep)
    store = open_store(str(place))
    store.put(*chunk(1))
    store.flush()
    assert open_store(str(place)).get(chunk(1)[0]) == chunk(1)[1]
