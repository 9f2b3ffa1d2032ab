"""`umldisk create`, `diff`, `align` and `rebase`: what they take, do and say."""

import json
import os
from pathlib import Path

import pytest

from tests.kit.oracle import Sample, sample
from umldisk.cli.main import main
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile

Captured = pytest.CaptureFixture[str]
SIZE_BYTES = 1 << 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(b"old " * (SIZE_BYTES // 4))
    return path


@pytest.fixture
def image(tmp_path: Path, base: Path) -> Path:
    """Make an image that differs from `base` in sector 9."""
    path = tmp_path / "image"
    contents = bytearray(base.read_bytes())
    contents[9 * 512 : 10 * 512] = b"new " * 128
    path.write_bytes(contents)
    return path


@pytest.fixture
def cow(tmp_path: Path) -> Path:
    return tmp_path / "cow"


@pytest.fixture
def mixed(tmp_path: Path) -> Sample:
    """Make a COW file with one changed sector in each of two pages."""
    return sample(tmp_path, changed={1, 30}, cleared=set())


def umldisk(*words: str | Path) -> int:
    return main([os.fspath(word) for word in words])


def changed(cow: Path) -> list[tuple[int, int]]:
    with CowFile.open(cow) as opened:
        return [tuple(run) for run in opened.runs()]


def seen(cow: Path) -> bytes:
    with CowFile.open(cow) as opened:
        return opened.read(0, opened.size_bytes)


# -- create -----------------------------------------------------------------------------------------------------------


def test_create_makes_an_empty_cow_and_says_so(base: Path, cow: Path, capsys: Captured) -> None:
    assert umldisk("create", cow, base) == 0
    assert (changed(cow), seen(cow)) == ([], base.read_bytes())
    assert capsys.readouterr() == (f"{cow}: an empty COW file (version 3) on {base}, 1 MiB\n", "")


@pytest.mark.parametrize("dialect", Dialect)
def test_create_in_every_dialect(dialect: Dialect, base: Path, cow: Path, capsys: Captured) -> None:
    assert umldisk("create", "--json", "--dialect", dialect.value, cow, base) == 0
    assert json.loads(capsys.readouterr().out) == {
        "cow": str(cow),
        "backing": str(base),
        "size_bytes": SIZE_BYTES,
        "dialect": dialect.value,
        "mtime": base.stat().st_mtime_ns // 1_000_000_000,
        "dry_run": False,
    }
    with CowFile.open(cow) as opened:
        assert opened.header.dialect is dialect


def test_create_replaces_with_force_only(base: Path, mixed: Sample, capsys: Captured) -> None:
    assert umldisk("create", mixed.cow, base) == 73
    assert changed(mixed.cow) == [(1, 1), (30, 1)]
    assert "--force" in capsys.readouterr().err
    assert umldisk("create", "-f", "-q", "--no-sync", mixed.cow, base) == 0
    assert changed(mixed.cow) == []
    assert capsys.readouterr() == ("", "")


def test_create_rehearses(base: Path, cow: Path, capsys: Captured) -> None:
    assert umldisk("create", "-n", cow, base) == 0
    assert "would be an empty COW file" in capsys.readouterr().out
    assert not cow.exists()


# -- diff -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "run", "size"), [("--dialect=v3", (8, 8), "4 KiB"), ("--by-sector", (9, 1), "512 B")]
)
def test_diff_takes_pages_or_sectors(
    option: str, run: tuple[int, int], size: str, base: Path, image: Path, cow: Path, capsys: Captured
) -> None:
    assert umldisk("diff", option, base, image, cow) == 0
    assert (changed(cow), seen(cow)) == ([run], image.read_bytes())
    assert capsys.readouterr().out.splitlines() == [
        f"{cow}: a COW file (version 3) that shows {image} over {base}",
        f"  {size} of 1 MiB changed, in 1 run",
    ]


def test_diff_rehearses_with_the_same_figures(base: Path, image: Path, cow: Path, capsys: Captured) -> None:
    words = ["diff", "--json", "--dialect", "v2", str(base), str(image), str(cow)]
    assert main([*words, "-n"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert not cow.exists()
    assert main([*words, "--no-sync"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert plan == {**done, "dry_run": True}
    assert (done["changed_bytes"], done["runs"], done["dialect"]) == (4096, 1, "v2")


def test_diff_replaces_with_force_only(base: Path, image: Path, cow: Path) -> None:
    cow.write_text("precious")
    assert umldisk("diff", base, image, cow) == 73
    assert cow.read_text() == "precious"
    assert umldisk("diff", "--force", base, image, cow) == 0
    assert seen(cow) == image.read_bytes()


# -- align ------------------------------------------------------------------------------------------------------------


def test_align_fills_pages_and_says_so(mixed: Sample, capsys: Captured) -> None:
    assert umldisk("align", "-n", mixed.cow) == 0
    assert "2 mixed pages would be filled with 7 KiB" in capsys.readouterr().out
    assert changed(mixed.cow) == [(1, 1), (30, 1)]
    assert umldisk("align", mixed.cow) == 0
    assert "2 mixed pages filled with 7 KiB" in capsys.readouterr().out
    assert (changed(mixed.cow), seen(mixed.cow)) == ([(0, 8), (24, 8)], mixed.merged)
    assert umldisk("align", mixed.cow) == 0
    assert capsys.readouterr().out == f"{mixed.cow}: no mixed pages\n"


def test_align_reports_pages_without_bits(tmp_path: Path, capsys: Captured) -> None:
    files = sample(tmp_path, Dialect.V2, size_bytes=20 * 512, changed={1}, cleared=set())
    assert umldisk("align", "--json", files.cow) == 0
    report = json.loads(capsys.readouterr().out)
    assert umldisk("align", files.cow) == 0
    text = capsys.readouterr().out
    assert report["pages"] == 1
    assert ("cannot be filled" in text) == bool(report["unfixable_pages"])


# -- rebase -----------------------------------------------------------------------------------------------------------


def test_rebase_keeps_what_is_seen_and_says_so(base: Path, image: Path, cow: Path, capsys: Captured) -> None:
    assert umldisk("create", "-q", cow, base) == 0
    assert umldisk("rebase", "-n", cow, image) == 0
    assert "would stand on" in capsys.readouterr().out
    assert umldisk("rebase", cow, image) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{cow}: stands on {image}, before on {base}"
    assert second.split()[-3:] == ["copied", "into", "it"]
    assert seen(cow) == base.read_bytes()
    with CowFile.open(cow) as opened:
        assert opened.backing.disk.path == str(image)


@pytest.mark.parametrize("option", ["-u", "--header-only"])
def test_rebase_of_the_header_alone(option: str, mixed: Sample, capsys: Captured) -> None:
    moved = mixed.backing.rename(mixed.backing.with_name("moved"))
    os.utime(moved, (7, 7))
    assert umldisk("rebase", option, "--json", mixed.cow, moved) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["backing"], report["mtime"], report["copied_bytes"]) == (str(moved), 7, 0)
    assert (changed(mixed.cow), seen(mixed.cow)) == ([(1, 1), (30, 1)], mixed.merged)


def test_rebase_may_be_told_the_old_backing_file(mixed: Sample, tmp_path: Path) -> None:
    moved = mixed.backing.rename(tmp_path / "moved")
    other = tmp_path / "other"
    other.write_bytes(bytes(16384))
    assert umldisk("rebase", mixed.cow, other) == 66
    assert umldisk("rebase", "-b", moved, mixed.cow, other) == 0
    assert seen(mixed.cow) == mixed.merged
