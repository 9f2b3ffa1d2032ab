"""Sites on other file systems than the tests' own: a guest is built there, and everything is tidied away."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.peers import mounted, needs, require
from tests.kit.sites import NAME, BuiltSite
from umldisk.system.swapping import open_directory

pytestmark = needs("root", "mke2fs", "busybox")


@pytest.fixture(params=["btrfs", "xfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    require(request.param)
    with mounted(request.param, tmp_path) as point:
        yield point


def test_a_tree_with_many_directories_is_cleared(place: Path) -> None:
    for number in range(40):
        deep = place / "tree" / str(number) / "a" / "b"
        deep.mkdir(parents=True)
        (deep / "file").write_bytes(b"x")
    with open_directory(str(place)) as directory:
        directory.clear("tree")
    assert "tree" not in os.listdir(place)


def test_a_guest_is_built_and_checked(place: Path) -> None:
    site = BuiltSite(place).build()
    assert site("build", "--check", NAME).code == 0
    site.build(site.directory.joinpath("umldisk.toml").read_text(), "--force")
    assert not [name for name in os.listdir(site.guest) if name.startswith(".build")]
