"""The rule that finds a site."""

from pathlib import Path

import pytest

from umldisk.config.guest import Guest
from umldisk.config.site import Site, find_site
from umldisk.errors import DataError, StorageError, UsageError


def _find(cwd: Path, given: str | None = None, *, root: bool = False, home: str = "/home/x", **environ: str) -> str:
    site = find_site(given, environ=environ, cwd=str(cwd), is_root=root, home=home)
    return site.directory


def test_the_argument_comes_first(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").touch()
    assert _find(tmp_path, "/given", UMLDISK_SITE="/env") == "/given"
    assert _find(tmp_path, "sub/../other") == str(tmp_path / "other")


def test_then_the_environment(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").touch()
    assert _find(tmp_path, UMLDISK_SITE="/env") == "/env"
    assert _find(tmp_path, UMLDISK_SITE="rel") == str(tmp_path / "rel")
    assert _find(tmp_path, UMLDISK_SITE="") == str(tmp_path)


def test_then_the_nearest_file_upwards(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "umldisk.toml").touch()
    (tmp_path / "a" / "umldisk.toml").touch()
    (deep / "umldisk.toml").mkdir()
    assert _find(deep) == str(tmp_path / "a")
    assert _find(tmp_path) == str(tmp_path)


def test_then_the_users_own(tmp_path: Path) -> None:
    assert _find(tmp_path, root=True) == "/var/uml"
    assert _find(tmp_path) == "/home/x/.local/share/umldisk"
    assert _find(tmp_path, XDG_DATA_HOME="/data") == "/data/umldisk"
    assert _find(tmp_path, XDG_DATA_HOME="data") == "/home/x/.local/share/umldisk"


def test_an_empty_argument_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        _find(tmp_path, "")


def test_finding_a_site_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text("garbage")
    assert _find(tmp_path) == str(tmp_path)


def test_the_file_is_read_once_and_when_a_guest_is_asked_for(tmp_path: Path) -> None:
    site = Site(str(tmp_path))
    assert site.guest("x") == Guest("x", f"{tmp_path}/guests/x")
    (tmp_path / "umldisk.toml").write_text("[guest.x]\nmemory = '128M'\n")
    assert site.guest("x").memory == "128M"
    (tmp_path / "umldisk.toml").write_text("garbage")
    assert site.guest("y").start_memory == "64M"
    with pytest.raises(DataError, match="an error of syntax"):
        Site(str(tmp_path)).guest("x")


def test_a_guests_directory_is_below_the_site_with_and_without_a_table(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text("[guest.x]\n")
    site = Site(str(tmp_path))
    assert [site.guest(name).directory for name in "xy"] == [f"{tmp_path}/guests/{name}" for name in "xy"]
    with pytest.raises(UsageError):
        site.guest("../x")


def test_the_guests_are_those_with_a_table_and_those_with_a_directory(tmp_path: Path) -> None:
    assert Site(str(tmp_path)).guest_names() == ()
    for name in ("zeta", "alpha", "both", ".building", "no_name"):
        (tmp_path / "guests" / name).mkdir(parents=True)
    (tmp_path / "guests" / "file").touch()
    (tmp_path / "umldisk.toml").write_text("[guest.tabled]\n[guest.both]\n")
    assert Site(str(tmp_path)).guest_names() == ("tabled", "both", "alpha", "zeta")


def test_guests_that_cannot_be_listed_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "guests").symlink_to("guests")
    with pytest.raises(StorageError, match="cannot list"):
        Site(str(tmp_path)).guest_names()


def test_sites_are_compared_by_their_directory(tmp_path: Path) -> None:
    site = Site(str(tmp_path))
    assert site.configuration.guests == {}
    assert site == Site(str(tmp_path))
    assert hash(site) == hash(Site(str(tmp_path)))
    assert repr(site) == f"Site(directory={str(tmp_path)!r})"


def test_guests_live_below_the_site() -> None:
    guest = Site("/s").guest("mirage")
    assert guest.directory == "/s/guests/mirage"
    with pytest.raises(UsageError):
        Site("/s").guest("../mirage")
