"""The files in fixtures/: the script makes them again to the byte, and umldisk reads every one of them rightly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import oracle
from tests.kit.peers import needs
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.cow.inplace import InPlaceOptions, merge_into_backing
from umldisk.cow.merging import MergeOptions, merge

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MTIME = 1_000_000_000
SECTOR_BYTES = 512
NOT_READ_BY_MOO = [dialect for dialect in Dialect if dialect not in oracle.READ_BY_MOO]

every_dialect = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.value)


def lay_out(dialect: Dialect, directory: Path) -> tuple[Path, Path, bytes]:
    """Copy a dialect's files, give the backing file its time back; return COW, backing and expected image."""
    for suffix in ("cow", "base"):
        shutil.copyfile(FIXTURES / f"{dialect.value}.{suffix}", directory / f"{dialect.value}.{suffix}")
    backing = directory / f"{dialect.value}.base"
    os.utime(backing, (MTIME, MTIME))
    return directory / f"{dialect.value}.cow", backing, (FIXTURES / f"{dialect.value}.merged").read_bytes()


def test_the_script_makes_the_same_files_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FIXTURES / "make_cows.py", tmp_path], check=True, timeout=60)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(made) == {f"{d.value}.{suffix}" for d in Dialect for suffix in ("cow", "base", "merged")}
    assert made == {name: (FIXTURES / name).read_bytes() for name in made}


@every_dialect
def test_the_header_is_read(dialect: Dialect, tmp_path: Path) -> None:
    cow, backing, merged = lay_out(dialect, tmp_path)
    with CowFile.open(cow) as disk:
        assert disk.header.dialect is dialect
        assert disk.header.alternatives == ()
        assert disk.header.backing_path == os.fsencode(backing.name)
        assert disk.header.mtime == MTIME
        assert disk.size_bytes == len(merged)
        assert disk.geometry.sector_bytes == SECTOR_BYTES


@every_dialect
def test_the_changed_sectors_are_those_that_differ(dialect: Dialect, tmp_path: Path) -> None:
    cow, backing, merged = lay_out(dialect, tmp_path)
    base = backing.read_bytes()
    with CowFile.open(cow) as disk:
        changed = {sector for run in disk.runs() for sector in range(run.start, run.end)}
        assert disk.read(0, len(merged)) == merged
    assert changed == {at // SECTOR_BYTES for at in range(0, len(base), SECTOR_BYTES) if _differ(base, merged, at)}


def _differ(left: bytes, right: bytes, offset: int) -> bool:
    return left[offset : offset + SECTOR_BYTES] != right[offset : offset + SECTOR_BYTES]


@every_dialect
def test_merged_into_a_new_image(dialect: Dialect, tmp_path: Path) -> None:
    cow, _backing, merged = lay_out(dialect, tmp_path)
    merge(cow, tmp_path / "new", options=MergeOptions(sync=False))
    assert (tmp_path / "new").read_bytes() == merged


@every_dialect
@pytest.mark.parametrize("reset", [False, True])
def test_merged_into_the_backing_file(dialect: Dialect, reset: bool, tmp_path: Path) -> None:
    cow, backing, merged = lay_out(dialect, tmp_path)
    merge_into_backing(cow, options=InPlaceOptions(sync=False, reset=reset))
    assert backing.read_bytes() == merged
    with CowFile.open(cow) as disk:
        assert disk.header.dialect is dialect
        assert disk.read(0, len(merged)) == merged
        assert (next(disk.runs(), None) is None) == reset


@needs("uml_moo")
@pytest.mark.parametrize("dialect", oracle.READ_BY_MOO, ids=lambda dialect: dialect.value)
def test_the_old_tool_agrees_as_far_as_it_reads_whole_pages(dialect: Dialect, tmp_path: Path) -> None:
    cow, _backing, merged = lay_out(dialect, tmp_path)
    whole_pages = len(merged) // 4096 * 4096
    finished = oracle.run_tool("uml_moo", cow, tmp_path / "new", cwd=tmp_path)
    assert finished.returncode == 0
    assert (tmp_path / "new").read_bytes()[:whole_pages] == merged[:whole_pages]


@needs("uml_moo")
@pytest.mark.parametrize("dialect", NOT_READ_BY_MOO, ids=lambda dialect: dialect.value)
def test_the_old_tool_refuses_the_other_dialects(dialect: Dialect, tmp_path: Path) -> None:
    cow, _backing, _merged = lay_out(dialect, tmp_path)
    finished = oracle.run_tool("uml_moo", cow, tmp_path / "new", cwd=tmp_path)
    assert finished.returncode == 1
    assert b"Size mismatch" in finished.stderr
