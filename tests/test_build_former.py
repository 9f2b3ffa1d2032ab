"""What of a former set of disks is kept: decided from names and what is known of them."""

import json

import pytest

from umldisk.build.former import FormerDisk, from_layout, from_manifest, is_disk, is_part, replaceable
from umldisk.image.drives import DRIVES, SWAP, TMP, Drive

_FIVE = ["root_fs", "var_fs", "home_fs", "tmp_fs", "swap_fs"]
_LAYOUT = from_layout(DRIVES)
_MANIFEST = "manifest.json"


def _row(file: str, cow: str | None, **facts: object) -> dict[str, object]:
    return {"name": file.removesuffix("_fs"), "file": file, "cow": cow, **facts}


def _manifest(*rows: object, files: int = 0) -> bytes:
    listing = [{"path": f"/{number}", "drive": "root"} for number in range(files)]
    return json.dumps({"format": 1, "drives": list(rows), "files": listing}, indent=1).encode()


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        (_FIVE, {*_FIVE}),
        ([*_FIVE, _MANIFEST], {*_FIVE, _MANIFEST}),
        ([*_FIVE, _MANIFEST, "root_cow"], {*_FIVE} - {"root_fs"}),
        (["root_cow", "swap_fs"], set()),  # its base is somewhere else: who knows what for
        ([*_FIVE, "test_cow"], set()),
        ([*_FIVE, "srv_fs", _MANIFEST], {*_FIVE}),
        ([*_FIVE, "srv_fs", "srv_cow"], {*_FIVE}),
        ([*_FIVE, "tmp_cow"], {*_FIVE} - {"tmp_fs"}),
        ([*_FIVE, "var_fs.umldisk-journal"], {*_FIVE} - {"var_fs"}),
        ([_MANIFEST], {_MANIFEST}),
        ([], set()),
    ],
)
def test_what_nobody_needs_by_the_present_layout(names: list[str], dropped: set[str]) -> None:
    found = replaceable(names, _LAYOUT)
    assert set(found) == dropped
    assert len(found) == len(dropped)


def test_the_manifest_goes_last() -> None:
    assert replaceable([_MANIFEST, *_FIVE], _LAYOUT)[-1] == _MANIFEST


def test_a_disk_that_the_guest_wrote_itself_is_its_work() -> None:
    plain = Drive("srv", 5, "/srv", copy_on_write=False)
    assert replaceable(["srv_fs", _MANIFEST], from_layout([plain])) == []
    base = Drive("srv", 5, "/srv")
    assert replaceable(["srv_fs"], from_layout([base])) == ["srv_fs"]


def test_the_former_manifest_knows_better_than_the_present_layout() -> None:
    was_plain = from_manifest(_manifest(_row("var_fs", None, mount="/var", filesystem="ext4")))
    assert replaceable(["var_fs"], _LAYOUT | was_plain) == []
    was_scratch = from_manifest(_manifest(_row("old_fs", None, mount="/tmp"), _row("s_fs", None, filesystem="swap")))
    assert replaceable(["old_fs", "s_fs"], _LAYOUT | was_scratch) == ["old_fs", "s_fs"]
    other_name = from_manifest(_manifest(_row("var_fs", "changes_cow", mount="/var")))
    assert replaceable(["var_fs", "changes_cow", "tmp_fs"], _LAYOUT | other_name) == ["tmp_fs"]


def test_the_drives_are_found_in_the_first_part_of_a_long_manifest() -> None:
    text = _manifest(_row("root_fs", "root_cow", mount="/"), _row("swap_fs", None, filesystem="swap"), files=2000)
    expected = {"root_fs": FormerDisk("root_cow", False), "swap_fs": FormerDisk(None, True)}
    assert from_manifest(text[:1000]) == from_manifest(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"\xff\xfe",
        b'{"drives"',
        b'{"drives": 7}',
        b'{"drives": [7, null, [], {"file": 3}, {}]}',
        b'{"drives": [{"file": "root_fs"',
        b'{"drives": ' + b"[" * 100_000,
        b'["no drives"]',
    ],
)
def test_a_manifest_that_makes_no_sense_says_nothing(text: bytes) -> None:
    assert from_manifest(text) == {}


def test_what_belongs_to_a_set() -> None:
    disks = {"root_fs", "srv_cow", "a_b_fs"}
    others = {_MANIFEST, "root_fs.umldisk-journal", "root_cow.umldisk-journal"}
    foreign = {"notes", ".root_fs", ".lock", "replaced-1", "rootfs", "root_fs.bak", "x.umldisk-journal", "manifest"}
    assert {name for name in disks | others | foreign if is_part(name)} == disks | others
    assert {name for name in disks | others | foreign if is_disk(name)} == disks


def test_the_layout_says_what_is_thrown_away() -> None:
    assert {file for file, disk in _LAYOUT.items() if disk.is_scratch} == {TMP.file_name, SWAP.file_name}
    assert {file: disk.cow for file, disk in _LAYOUT.items() if disk.cow} == {
        f"{name}_fs": f"{name}_cow" for name in ("root", "var", "home")
    }
