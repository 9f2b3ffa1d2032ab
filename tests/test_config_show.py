"""What `config show` prints is TOML that gives the same settings again."""

import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from umldisk.config.effective import Origin
from umldisk.config.guest import Guest
from umldisk.config.load import parse_configuration
from umldisk.config.problems import toml_text
from umldisk.config.schema import KEYS, documented_keys, size_text
from umldisk.config.show import default_lines, guest_lines, show_guests, show_keys, to_toml
from umldisk.config.site import Site
from umldisk.config.values import LARGEST_DRIVE_BYTES, parse_size

ROOT = Path(__file__).parents[1]


def site_of(directory: Path, text: str) -> Site:
    (directory / "umldisk.toml").write_text(text)
    return Site(str(directory))


def assert_round_trip(site: Site) -> None:
    """Print all guests, read that as the site's file, and compare the guests."""
    names = site.guest_names()
    printed = "\n".join(line for shown in show_guests(site, names) for line in guest_lines(shown))
    again = parse_configuration(printed, path=site.config_path)
    assert tuple(again.guests) == names
    for name in names:
        guest = site.guest(name)
        assert again.guest(name, guest.directory) == guest


def test_the_sample_site_comes_back() -> None:
    assert_round_trip(Site(str(ROOT / "fixtures/sites/zeit")))


def test_layouts_new_drives_and_odd_texts_come_back(tmp_path: Path) -> None:
    assert_round_trip(
        site_of(
            tmp_path,
            """
[defaults]
drives.left-out = { mount = "/l" }
[defaults.hosts]
"10.0.0.1" = ["one"]
[guest.a]
overlay = "a\\u00e9\\U0001F600 \\"q\\" \\\\ \\t#"
layout = ["root", "swap", "zz"]
drives.zz = { mount = "/z", fs = "ext2", size = "1028K" }
drives.s2 = { fs = "swap" }
modules = ["a", "b"]
[guest.1-0]
modules = false
console_login = true
apt_sources = []
""",
        )
    )


@st.composite
def sites(draw: st.DrawFn) -> str:
    """Draw a umldisk.toml without problems."""
    pieces = {
        "memory": st.sampled_from(["64M", "1G"]),
        "base": st.sampled_from(["busybox", "debian:sid", "x.tar", "./a b"]),
        "user": st.sampled_from(["web", "mail"]),
        "store": st.sampled_from(["nights", "/srv/store", "s3://nights/zeit"]),
        "modules": st.sampled_from([True, False, ["loop"]]),
        "console_login": st.booleans(),
        "consoles": st.sampled_from([["tty1"], ["tty0", "ttyS0"]]),
        "layout": st.permutations(["var", "swap", "more"]).map(lambda rest: ["root", *rest]),
        "drives.more": st.just({"mount": "/more"}),
        "drives.var.size": st.sampled_from(["8M", "12345344"]),
        "drives.home.fs": st.sampled_from(["ext2", "ext3"]),
        "drives.home.copy_on_write": st.booleans(),
        "bootstrap.init": st.sampled_from(["sysvinit", "systemd"]),
        "network.search": st.sampled_from([[], ["a.b", "c"]]),
        'hosts."10.0.0.1"': st.sampled_from([["a"], ["b", "c"]]),
    }
    text = ""
    for table in ("defaults", "guest.a", "guest.b"):
        text += f"[{table}]\n"
        chosen = set(draw(st.lists(st.sampled_from(list(pieces)), unique=True, max_size=6)))
        if "layout" in chosen:
            chosen.add("drives.more")
        text += "".join(f"{key} = {to_toml(draw(pieces[key]))}\n" for key in pieces if key in chosen)
    return text


@settings(max_examples=100, deadline=None)
@given(sites())
def test_any_settings_come_back(text: str) -> None:
    before = parse_configuration(text, path="/s/umldisk.toml")
    site = Site("/s")
    site.__dict__["configuration"] = before
    printed = "\n".join(line for shown in show_guests(site, before.guests) for line in guest_lines(shown))
    again = parse_configuration(printed, path="/s/umldisk.toml")
    for name in ("a", "b"):
        assert again.guest(name, "/d") == before.guest(name, "/d")
    assert printed.isascii()


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    site = site_of(tmp_path, '[defaults]\nmemory = "128M"\ndrives.var.size = "2G"\n\n[guest.x]\nuser = "web"\n')
    (shown,) = show_guests(site, ["x"])
    origins = {setting.key: (setting.value, setting.origin, setting.line) for setting in shown.settings}
    assert origins["memory"] == ("128M", Origin.DEFAULTS_TABLE, 2)
    assert origins["drives.var.size"] == ("2G", Origin.DEFAULTS_TABLE, 3)
    assert origins["user"] == ("web", Origin.GUEST_TABLE, 6)
    assert origins["base"] == ("busybox", Origin.DEFAULT, None)
    assert "overlay" not in origins
    lines = list(guest_lines(shown))
    assert 'memory = "128M"  # [defaults], line 2' in lines
    assert 'user = "web"  # guest, line 6' in lines
    assert 'base = "busybox"  # default' in lines


def test_a_guest_without_a_table_has_the_defaults(tmp_path: Path) -> None:
    (shown,) = show_guests(site_of(tmp_path, '[defaults]\nmemory = "128M"\n'), ["other"])
    assert {setting.origin for setting in shown.settings} == {Origin.DEFAULT, Origin.DEFAULTS_TABLE}


def test_the_defaults_that_are_printed_are_those_without_a_file() -> None:
    text = "\n".join(default_lines())
    assert parse_configuration(text, path="/s/umldisk.toml").guest("x", "/d") == Guest("x", "/d")
    tables = tomllib.loads(text)["defaults"]
    assert set(tables["drives"]) == {"root", "var", "home", "tmp", "swap"}
    for key in KEYS:
        assert key.path[0] in ("drives", "hosts") or f"{key.path[-1]} = " in text or f"# {key.path[-1]}: " in text


def test_every_key_is_shown_with_a_default_or_what_is_without_it() -> None:
    shown = show_keys()
    assert [key.key for key in shown] == [key for key in documented_keys() if "[]" not in key]
    assert all((key.default is None) == (key.without is not None) for key in shown)
    assert all(key.expected and key.meaning for key in shown)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    written = toml_text(text)
    assert tomllib.loads(f"a = {written}") == {"a": text}
    assert written.isascii()


@given(
    st.recursive(
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_any_value_comes_back(value: object) -> None:
    assert tomllib.loads(f"a = {to_toml(value)}") == {"a": value}


@given(st.integers(0, LARGEST_DRIVE_BYTES))
def test_sizes_come_back(size_bytes: int) -> None:
    assert parse_size(size_text(size_bytes)) == size_bytes
