"""What is kept of a guest that was broken into: as it was, told by digests that other programs check."""

import hashlib
import json
import os
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.faults import NOBODY, without_rights
from tests.kit.peers import needs
from tests.kit.restorable import ROOT, VAR, SmallerSite, broken_guest
from umldisk.checkpoint.record import Kind, Record, digest_of
from umldisk.errors import CannotCreateError, DataError, StorageError
from umldisk.ops.restoring import evidence
from umldisk.ops.restoring.restore import restore_guest
from umldisk.system.digest import sparse_sha256
from umldisk.system.files import open_disk
from umldisk.system.swapping import open_directory

_RECORD = Record("g", 1, datetime(2026, 11, 1, tzinfo=UTC), Kind.VERIFY, "", "h", "1", subjects=(1,), detail="ä\n")


def _sparse(path: Path, pieces: dict[int, bytes], size_bytes: int) -> Path:
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size_bytes)
    return path


@settings(max_examples=25)
@given(
    pieces=st.dictionaries(st.integers(0, 3 << 20), st.binary(min_size=1, max_size=9000), max_size=4),
    size_bytes=st.sampled_from([4 << 20, (4 << 20) + 1, 5_000_001]),
)
def test_the_digest_is_of_every_byte_holes_included(
    pieces: dict[int, bytes], size_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _sparse(tmp_path_factory.mktemp("d") / "var_cow", pieces, size_bytes)
    (file,) = evidence.examine(str(path.parent), ["var_cow"])
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with open_disk(path) as disk:
        assert file.digest == sparse_sha256(disk)
    assert (file.name, file.size_bytes) == ("var_cow", size_bytes)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    path = _sparse(tmp_path / "var_cow", {8192: b"x" * 100}, 1 << 20)
    os.utime(path, ns=(1_000_000_000, 2_000_000_001))
    before = path.stat()
    (file,) = evidence.examine(str(tmp_path), ["var_cow"])
    after = path.stat()
    assert (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns, after.st_blocks) == (
        before.st_atime_ns,
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_blocks,
    )
    assert (file.mtime_ns, file.allocated_bytes) == (2_000_000_001, before.st_blocks * 512)


def test_files_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    names = [f"{number}_cow" for number in (3, 1, 2)]
    for name in names:
        (tmp_path / name).write_text(name)
    assert [file.name for file in evidence.examine(str(tmp_path), names)] == names


def test_the_texts_are_checked_by_sha256sum_and_read_as_json(tmp_path: Path) -> None:
    odd = os.fsdecode(b"sp\xff ace_cow")
    (tmp_path / odd).write_bytes(b"x")
    files = evidence.examine(str(tmp_path), [odd])
    data = _RECORD.build()
    sums = evidence.write_texts(
        str(tmp_path), files, facts={"guest": "g"}, records=[(_RECORD, digest_of(data)), (_RECORD, "77")]
    )
    assert sums == hashlib.sha256((tmp_path / "SHA256SUMS").read_bytes()).hexdigest()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    facts = json.loads((tmp_path / "evidence.json").read_bytes())
    assert (facts["format"], facts["guest"], facts["files"][0]["sha256"]) == (1, "g", files[0].sha256)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_bytes().splitlines()]
    assert [line["digest"] for line in lines] == [digest_of(data), "77"]
    assert lines[0]["record"] == json.loads(data)


def test_a_file_that_changes_afterwards_is_found(tmp_path: Path) -> None:
    (tmp_path / "a_cow").write_bytes(b"x")
    evidence.write_texts(str(tmp_path), evidence.examine(str(tmp_path), ["a_cow"]), facts={}, records=[])
    (tmp_path / "a_cow").write_bytes(b"y")
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 1


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo", "hard link", "missing"])
def test_only_files_of_their_own_are_kept(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "a_cow", tmp_path / "other"
    other.write_text("x")
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        os.link(other, path)
    with pytest.raises(StorageError if kind == "missing" else DataError, match="a_cow"):
        evidence.require_keepable(str(tmp_path), ["a_cow"])
    if kind != "hard link":
        evidence.require_keepable(str(tmp_path), ["other"])


def test_nobody_else_gets_into_the_place(tmp_path: Path) -> None:
    place = evidence.make_place(str(tmp_path))
    assert place == str(tmp_path / "evidence")
    assert os.stat(place).st_mode & 0o777 == 0o700
    assert evidence.taken_names(str(tmp_path)) == []
    (tmp_path / "evidence" / "x-1").mkdir()
    assert evidence.make_place(str(tmp_path)) == place
    assert evidence.taken_names(str(tmp_path)) == ["x-1"]
    assert evidence.taken_names(str(tmp_path / "nowhere")) == []


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("x")
    evidence.require_one_file_system(str(tmp_path), str(tmp_path))
    with pytest.raises((CannotCreateError, StorageError)), open_directory(evidence.make_place(str(tmp_path))):
        pass


def test_what_is_kept_has_its_times_and_holes_and_cannot_be_written(tmp_path: Path) -> None:
    broken = broken_guest(SmallerSite(str(tmp_path / "site")))
    names = ("root_cow", "var_cow", "var_fs", "home_cow")
    for number, name in enumerate(names):
        os.utime(broken.directory / name, ns=(10**18 + number, 10**18 + 5))
    for drive in (ROOT, VAR):  # the COW files name the time of their bases
        broken.write(drive, 7, word="again")
        os.utime(broken.guest.cow_path(drive) or "", ns=(10**18, 10**18 + 7))
    before = {name: os.stat(broken.directory / name) for name in names}
    kept = Path(restore_guest(broken.site, broken.name).evidence)
    for name, status in before.items():
        after = (kept / name).stat()
        assert after.st_ino == status.st_ino
        assert after.st_mtime_ns == status.st_mtime_ns
        assert after.st_blocks == status.st_blocks
    facts = json.loads((kept / "evidence.json").read_bytes())
    assert {row["name"]: row["mtime_ns"] for row in facts["files"] if row["name"] in names} == {
        name: status.st_mtime_ns for name, status in before.items()
    }
    backing = {row["drive"]: row for row in facts["backing"]}
    with open_disk(broken.guest.base_path(ROOT)) as disk:
        assert backing["root"]["digest"] == sparse_sha256(disk)
    assert backing["root"]["as"] == "manifest.json"
    assert len((kept / "records.jsonl").read_bytes().splitlines()) == 2


@needs("root")
def test_an_ordinary_user_keeps_evidence_as_well() -> None:
    # pytest's own directory would be closed to that user
    with tempfile.TemporaryDirectory(prefix="umldisk-") as directory:
        os.chmod(directory, 0o755)
        broken = broken_guest(SmallerSite(f"{directory}/site"))
        for path in (Path(broken.site.directory), *Path(broken.site.directory).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        with without_rights():
            kept = Path(restore_guest(broken.site, broken.name).evidence)
            assert broken.seen(VAR) == broken.nights[2]
            with pytest.raises(PermissionError):
                (kept / "more").touch()
            with pytest.raises(PermissionError):
                (kept / "var_cow").open("r+b")
        assert kept.stat().st_mode & 0o777 == 0o500
        assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o400}
