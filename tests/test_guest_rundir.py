"""The directory of a guest's runs: who may have it, and where its sockets go."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from tests.kit.commands import holding
from umldisk.errors import BusyError, CannotCreateError, StorageError
from umldisk.guest import rundir


def test_who_has_the_run_is_named(tmp_path: Path) -> None:
    with rundir.claim(str(tmp_path / "x")):
        pass
    with holding(tmp_path / "x/lock") as pid, pytest.raises(BusyError, match=f"started or stopped by PID {pid}"):
        rundir.claim(str(tmp_path / "x"))


def test_a_run_directory_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    with pytest.raises(StorageError, match="cannot lock: No locks available"):
        rundir.claim(str(tmp_path / "x"))


def test_sockets_get_a_short_directory_where_the_path_is_long(tmp_path: Path) -> None:
    near = rundir.socket_directory("/s/run/x", "x", uid=5)
    assert near == "/s/run/x/uml"
    far = rundir.socket_directory("/s" * 60, "x", uid=5)
    assert len(far) < 60
    assert far != rundir.socket_directory("/t" * 60, "x", uid=5)


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    above = tmp_path / "open"
    above.mkdir(mode=0o777)
    above.chmod(0o777)
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(CannotCreateError, match="not ours alone"):
        rundir.prepare(str(run), str(above / "uml"), uid=os.geteuid(), gid=os.getegid())
