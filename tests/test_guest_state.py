"""What is known of a run, as files: written and read back, and whatever else may stand in them."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umldisk.errors import DataError, StorageError
from umldisk.guest.state import (
    EXIT,
    READY,
    STATE,
    RunDisk,
    RunEnd,
    RunState,
    end_of,
    read_end,
    read_state,
    ready_at,
    running,
    write_ready,
    write_state,
)
from umldisk.system.pids import ProcessId

_NOW = datetime(2026, 11, 20, 3, 15, 0, 123_456, tzinfo=UTC)
_OURSELVES = ProcessId.of(os.getpid())
assert _OURSELVES is not None
_STATE = RunState(
    guest="blackdance",
    umid="blackdance",
    socket_directory="/var/uml/run/blackdance/uml",
    leader=ProcessId(1000, 5, "boot"),
    kernel=_OURSELVES,
    supervisor=ProcessId(1002, 7, "boot"),
    started_at=_NOW,
    uid=1000,
    jailed=True,
    memory_bytes=64 << 20,
    has_agent=True,
    waits_for="marker",
    argv=("setarch", "-R", "linux"),
    disks=(
        RunDisk("root", 0, "/g/root_cow", "/g/root_fs"),
        RunDisk("tmp", 3, "/g/.tmp_cow.discard", "/g/tmp_fs", thrown_away=True),
        RunDisk("swap", 4, "/g/swap_fs", None),
    ),
)

# Paths are bytes, which Python holds as text with lone surrogates.
_PATHS = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
_TEXTS = st.text(st.characters(exclude_characters="\0"), max_size=20)
_NUMBERS = st.integers(0, (1 << 63) - 1)
_PROCESSES = st.builds(ProcessId, st.integers(1, (1 << 22)), _NUMBERS, _TEXTS)
_ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_SECONDS = st.integers(86400, 253_402_000_000)
_TIMES = st.builds(
    lambda seconds, microseconds, zone: datetime.fromtimestamp(seconds, zone) + timedelta(microseconds=microseconds),
    _SECONDS,
    st.integers(0, 999_999),
    _ZONES,
)
_DISKS = st.builds(RunDisk, _TEXTS, st.integers(0, 15), _PATHS, st.none() | _PATHS, st.booleans())
_STATES = st.builds(
    RunState,
    guest=_TEXTS,
    umid=_TEXTS,
    socket_directory=_PATHS,
    leader=_PROCESSES,
    kernel=_PROCESSES,
    supervisor=_PROCESSES,
    started_at=_TIMES,
    uid=_NUMBERS,
    jailed=st.booleans(),
    memory_bytes=_NUMBERS,
    has_agent=st.booleans(),
    waits_for=st.sampled_from(["marker", "mconsole"]),
    argv=st.lists(_PATHS, max_size=5).map(tuple),
    disks=st.lists(_DISKS, max_size=4).map(tuple),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(_STATES)
def test_a_state_comes_back_as_it_was(state: RunState) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, STATE).write_bytes(state.build())
        assert read_state(directory) == state


@given(st.none() | st.integers(-64, 255), _TIMES, _TIMES)
def test_an_end_comes_back_and_belongs_to_its_run(status: int | None, ended: datetime, started: datetime) -> None:
    with tempfile.TemporaryDirectory() as directory:
        end = RunEnd(status, ended, started)
        Path(directory, EXIT).write_bytes(end.build())
        assert read_end(directory) == end
        assert end_of(directory, replace(_STATE, started_at=started)) == end
        assert end_of(directory, replace(_STATE, started_at=started + timedelta(microseconds=1))) is None


@given(_TIMES, _TIMES)
def test_readiness_comes_back_and_belongs_to_its_run(started: datetime, ready: datetime) -> None:
    with tempfile.TemporaryDirectory() as directory:
        write_ready(directory, started_at=started, ready_at=ready)
        assert ready_at(directory, replace(_STATE, started_at=started)) == ready
        assert ready_at(directory, replace(_STATE, started_at=started - timedelta(microseconds=1))) is None


def test_nothing_is_known_where_nothing_is(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert read_state(missing) is None
    assert running(missing) is None
    assert read_end(missing) is None
    assert end_of(missing, _STATE) is None
    assert ready_at(missing, _STATE) is None


def test_a_run_lives_as_long_as_its_kernel(tmp_path: Path) -> None:
    write_state(str(tmp_path), _STATE)
    assert running(str(tmp_path)) == _STATE
    write_state(str(tmp_path), replace(_STATE, kernel=replace(_STATE.kernel, start_ticks=1)))
    assert running(str(tmp_path)) is None


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    write_state(str(tmp_path), _STATE)
    assert stat.S_IMODE((tmp_path / STATE).stat().st_mode) == 0o600


def test_the_mconsole_is_below_the_sockets() -> None:
    assert _STATE.mconsole_path == "/var/uml/run/blackdance/uml/blackdance/mconsole"


def _places(row: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document."""
    inner = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else ()
    return [place for key, value in inner for place in ((*path, key), *_places(value, (*path, key)))]


