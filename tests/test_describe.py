"""What `info` says of a file: every field of a header, the state of a pair, the contents of a disk."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given

from tests.kit import model
from tests.kit.faulty import MAKERS, PAGE_7, SIZE, base, pair, patch
from tests.kit.model import Disk, write_cow, write_image
from tests.kit.peers import needs
from tests.test_check_around import held
from umldisk.cli.main import main
from umldisk.cow import header as headers
from umldisk.cow import journal as journals
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import Access
from umldisk.cow.journal import HeaderJournal, MergeJournal
from umldisk.cow.survey import BackingState, utc
from umldisk.errors import DataError, NoInputError
from umldisk.image.identify import ImageKind
from umldisk.ops.describe import CowFacts, MergedState, describe

Captured = pytest.CaptureFixture[str]


def squeezed(text: str) -> str:
    """Return the text with its columns moved together."""
    return re.sub(" +", " ", text)


def cow_facts(path: Path) -> CowFacts:
    facts = describe(path).cow
    assert facts is not None
    return facts


# -- COW files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", Dialect)
def test_every_field_of_a_header_in_every_dialect(tmp_path: Path, dialect: Dialect) -> None:
    cow, backing, header = pair(tmp_path, dialect)
    found = describe(cow)
    facts = cow_facts(cow)
    assert (found.kind, found.path, found.file_bytes) == (ImageKind.COW, str(cow), cow.stat().st_size)
    assert found.allocated_bytes == model.room_of(cow)
    assert (facts.dialect, facts.version, facts.label) == (dialect, dialect.version, dialect.label)
    assert (facts.named_backing, facts.mtime) == (os.fsencode(backing), backing.stat().st_mtime_ns // 1_000_000_000)
    assert (facts.size_bytes, facts.sector_bytes, facts.geometry) == (SIZE, 512, header.geometry)
    assert facts.alignment_bytes == (4096 if dialect in (Dialect.V3, Dialect.V3_64) else None)
    assert (facts.changed_sectors, facts.changed_bytes, facts.merged) == (8, 4096, None)
    assert (facts.backing.path, facts.backing.state, facts.backing.size_bytes) == (
        str(backing),
        BackingState.FITS,
        SIZE,
    )
    assert (found.unfinished, found.holder, facts.chain, facts.alternatives) == ((), None, (), ())


@given(disk=model.disks())
def test_the_changed_bytes_are_exact(tmp_path_factory: pytest.TempPathFactory, disk: Disk) -> None:
    cow, _backing = disk.write(tmp_path_factory.mktemp("disk"))
    facts = describe(cow, Access(dialect=disk.dialect)).cow
    assert facts is not None
    assert facts.changed_sectors == len(disk.changes)
    assert facts.changed_bytes == model.length_of(disk.changes, len(disk.base), disk.sector_bytes)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("backing-missing", BackingState.MISSING),
        ("backing-damaged", BackingState.DAMAGED),
        ("backing-loop", BackingState.LOOP),
        ("backing-size", BackingState.OTHER_SIZE),
        ("backing-mtime", BackingState.OTHER_MTIME),
        ("unfinished-merge", BackingState.MERGING),
        ("siblings", BackingState.FITS),
    ],
)
def test_the_state_of_the_pair(tmp_path: Path, code: str, state: BackingState) -> None:
    facts = cow_facts(MAKERS[code][0](tmp_path))
    assert facts.backing.state is state
    assert (facts.backing.trouble is not None) == (code in ("backing-missing", "backing-damaged"))


def test_a_chain(tmp_path: Path) -> None:
    top = MAKERS["stacked"][0](tmp_path)
    facts = cow_facts(top)
    assert facts.backing.stacked
    assert (facts.backing.state, facts.backing.size_bytes) == (BackingState.FITS, SIZE)
    assert facts.chain == (str(tmp_path / "root_cow"),)


def test_doubtful_layouts_are_shown(tmp_path: Path) -> None:
    facts = cow_facts(MAKERS["ambiguous-dialect"][0](tmp_path))
    assert (facts.dialect, facts.alternatives) == (Dialect.V2, (Dialect.V2_64,))


def test_a_merged_file_before_and_after_it_is_written_to(tmp_path: Path) -> None:
    cow = MAKERS["merged"][0](tmp_path)
    assert cow_facts(cow).merged is MergedState.NOTHING_SINCE
    os.utime(cow)
    assert cow_facts(cow).merged is MergedState.CHANGED_SINCE


def test_every_faulty_file_can_be_described(tmp_path: Path) -> None:
    for code, (make, _besides) in MAKERS.items():
        directory = tmp_path / code
        directory.mkdir()
        assert describe(make(directory)).kind is ImageKind.COW


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01 00:00:00 UTC (0)"), (-1, "1969-12-31 23:59:59 UTC (-1)"), (1 << 40, f"{1 << 40}")],
)
def test_times_for_people(seconds: int, text: str) -> None:
    assert utc(seconds) == text


# -- unfinished work, users -------------------------------------------------------------------------------------------


def test_an_unfinished_merge_is_named_on_both_files(tmp_path: Path) -> None:
    cow = MAKERS["unfinished-merge"][0](tmp_path)
    backing = tmp_path / "root_fs"
    work = (f"a merge of {cow} into {backing}",)
    assert describe(cow).unfinished == work
    assert describe(backing).unfinished == work


def test_an_unfinished_header_is_named_and_shown_as_it_will_be(tmp_path: Path) -> None:
    cow, _backing, header = pair(tmp_path)
    new = headers.rewrite(header, mtime=77)
    journals.write(str(cow), HeaderJournal(header.raw.hex(), new.raw.hex()))
    assert describe(cow).unfinished == (f"the rewriting of the header of {cow}",)
    assert cow_facts(cow).mtime == 77


def test_a_journal_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    cow = MAKERS["foreign-journal"][0](tmp_path)
    backing = tmp_path / "root_fs"
    Path(journals.path_for(str(backing))).write_text("nonsense")
    assert [text.partition(":")[0] for text in describe(cow).unfinished] == [
        f"the note beside {cow} does not fit",
        f"the note beside {backing} does not fit",
    ]
    assert len(describe(backing).unfinished) == 1


def test_who_has_it_open(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    with held(cow, "write", "umid=blackdance") as pid:
        holder = describe(cow).holder
    assert holder is not None
    assert (holder.pid, holder.exclusive, holder.umid) == (pid, True, "blackdance")
    with held(backing, "read") as pid:
        holder = describe(backing).holder
    assert holder is not None
    assert (holder.pid, holder.exclusive) == (pid, False)


# -- what disks hold --------------------------------------------------------------------------------------------------


@needs("mke2fs")
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_an_ext_file_system_raw_and_through_a_cow_file(tmp_path: Path, kind: str) -> None:
    image, cow = write_image(tmp_path / "root_fs", bytes(32 << 20)), tmp_path / "root_cow"
    identity = "7d4c8f0e-5a0b-4c36-9a55-3a4a35e1b6b1"
    options = ["-q", "-F", "-t", kind, "-b", "4096", "-L", "black\tdance", "-U", identity, "-N", "256"]
    subprocess.run(["mke2fs", *options, str(image)], check=True)
    write_cow(cow, image, PAGE_7)
    contents = describe(image).contents
    assert contents is not None
    assert contents.ext is not None
    assert (contents.kind.value, contents.ext.kind) == (kind, kind)
    facts = contents.ext
    assert (facts.label, facts.uuid, facts.clean, facts.has_errors) == ("black\\tdance", identity, True, False)
    assert (facts.size_bytes, facts.block_bytes, facts.inodes) == (32 << 20, 4096, 256)
    assert facts.created is not None
    assert facts.created.endswith("+00:00")
    assert describe(cow).contents == contents


@needs("mkswap")
def test_swap(tmp_path: Path) -> None:
    image = write_image(tmp_path / "swap_fs", bytes(1 << 20))
    subprocess.run(["mkswap", "-q", "-L", "night", str(image)], check=True)
    contents = describe(image).contents
    assert contents is not None
    assert contents.swap is not None
    assert (contents.kind, contents.swap.label, contents.swap.pages) == (ImageKind.SWAP, "night", 256)


@pytest.mark.parametrize(
    ("contents", "kind"), [(b"", ImageKind.EMPTY), (bytes(SIZE), ImageKind.BLANK), (b"?" * SIZE, ImageKind.UNKNOWN)]
)
def test_other_images(tmp_path: Path, contents: bytes, kind: ImageKind) -> None:
    image = write_image(tmp_path / "image", contents)
    found = describe(image)
    assert (found.kind, found.cow, found.file_bytes) == (kind, None, len(contents))


def test_what_cannot_be_described(tmp_path: Path) -> None:
    (tmp_path / "damaged").write_bytes(b"OOOM" + bytes(5000))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError):
        describe(tmp_path / "damaged")
    for name in ("fifo", "missing", "."):
        with pytest.raises(NoInputError):
            describe(tmp_path / name)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_all_of_a_cow_file(tmp_path: Path, capsys: Captured) -> None:
    cow, backing, _header = pair(tmp_path)
    assert main(["info", str(cow)]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"{cow}: COW file, version 3 (v3)"
    shown = dict(line.strip().split("  ", 1) for line in rest)
    texts = {key: text.strip() for key, text in shown.items()}
    assert texts["disk size"] == "1 MiB (1048576 bytes), 2048 sectors of 512 bytes"
    assert texts["changed"] == "8 sectors, 4 KiB (4096 bytes) (0.4%)"
    assert (texts["backing file"], texts["its state"]) == (str(backing), "fits")
    assert (texts["bitmap"], texts["data"]) == ("256 bytes at byte 8192", "at byte 12288")
    assert (texts["alignment"], texts["contents"]) == ("4096 bytes", "unknown")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("backing-missing", "its state missing: cannot open: No such file or directory"),
        ("backing-size", "its size 1 MiB (1049088 bytes)"),
        ("relative-backing", "looked for at "),
        ("stacked", "stands on COW "),
        ("merged", "merge merged, nothing written since"),
        ("tail-sectors", "no bits for the last 7 sectors"),
        ("ambiguous-dialect", "or else version 2, 64-bit layout (v2-64)"),
        ("unfinished-merge", "unfinished a merge of "),
    ],
)
def test_the_command_shows_what_is_special(tmp_path: Path, capsys: Captured, code: str, line: str) -> None:
    assert main(["info", str(MAKERS[code][0](tmp_path))]) == 0
    assert line in squeezed(capsys.readouterr().out)


def test_several_files_of_which_some_cannot_be_described(tmp_path: Path, capsys: Captured) -> None:
    cow, backing, _header = pair(tmp_path)
    (tmp_path / "damaged").write_bytes(b"OOOM" + bytes(5000))
    words = [str(tmp_path / "damaged"), str(cow), str(tmp_path / "missing"), str(backing)]
    assert main(["info", *words]) == 66
    captured = capsys.readouterr()
    assert [line.partition(":")[0] for line in captured.out.splitlines() if line.startswith("/")] == [
        words[1],
        words[3],
    ]
    assert [line[:15] for line in captured.err.splitlines() if "error" in line] == ["umldisk: error:"] * 2
    assert "damaged" in captured.err
    assert "missing" in captured.err


def test_json_has_one_object_a_file(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    blank = write_image(tmp_path / "blank_fs", bytes(SIZE))
    assert main(["info", "--json", str(cow), str(blank)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["kind"], first["cow"]["dialect"], first["cow"]["changed_sectors"]) == ("cow", "v3", 8)
    assert first["cow"]["backing"]["state"] == "fits"
    assert first["cow"]["geometry"]["data_offset"] == 12288
    assert (second["kind"], second["cow"], second["file_bytes"]) == ("blank", None, SIZE)


def test_a_user_is_shown(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, _header = pair(tmp_path)
    with held(cow, "write", "umid=blackdance") as pid:
        assert main(["info", str(cow)]) == 0
    assert f"in use by PID {pid}, umid blackdance, for writing" in squeezed(capsys.readouterr().out)


@needs("mke2fs", "mkswap")
def test_file_systems_are_shown(tmp_path: Path, capsys: Captured) -> None:
    ext, swap = (write_image(tmp_path / name, bytes(8 << 20)) for name in ("home_fs", "swap_fs"))
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "home", str(ext)], check=True)
    subprocess.run(["mkswap", "-q", "-L", "night", str(swap)], check=True)
    assert main(["info", str(ext), str(swap)]) == 0
    text = squeezed(capsys.readouterr().out)
    assert f"{ext}: ext4 file system" in text
    assert f"\n\n{swap}: Linux swap" in text
    for line in ("label home", "state clean", "in blocks of 4096 bytes", "label night"):
        assert line in text


def test_names_of_any_bytes_are_shown_safely(tmp_path: Path, capsys: Captured) -> None:
    cow, _backing, header = pair(tmp_path)
    patch(cow, 0, headers.rewrite(header, backing_path=b"/a\x1b[31m\xff").raw)
    assert main(["info", str(cow)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "/a\\x1b[31m\\xff" in text
    other = base(tmp_path, name="elsewhere")
    assert main(["info", "-b", str(other), "--dialect", "v3", str(cow)]) == 0
    assert f"looked for at {other}" in squeezed(capsys.readouterr().out)


def test_a_journal_for_a_merge_elsewhere_is_told_all_the_same(tmp_path: Path) -> None:
    cow, backing, _header = pair(tmp_path)
    journals.write(str(backing), MergeJournal("/gone", 1, SIZE, 5, reset=False))
    assert describe(cow).unfinished == (f"a merge of /gone into {backing}",)
