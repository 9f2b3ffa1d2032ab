"""Golden trees: what rendering gives, kept as files that can be read and reviewed.

    tests/golden/CASE/tree.txt       one line an entry: type and mode, owner, path, and where a link leads
    tests/golden/CASE/etc/fstab      the contents, each file under its own path

A difference fails the test with a unified diff of all that differs. When it is intended, write the trees anew and
review the change with git diff:

    UMLDISK_RENEW_GOLDEN=1 pytest tests/test_build_files_golden.py
"""

import difflib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from umldisk.build.tree import Entry, FileType

_HERE = Path(__file__).parent
_LISTING = "tree.txt"
RENEWING = bool(os.environ.get("UMLDISK_RENEW_GOLDEN"))


def check_golden(case: str, entries: Iterable[Entry]) -> None:
    """Compare `entries` with the golden tree of `case`, or make them the golden tree when renewing."""
    texts = _texts(list(entries))
    directory = _HERE / case
    if RENEWING:
        _write(directory, texts)
    difference = list(_differences(_read(directory), texts))
    if difference:
        pytest.fail(f"{case} differs from its golden tree:\n" + "\n".join(difference), pytrace=False)


def _texts(entries: list[Entry]) -> dict[str, str]:
    """Return every file's text by its relative path, the listing among them."""
    texts = {_LISTING: "".join(f"{_describe(entry)}\n" for entry in sorted(entries, key=lambda entry: entry.path))}
    for entry in entries:
        if entry.inode.type is FileType.FILE:
            texts[entry.path.lstrip("/")] = b"".join(data for _, data in entry.inode.contents.pieces()).decode()
    return texts


def _describe(entry: Entry) -> str:
    inode = entry.inode
    head = f"{inode.type.name.lower():9} {inode.mode:04o} {inode.uid}:{inode.gid} {entry.path}"
    return f"{head} -> {inode.target}" if inode.type is FileType.SYMLINK else head


def _read(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def _write(directory: Path, texts: dict[str, str]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _differences(golden: dict[str, str], found: dict[str, str]) -> Iterable[str]:
    for name in sorted(golden.keys() | found.keys()):
        before, after = golden.get(name, "").splitlines(), found.get(name, "").splitlines()
        labels = [
            f"{label}/{name}" if name in side else "no such file"
            for label, side in (("golden", golden), ("rendered", found))
        ]
        if name not in golden or name not in found:
            yield f"--- {labels[0]}\n+++ {labels[1]}"
        yield from difflib.unified_diff(before, after, labels[0], labels[1], lineterm="")