def _changed(row: Any, path: tuple[Any, ...], value: object) -> Any:
    copy = json.loads(json.dumps(row))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return copy


_ROW = json.loads(_STATE.build())
_PLACES = _places(_ROW)


@given(st.sampled_from(_PLACES), _JSON)
def test_any_value_anywhere_is_read_as_its_type_or_refused(path: tuple[Any, ...], value: object) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, STATE).write_text(json.dumps(_changed(_ROW, path, value)))
        try:
            found = read_state(directory)
        except DataError:
            return
        # What was let in is a state in every part: it survives being written again.
        assert isinstance(found, RunState)
        Path(directory, STATE).write_bytes(found.build())
        assert read_state(directory) == found
        assert found.kernel.is_alive() in (True, False)
        assert all(isinstance(disk.path, str) and "\0" not in disk.path for disk in found.disks)


@pytest.mark.parametrize("path", [place for place in _PLACES if isinstance(place[-1], str)], ids=str)
def test_nothing_may_be_missing(tmp_path: Path, path: tuple[Any, ...]) -> None:
    row = _changed(_ROW, path, None)
    target = row
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    (tmp_path / STATE).write_text(json.dumps(row))
    with pytest.raises(DataError):
        read_state(str(tmp_path))


_TIME = _NOW.isoformat()
_HOSTILE_VALUES = [
    (("format",), 2),
    (("format",), True),
    (("format",), 1.0),
    (("kernel", "pid"), 0),
    (("kernel", "pid"), -1),
    (("kernel", "pid"), 1 << 31),
    (("kernel", "pid"), "self"),
    (("kernel", "pid"), True),
    (("kernel", "start_ticks"), -1),
    (("kernel",), [1, 2, "boot"]),
    (("jailed",), 1),
    (("jailed",), "false"),
    (("uid",), 0.0),
    (("argv",), "linux"),
    (("disks",), {}),
    (("disks", 0, "path"), "/g/a\0b"),
    (("disks", 0, "backing"), 3),
    (("disks", 0, "thrown_away"), None),
    (("started_at",), "2026-11-20T03:15:00"),
    (("started_at",), "0001-01-01T00:00:00+14:00"),
    (("started_at",), 1_700_000_000),
]


@pytest.mark.parametrize(("path", "value"), _HOSTILE_VALUES, ids=str)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, path: tuple[Any, ...], value: object) -> None:
    (tmp_path / STATE).write_text(json.dumps(_changed(_ROW, path, value)))
    with pytest.raises(DataError) as refused:
        read_state(str(tmp_path))
    assert refused.value.where == str(tmp_path / STATE)
    assert refused.value.what == "what is known of a guest's run cannot be read"
    assert len(refused.value.line()) < 500


_HOSTILE_FILES = {
    "empty": b"",
    "cut": _STATE.build()[:-20],
    "not an object": b"[]",
    "a number": b"7",
    "not text": b"\xff\xfe\0",
    "deep": b"[" * 200_000,
    "deep inside": b'{"format": ' + b"[" * 200_000,
    "long number": b'{"format": ' + b"9" * 10_000 + b"}",
    "too large": _STATE.build() + b" " * (1 << 20) + b"{}",
    "not finite": b'{"format": NaN}',
}


@pytest.mark.parametrize("contents", _HOSTILE_FILES.values(), ids=_HOSTILE_FILES)
@pytest.mark.parametrize("name", [STATE, EXIT, READY])
def test_a_file_that_is_no_row_is_refused(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    read = {STATE: read_state, EXIT: read_end, READY: lambda directory: ready_at(directory, _STATE)}[name]
    with pytest.raises(DataError):
        read(str(tmp_path))


@pytest.mark.parametrize("status", [True, 1.5, "0", "", [], 1 << 40])
def test_an_exit_status_is_a_number_or_unknown(tmp_path: Path, status: object) -> None:
    row = {"format": 1, "status": status, "ended_at": _TIME, "started_at": _TIME}
    (tmp_path / EXIT).write_text(json.dumps(row))
    with pytest.raises(DataError):
        read_end(str(tmp_path))


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()
    with pytest.raises(StorageError):
        read_state(str(tmp_path))
