"""How uml_moo and uml_mkcow go about their work, and how umldisk does.

The number in a test's name is the fault's; test_moo_faults.py has the first seven.

     8  -b before -d, relative backing paths, a notice on stdout, the new image's mode
     9  after -d the pair does not fit any more, also when -d was interrupted
    10  -d writes zeros where it could punch; nothing is synced; one read and one write a sector
    11  uml_mkcow -f keeps the old changes, leaves empty files behind, takes anything as backing file
"""

import os
import sys
from pathlib import Path

import pytest

from tests.kit import oracle
from tests.kit.oracle import limit_file_size, run_tool, run_umldisk, sample, twins
from tests.kit.peers import needs, require
from umldisk.cow.creating import create
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.cow.inplace import InPlaceOptions, SiblingPolicy, merge_into_backing
from umldisk.cow.merging import MergeOptions, merge
from umldisk.errors import DataError, NoInputError, UmldiskError

pytestmark = needs("uml_moo", "uml_mkcow")

SECTOR_BYTES = 512
MIB = 1 << 20
QUICK = MergeOptions(sync=False)
QUICK_IN_PLACE = InPlaceOptions(sync=False)


# -- 8: arguments and manners -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["umldisk", "umldisk-moo"])
def test_08_the_backing_file_may_be_named_before_d(program: str, tmp_path: Path) -> None:
    files = sample(tmp_path)
    moved = files.backing.rename(tmp_path / "moved")
    assert run_tool("uml_moo", "-b", moved, "-d", files.cow).returncode == 1
    arguments: list[str | Path] = ["-b", moved, "-d", files.cow]
    if program == "umldisk":
        finished = run_umldisk("merge", *arguments)
    else:
        code = "import sys; from umldisk.cli.moo import main; sys.exit(main())"
        finished = run_tool(sys.executable, "-c", code, *arguments)
    assert finished.returncode == 0, finished.stderr.decode()
    assert moved.read_bytes() == files.merged


