"""The rule that finds a site."""

from pathlib import Path

import pytest

from umldisk.config.site import Site, find_site
from umldisk.errors import DataError, NoInputError, UsageError


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


@pytest.mark.parametrize("text", ["", "\n\n", "# only a remark\n  # and another\n"])
def test_a_file_without_settings_is_fine(text: str, tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text(text)
    assert _find(tmp_path) == str(tmp_path)


@pytest.mark.parametrize("text", ["[guest.x]\n", "x = 1", "garbage", "\n  size = '1G' # big\n"])
def test_settings_are_not_passed_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").write_text(text)
    for given in (None, str(tmp_path)):
        with pytest.raises(DataError, match="reads no configuration"):
            _find(tmp_path, given)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "umldisk.toml").mkdir()
    with pytest.raises(NoInputError):
        _find(tmp_path, str(tmp_path))


def test_guests_live_below_the_site() -> None:
    guest = Site("/s").guest("mirage")
    assert guest.directory == "/s/guests/mirage"
    with pytest.raises(UsageError):
        Site("/s").guest("../mirage")
