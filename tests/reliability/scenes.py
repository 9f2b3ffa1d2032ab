"""Commands that write, each with the small files it works on and what has to be true of them afterwards.

    base      a disk image of 24 KiB, with a hole
    cow       over base: single sectors, a page of new data, a cleared one, a sector of zeros
    sibling   another COW file over base, for the merge that keeps it
    other     an image that differs from base, copy one that does not
    old       something that an output may take the place of

A scene promises three things of its command, whenever it is stopped: what guests see through the COW files
stays the same; the inputs stay the same to the byte; and the same command again completes it.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.kit import model
from tests.kit.faults import Syscall, syscalls_of, umldisk
from umldisk.cli.main import main
from umldisk.cow import journal
from umldisk.cow.dialect import Dialect
from umldisk.cow.file import CowFile
from umldisk.errors import DataError


def _sector(word: bytes) -> bytes:
    return (word * 512)[:512]


BASE = b"".join(_sector(b"base sector %d " % n if n // 8 != 1 else b"\0") for n in range(48))
OTHER = model.merged(BASE, dict.fromkeys((2, 12, 34), _sector(b"other ")))
CHANGES: dict[int, bytes | None] = {
    1: _sector(b"changed "),
    2: bytes(512),
    6: None,
    **dict.fromkeys(range(8, 16), _sector(b"written ")),
    **dict.fromkeys(range(16, 24)),
    33: None,
    47: _sector(b"at the end "),
}
SIBLING_CHANGES: dict[int, bytes | None] = dict.fromkeys((0, 9), _sector(b"sibling "))
VIEW = model.merged(BASE, CHANGES)
SIBLING_VIEW = model.merged(BASE, SIBLING_CHANGES)
BASE_MTIME = 1_000_000_000

Judge = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Scene:
    """A command over files in one directory; `words` that begin with @ are names in it.

    `output` is new, or takes the place of a file. The files in `changes` are changed in place, all others never.
    `judge` looks at the result. `alone` leaves the sibling out.
    """

    name: str
    words: tuple[str, ...]
    judge: Judge
    output: str | None = None
    changes: tuple[str, ...] = ()
    alone: bool = False
    dialect: Dialect = Dialect.V3

    def command(self, directory: Path) -> list[str]:
        """Return the words of the command line."""
        return [str(directory / word[1:]) if word.startswith("@") else word for word in self.words]

    def names(self) -> set[str]:
        """Return the names of the files that are there at the start."""
        return {"base", "copy", "other", "old", "cow"} | (set() if self.alone else {"sibling"})

    def prepare(self, directory: Path) -> None:
        """Write the files."""
        directory.mkdir()
        for name, contents in {"base": BASE, "copy": BASE, "other": OTHER, "old": b"old"}.items():
            os.utime(model.write_image(directory / name, contents), (0, BASE_MTIME))
        model.write_cow(directory / "cow", directory / "base", CHANGES, dialect=self.dialect)
        if not self.alone:
            model.write_cow(directory / "sibling", directory / "base", SIBLING_CHANGES)

    def prepare_again(self, directory: Path) -> None:
        """Write the files anew."""
        shutil.rmtree(directory, ignore_errors=True)
        self.prepare(directory)

    def calls(self, directory: Path, environment: dict[str, str]) -> list[Syscall]:
        """Run the command as a process; return the system calls by which it changes files, in order."""
        self.prepare_again(directory)
        assert umldisk(*self.command(directory), environment=environment).returncode == 0
        self.prepare_again(directory)
        calls = syscalls_of(self.command(directory), below=directory, environment=environment)
        self.check_done(directory)
        return calls

    def check_between(self, directory: Path, before: Mapping[str, bytes]) -> None:
        """Judge the files while the command may be half done: nothing is lost, and the state has a name."""
        for name in self.names() - {self.output, *self.changes}:
            assert fingerprint(directory / name) == before[name], f"{name} changed"
        if self.output is not None and fingerprint(directory / self.output) != before.get(self.output, b""):
            self.judge(directory)
        journals = {path.name for path in directory.iterdir() if path.name.endswith(journal.SUFFIX)}
        assert view_of(directory / "cow") == VIEW
        if not self.alone:
            check_sibling(directory, unfinished=f"base{journal.SUFFIX}" in journals)
        check_named(directory, journals)

    def check_done(self, directory: Path) -> None:
        """Judge the finished result, and that nothing else was left behind."""
        outputs = {self.output} if self.output is not None else set()
        assert {path.name for path in directory.iterdir()} == self.names() | outputs
        assert view_of(directory / "cow") == VIEW
        if not self.alone:
            assert view_of(directory / "sibling") == SIBLING_VIEW
        self.judge(directory)

    def run_again(self, directory: Path) -> None:
        """Give the same command once more; it completes, or refuses to write what is there already and right."""
        refusal = self.output is not None and "--force" not in self.words and (directory / self.output).exists()
        code, _out, err = run(self.command(directory))
        assert code == (73 if refusal else 0), err
        self.check_done(directory)


def check_sibling(directory: Path, *, unfinished: bool) -> None:
    """The sibling shows what it did, or is refused until the merge that keeps it is finished."""
    refusal = None
    try:
        assert view_of(directory / "sibling") == SIBLING_VIEW
    except DataError as error:
        refusal = error
    if refusal is not None:
        assert unfinished
        assert f"umldisk merge -d {directory / 'cow'}" in str(refusal.hint)


def fingerprint(path: Path) -> bytes:
    """Return the contents and the time of change of a file, nothing when it is not there."""
    if not path.exists():
        return b""
    return path.read_bytes() + b"%d" % path.stat().st_mtime_ns


def fingerprints(directory: Path) -> dict[str, bytes]:
    """Return the fingerprints of all files."""
    return {path.name: fingerprint(path) for path in directory.iterdir()}


def view_of(cow: Path) -> bytes:
    """Return what umldisk shows through a COW file."""
    with CowFile.open(cow) as file:
        return file.read(0, file.size_bytes)


def run(words: list[str]) -> tuple[int, str, str]:
    """Run umldisk in this process; return its exit code and what it wrote on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def findings_of(cow: Path) -> set[str]:
    """Return the codes that `check` finds on a COW file."""
    code, out, err = run(["check", "--json", str(cow)])
    assert code in (0, 1), err
    report = json.loads(out)
    reports = report if isinstance(report, list) else [report]
    return {finding["code"] for one in reports for finding in one["findings"]}