def test_08_a_relative_backing_path_is_seen_from_the_cow_file(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    files = sample(tmp_path)
    assert run_tool("uml_moo", files.cow, elsewhere / "old", cwd=elsewhere).returncode == 1
    finished = run_umldisk("merge", files.cow, elsewhere / "new", cwd=elsewhere)
    assert finished.returncode == 0, finished.stderr.decode()
    assert (elsewhere / "new").read_bytes() == files.merged


def test_08_nothing_but_data_goes_to_stdout(tmp_path: Path) -> None:
    files = sample(tmp_path, Dialect.V3_64)
    old = run_tool("uml_moo", files.cow, tmp_path / "old", cwd=tmp_path)
    assert b"broken V3 file" in old.stdout
    new = run_umldisk("merge", files.cow, "-")
    assert (new.returncode, new.stdout) == (0, files.merged)


def test_08_a_new_image_is_no_more_open_than_the_backing_file(tmp_path: Path) -> None:
    files = sample(tmp_path)
    files.backing.chmod(0o600)
    run_tool("uml_moo", files.cow, tmp_path / "old", cwd=tmp_path, prepare=lambda: os.umask(0o022))
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o644
    merge(files.cow, tmp_path / "new", options=QUICK)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


# -- 9: after a destructive merge -------------------------------------------------------------------------------------


def test_09_the_pair_still_fits_after_a_destructive_merge(tmp_path: Path) -> None:
    theirs, files = twins(tmp_path)
    oracle.moo_in_place(theirs.cow)
    again = run_tool("uml_moo", "-d", theirs.cow, cwd=theirs.cow.parent)
    assert again.returncode == 1
    assert b"mtime mismatch" in again.stderr
    for _time in range(2):
        merge_into_backing(files.cow, options=QUICK_IN_PLACE)
        assert files.backing.read_bytes() == files.merged
    merge(files.cow, tmp_path / "new", options=QUICK)
    assert (tmp_path / "new").read_bytes() == files.merged
    oracle.moo(files.cow, tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == files.merged


def test_09_other_cow_files_are_spared_or_their_loss_is_asked_for(tmp_path: Path) -> None:
    files = sample(tmp_path)
    before = files.backing.read_bytes()
    other = tmp_path / "other"
    create(other, files.backing, sync=False)
    with pytest.raises(DataError, match="other COW files"):
        merge_into_backing(files.cow)
    assert files.backing.read_bytes() == before
    merge_into_backing(files.cow, options=InPlaceOptions(sync=False, siblings=SiblingPolicy.KEEP))
    assert files.backing.read_bytes() == files.merged
    with CowFile.open(other) as disk:
        assert disk.read(0, len(before)) == before


def test_09_an_interrupted_destructive_merge_is_finished_by_the_same_command(tmp_path: Path) -> None:
    size_bytes = 2 * MIB
    changed = frozenset(range(size_bytes // SECTOR_BYTES))
    theirs, ours = twins(tmp_path, size_bytes=size_bytes, changed=changed)
    half = limit_file_size(MIB)

    finished = run_tool("uml_moo", "-d", theirs.cow, cwd=theirs.cow.parent, prepare=half)
    assert finished.returncode == 1
    assert run_tool("uml_moo", "-d", theirs.cow, cwd=theirs.cow.parent).returncode == 1

    failed = run_umldisk("merge", "-d", ours.cow, prepare=half)
    assert failed.returncode == 74, failed.stderr.decode()
    assert b"hint: " in failed.stderr
    assert ours.backing.read_bytes() != ours.merged
    finished = run_umldisk("merge", "-d", ours.cow)
    assert finished.returncode == 0, finished.stderr.decode()
    assert ours.backing.read_bytes() == ours.merged


# -- 10: cost ---------------------------------------------------------------------------------------------------------


def test_10_a_discarded_area_is_punched_not_written(tmp_path: Path) -> None:
    sectors = frozenset(range(2 * MIB // SECTOR_BYTES))
    theirs, ours = twins(tmp_path, size_bytes=4 * MIB, changed=sectors, cleared=sectors)
    full = oracle.allocated_bytes(ours.backing)
    oracle.moo_in_place(theirs.cow)
    merge_into_backing(ours.cow)
    assert theirs.backing.read_bytes() == ours.backing.read_bytes() == ours.merged
    assert oracle.allocated_bytes(theirs.backing) >= full
    assert oracle.allocated_bytes(ours.backing) <= full - 2 * MIB


@pytest.mark.parametrize("in_place", [False, True])
def test_10_results_are_synced_and_not_moved_by_the_sector(
    in_place: bool, tmp_path: Path, bare_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("strace")
    for name in set(os.environ) - set(bare_environment):
        monkeypatch.delenv(name)
    size_bytes = 2 * MIB
    changed = frozenset(range(size_bytes // SECTOR_BYTES))
    theirs, ours = twins(tmp_path, size_bytes=size_bytes, changed=changed, cleared=frozenset())
    new = [] if in_place else [Path("new")]
    flags = ["-d"] if in_place else []
    old = _calls("uml_moo", *flags, theirs.cow, *new, cwd=theirs.cow.parent)
    own = _calls(sys.executable, "-m", "umldisk", "merge", *flags, ours.cow, *new, cwd=ours.cow.parent)
    assert not [call for call in old if "sync" in call]
    assert sum(call.startswith("pwrite") for call in old) >= len(changed)
    writes = [number for number, call in enumerate(own) if call.startswith(("pwrite", "copy_file_range"))]
    assert len(writes) < 100
    assert any(call.startswith("fsync") for call in own[writes[-1] :])
    assert (ours.backing if in_place else ours.cow.parent / "new").read_bytes() == ours.merged


def _calls(*argv: str | os.PathLike[str], cwd: Path) -> list[str]:
    """Return the lines of strace about a program's writing and syncing."""
    log = cwd / "calls"
    wanted = "trace=pwrite64,copy_file_range,fsync,fdatasync,sync_file_range,msync,syncfs,sync"
    finished = run_tool("strace", "-f", "-qq", "-o", log, "-e", wanted, *argv, cwd=cwd)
    assert finished.returncode == 0, finished.stderr.decode()
    # Each line begins with the process's number.
    return [line.split(maxsplit=1)[1] for line in log.read_text(errors="replace").splitlines()]


# -- 11: uml_mkcow ----------------------------------------------------------------------------------------------------


def test_11_a_replaced_cow_file_is_empty(tmp_path: Path) -> None:
    files = sample(tmp_path)
    assert run_tool("uml_mkcow", "-f", files.cow, files.backing).returncode == 0
    oracle.moo(files.cow, tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == files.merged
    create(files.cow, files.backing, replace=True)
    oracle.moo(files.cow, tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == files.backing.read_bytes() != files.merged


def test_11_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    assert run_tool("uml_mkcow", tmp_path / "old", tmp_path / "missing").returncode == 1
    assert (tmp_path / "old").stat().st_size == 0
    with pytest.raises(NoInputError):
        create(tmp_path / "new", tmp_path / "missing")
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("kind", ["directory", "FIFO", "COW file", "COW file itself"])
def test_11_what_cannot_be_a_backing_file_is_refused(kind: str, tmp_path: Path) -> None:
    files = sample(tmp_path)
    cow = files.cow if kind == "COW file itself" else tmp_path / "new"
    backing = files.cow if kind.startswith("COW") else tmp_path / "other"
    if kind == "directory":
        backing.mkdir()
    elif kind == "FIFO":
        os.mkfifo(backing)
    before = sorted(os.listdir(tmp_path)), files.cow.read_bytes()
    with pytest.raises(UmldiskError) as caught:
        create(cow, backing, replace=True)
    assert isinstance(caught.value, DataError if kind.startswith("COW") else NoInputError)
    assert (sorted(os.listdir(tmp_path)), files.cow.read_bytes()) == before
    assert run_tool("uml_mkcow", "-f", cow, backing).returncode == 0
