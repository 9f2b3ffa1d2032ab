"""Everything that is rendered, case by case, against trees that are kept (tests/golden/trees.py says how to renew)."""

import builtins
import os
import socket
import time
from pathlib import Path
from typing import NoReturn

import pytest

from tests.golden import trees
from tests.golden.cases import CASES
from umldisk.build.files.render import guest_entries
from umldisk.build.tree import Entry, FileType, lay_over, plant, symlink

_TIME_NS = 1_038_650_646_123_456_789


def _rendered(case: str) -> list[Entry]:
    guest, facts = CASES[case]
    return guest_entries(guest, facts, mtime_ns=_TIME_NS)


@pytest.mark.parametrize("case", CASES)
def test_rendering_gives_the_golden_tree(case: str) -> None:
    trees.check_golden(case, _rendered(case))


def test_every_golden_tree_has_its_case() -> None:
    kept = {path.name for path in Path(trees.__file__).parent.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert kept == set(CASES)


def test_a_difference_is_shown_as_a_diff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "RENEWING", False)
    changed = [e for e in _rendered("busybox") if e.path not in ("/etc/hostname", "/etc/shells")]
    changed.append(symlink("/etc/shells", "/etc/passwd"))
    with pytest.raises(pytest.fail.Exception) as failed:
        trees.check_golden("busybox", changed)
    shown = str(failed.value).splitlines()
    assert {"-file      0644 0:0 /etc/hostname", "-blackdance", "--- golden/etc/hostname"} <= set(shown)
    assert "+symlink   0777 0:0 /etc/shells -> /etc/passwd" in shown


@pytest.mark.parametrize("case", CASES)
def test_every_inode_has_the_given_time_and_every_path_comes_once(case: str) -> None:
    entries = _rendered(case)
    assert {entry.inode.mtime_ns for entry in entries} == {_TIME_NS}
    paths = [entry.path for entry in entries]
    assert sorted(set(paths)) == sorted(paths)


@pytest.mark.parametrize("case", CASES)
def test_the_same_guest_gives_the_same_entries(case: str) -> None:
    again = [[(e.path, e.inode.inode_mode, e.inode.target, e.inode.contents) for e in _rendered(case)] for _ in "12"]
    assert again[0] == again[1]


@pytest.mark.parametrize("case", CASES)
def test_rendering_asks_nothing_of_the_builder(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("rendering is pure")

    for module, name in ((builtins, "open"), (os, "open"), (os, "stat"), (time, "time"), (time, "time_ns")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(socket, "gethostname", refuse)
    entries = _rendered(case)
    monkeypatch.undo()
    text = b"".join(data for entry in entries for _, data in entry.inode.contents.pieces())
    assert b"/site" not in text


@pytest.mark.parametrize("case", CASES)
def test_the_entries_can_be_laid_over_a_base(case: str) -> None:
    tree = lay_over(plant({}, [symlink("/sbin", "usr/sbin"), symlink("/var/run", "/run")]), _rendered(case))
    assert tree["/etc/fstab"].type is FileType.FILE
