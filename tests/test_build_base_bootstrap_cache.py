"""The cache of archives: made once, whole or not at all, and waited for."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.bases import Maker, debian_archive
from umldisk.build.bases import bootstrap_cache as cache
from umldisk.errors import CannotCreateError, DataError, StorageError

ORDER = cache.Order("debian:sid", ("mmdebstrap", "--variant=essential", "sid"))


def test_made_once_and_found_again(tmp_path: Path) -> None:
    maker = Maker()
    directory = str(tmp_path / "new" / "cache")
    made = cache.obtain(directory, ORDER, maker)
    assert cache.obtain(directory, ORDER, maker) == made == cache.find(directory, ORDER)
    assert maker.calls == 1
    assert made.packages == ("adduser=3.134", "zlib1g=1:1.3")
    assert Path(made.path).read_bytes() == debian_archive()
    assert (made.size_bytes, made.made_by) == (len(debian_archive()), "maker 1.0")
    record = json.loads(Path(made.path).with_suffix(".json").read_text())
    assert record["argv"] == list(ORDER.argv)
    assert record["source"] == "debian:sid"
    names = {ORDER.name + ".tar", ORDER.name + ".json", f".{ORDER.name}.lock"}
    assert {path.name for path in Path(directory).iterdir()} == names


def test_every_argument_and_the_time_make_another_debian_archive() -> None:
    orders = [
        ORDER,
        cache.Order("debian:sid", ("mmdebstrap", "--variant=essential", "sid", "")),
        cache.Order("debian:sid", ("mmdebstrap", "--variant=essentialsid")),
        cache.Order("debian:sid", ORDER.argv, "0"),
        cache.Order("debian:sid", ORDER.argv, "1"),
        cache.Order("ubuntu:sid", ORDER.argv),
    ]
    assert len({order.name for order in orders}) == len(orders)
    assert all(order.name.startswith(("debian-sid-", "ubuntu-sid-")) for order in orders)


def test_refresh_makes_it_anew(tmp_path: Path) -> None:
    maker = Maker(debian_archive(word="old"), debian_archive(word="new"))
    old = cache.obtain(str(tmp_path), ORDER, maker)
    new = cache.obtain(str(tmp_path), ORDER, maker, refresh=True)
    assert maker.calls == 2
    assert old.path == new.path
    assert old.sha256 != new.sha256
    assert cache.find(str(tmp_path), ORDER) == new


def damage_record(path: Path) -> None:
    path.with_suffix(".json").write_text('{"size_bytes":')


def empty_record(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


def lose_record(path: Path) -> None:
    path.with_suffix(".json").unlink()


def lose_archive(path: Path) -> None:
    path.unlink()


def cut_archive(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)


@pytest.mark.parametrize("spoil", [damage_record, empty_record, lose_record, lose_archive, cut_archive])
def test_a_pair_that_does_not_fit_is_made_again(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    maker = Maker()
    made = cache.obtain(str(tmp_path), ORDER, maker)
    spoil(Path(made.path))
    assert cache.find(str(tmp_path), ORDER) is None
    assert cache.obtain(str(tmp_path), ORDER, maker) == made
    assert maker.calls == 2


def failing(output: int, lock: int) -> str:
    os.write(output, debian_archive()[:700])
    raise StorageError("the network went away")


def test_a_failure_leaves_nothing_that_counts(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="went away"):
        cache.obtain(str(tmp_path), ORDER, failing)
    assert [path.name for path in tmp_path.iterdir()] == [f".{ORDER.name}.lock"]
    assert cache.find(str(tmp_path), ORDER) is None


def test_a_failed_refresh_keeps_the_old_debian_archive(tmp_path: Path) -> None:
    made = cache.obtain(str(tmp_path), ORDER, Maker())
    with pytest.raises(StorageError, match="went away"):
        cache.obtain(str(tmp_path), ORDER, failing, refresh=True)
    assert cache.find(str(tmp_path), ORDER) == made
    assert Path(made.path).read_bytes() == debian_archive()


def test_killed_between_archive_and_record_the_old_record_does_not_speak_for_the_new_debian_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both archives have the same size, which is all that `find` compares."""
    old, new = debian_archive(word="old"), debian_archive(word="new")
    assert len(old) == len(new)
    cache.obtain(str(tmp_path), ORDER, Maker(old))

    def killed(path: str, contents: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("umldisk.system.staging.write_file", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.obtain(str(tmp_path), ORDER, Maker(new), refresh=True)
    assert cache.find(str(tmp_path), ORDER) is None


@pytest.mark.parametrize("data", [b"", debian_archive(""), debian_archive()[:1024], b"not a tar" * 300])
def test_what_is_no_installed_system_is_not_kept(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError):
        cache.obtain(str(tmp_path), ORDER, Maker(data))
    assert cache.find(str(tmp_path), ORDER) is None


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CannotCreateError):
        cache.obtain(str(tmp_path / "cache"), ORDER, Maker())


def slow(output: int, lock: int) -> str:
    time.sleep(0.5)
    os.write(output, debian_archive())
    return f"process {os.getpid()}"


def obtain_slowly(directory: str, start: "threading.Barrier") -> str:
    start.wait()
    return cache.obtain(directory, ORDER, slow).made_by


def test_of_two_processes_one_makes_it_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        start = manager.Barrier(2)
        answers = pool.starmap(obtain_slowly, [(str(tmp_path), start)] * 2)
    assert answers[0] == answers[1]
    assert answers[0].startswith("process ")