def check_named(directory: Path, journals: set[str]) -> None:
    """An interrupted change is named by `check` and by `info`."""
    expected = {
        f"base{journal.SUFFIX}": ("cow", "unfinished-merge"),
        f"cow{journal.SUFFIX}": ("cow", "unfinished-header"),
        f"sibling{journal.SUFFIX}": ("sibling", "unfinished-header"),
    }
    for name in journals:
        cow, code = expected[name]
        assert code in findings_of(directory / cow)
        status, out, err = run(["info", str(directory / cow)])
        assert status == 0, err
        assert "unfinished" in out


# -- what results have to be ----------------------------------------------------------------------


def image_is_merged(name: str) -> Judge:
    def judge(directory: Path) -> None:
        assert (directory / name).read_bytes() == VIEW
        assert (directory / name).stat().st_mode == (directory / "base").stat().st_mode

    return judge


def base_is_merged(directory: Path) -> None:
    assert (directory / "base").read_bytes() == VIEW
    assert "backing-mtime" not in findings_of(directory / "cow")
    assert "merged" in findings_of(directory / "cow")


def base_is_merged_and_cow_empty(directory: Path) -> None:
    assert (directory / "base").read_bytes() == VIEW
    header, changes = model.read_cow(directory / "cow")
    assert changes == {}
    assert (directory / "cow").stat().st_size == header.geometry.file_bytes
    assert header.mtime == (directory / "base").stat().st_mtime_ns // 1_000_000_000


def pages_are_whole(directory: Path) -> None:
    header, changes = model.read_cow(directory / "cow")
    assert changes.keys() == model.filled(CHANGES.keys(), len(BASE))
    assert model.merged(BASE, changes) == VIEW
    assert "mixed-pages" not in findings_of(directory / "cow")
    assert os.fsdecode(header.backing_path) == str(directory / "base")


def stands_on(name: str, contents: bytes) -> Judge:
    def judge(directory: Path) -> None:
        header, changes = model.read_cow(directory / "cow")
        assert os.fsdecode(header.backing_path) == str(directory / name)
        assert header.mtime == BASE_MTIME
        assert model.merged(contents, changes) == VIEW

    return judge


def is_empty_cow(name: str) -> Judge:
    def judge(directory: Path) -> None:
        header, changes = model.read_cow(directory / name)
        assert (os.fsdecode(header.backing_path), header.mtime) == (str(directory / "base"), BASE_MTIME)
        assert changes == {}
        assert view_of(directory / name) == BASE

    return judge


def is_difference(directory: Path) -> None:
    header, changes = model.read_cow(directory / "new")
    assert os.fsdecode(header.backing_path) == str(directory / "base")
    assert model.merged(BASE, changes) == OTHER
    assert changes.keys() == model.sectors_of(model.differing(BASE, OTHER, 4096), len(BASE))


_KEEP = ("merge", "-d", "--keep-siblings")
SCENES = [
    Scene("merge", ("merge", "@cow", "@new"), image_is_merged("new"), output="new"),
    Scene("merge-force", ("merge", "--force", "@cow", "@old"), image_is_merged("old"), output="old"),
    Scene("merge-in-place", ("merge", "-d", "@cow"), base_is_merged, changes=("base", "cow"), alone=True),
    Scene(
        "merge-reset",
        ("merge", "-d", "--reset", "@cow"),
        base_is_merged_and_cow_empty,
        changes=("base", "cow"),
        alone=True,
    ),
    Scene("merge-keep", (*_KEEP, "@cow"), base_is_merged, changes=("base", "cow", "sibling")),
    Scene(
        "merge-keep-reset",
        (*_KEEP, "--reset", "@cow"),
        base_is_merged_and_cow_empty,
        changes=("base", "cow", "sibling"),
    ),
    Scene("align", ("align", "@cow"), pages_are_whole, changes=("cow",)),
    Scene("rebase", ("rebase", "@cow", "@other"), stands_on("other", OTHER), changes=("cow",)),
    Scene("rename", ("rebase", "-u", "@cow", "@copy"), stands_on("copy", BASE), changes=("cow",)),
    Scene("create", ("create", "@new", "@base"), is_empty_cow("new"), output="new"),
    Scene("create-force", ("create", "--force", "@old", "@base"), is_empty_cow("old"), output="old"),
    Scene("diff", ("diff", "@base", "@other", "@new"), is_difference, output="new"),
]
