"""The five drives and their kernel arguments."""

import dataclasses

import pytest

from umldisk.errors import DataError
from umldisk.image.drives import DRIVES, ROOT, SWAP, TMP, VAR, drive_uuid, ubd_argument


def test_the_default_layout() -> None:
    rows = [(d.ubd, d.device, d.file_name, d.cow_name, d.mount_point) for d in DRIVES]
    assert rows == [
        (0, "/dev/ubda", "root_fs", "root_cow", "/"),
        (1, "/dev/ubdb", "var_fs", "var_cow", "/var"),
        (2, "/dev/ubdc", "home_fs", "home_cow", "/home"),
        (3, "/dev/ubdd", "tmp_fs", None, "/tmp"),
        (4, "/dev/ubde", "swap_fs", None, None),
    ]
    assert [drive.size_bytes >> 20 for drive in DRIVES] == [1024, 1024, 1024, 1024, 256]
    assert TMP.mount_mode == 0o1777


def test_drives_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROOT.ubd = 7  # type: ignore[misc]
    assert dataclasses.replace(ROOT) == ROOT


def test_a_drive_is_attached_with_its_cow_first() -> None:
    assert ubd_argument(VAR, "/g") == "ubd1=/g/var_cow,/g/var_fs"
    assert ubd_argument(SWAP, "/g") == "ubd4=/g/swap_fs"


@pytest.mark.parametrize("path", ["/a,b", "/a:b", "/a b", "/a\tb", "/a\nb"])
def test_paths_that_the_option_cannot_carry_are_refused(path: str) -> None:
    with pytest.raises(DataError) as refused:
        ubd_argument(ROOT, path)
    assert refused.value.hint


def test_uuids_depend_on_guest_and_drive_alone() -> None:
    names = ("blackdance", "mirage")
    uuids = {drive_uuid(name, drive) for name in names for drive in DRIVES}
    assert len(uuids) == 10
    bigger = dataclasses.replace(VAR, size_bytes=1)
    assert drive_uuid("mirage", bigger) == drive_uuid("mirage", VAR)
